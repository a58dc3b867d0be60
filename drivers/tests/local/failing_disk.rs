//! A disk that is really full, or whose syncs fail: no process goes on with it, and what was
//! acknowledged before is there afterwards.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tsoracle_core::{ErrorKind, Phase, SeqKey, SeqRequest};

use crate::{
    actor::{self, Actor, block_on, oracle, say},
    for_each_driver,
};

for_each_driver! {
    at_the_limit_of_a_files_size
    on_a_full_file_system
    when_syncs_fail
}

fn request(group: u64) -> SeqRequest {
    let entries = (0..100).map(|key| (SeqKey::new(format!("{group} {key:0>100}")).unwrap(), 1));
    SeqRequest::new(entries.collect(), None).unwrap()
}

/// Uses ever more keys until that fails, which has to be for good. In the role `fail CONFIG` the
/// kernel refuses every sync before long, in the role `fill CONFIG` the disk is full some day.
pub(crate) async fn run(role: &[String]) {
    let oracle = oracle(&role[1]).await.unwrap();
    for group in 0.. {
        if role[0] == "fail" && group == 5 {
            refuse_syncs();
        }
        match oracle.get_seq(request(group)).await {
            Ok(_) => say(&format!("got {group}")),
            Err(error) if *error.kind() == ErrorKind::NotLeader(None) => {}
            Err(error) => {
                say(&format!("{:?}: {error:#}", error.kind()));
                break;
            }
        }
    }
    let mut phase = oracle.phase();
    phase.wait_for(|phase| matches!(phase, Phase::Failed(_))).await.unwrap();
    let error = oracle.get_seq(request(0)).await.unwrap_err();
    say(&format!("{:?}", error.kind()));
    oracle.shutdown().await.unwrap();
}

/// Has the kernel refuse to sync any file for this process, as it does when the disk fails.
fn refuse_syncs() {
    let calls = [libc::SYS_fsync, libc::SYS_fdatasync];
    let filter = SeccompFilter::new(
        calls.map(|call| (call, vec![])).into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EIO as u32),
        env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

fn check_child(config: &str, said: &[String]) -> u64 {
    let [acknowledged @ .., failed, after] = said else { panic!("{said:?}") };
    assert!(failed.starts_with("Uncertain: ") || failed.starts_with("Fatal: "), "{said:?}");
    let (_, path) = config.split_once(':').unwrap();
    assert!(failed.contains(&format!("{path}/state.")), "{failed}");
    assert_eq!(after, "Fatal");
    assert!(acknowledged.len() > 2, "{said:?}");
    acknowledged.len() as u64
}

/// Opens the state again, and looks for what was acknowledged.
async fn check_state(config: &str, acknowledged: u64) {
    let oracle = oracle(config).await.unwrap();
    for group in 0..acknowledged {
        for (key, _) in request(group).entries() {
            assert_eq!(oracle.read_seq(key.clone()).await.unwrap(), Some(1), "{key}");
        }
    }
    // The commit that failed is there whole, or not at all.
    let mut entries = Vec::new();
    for (key, _) in request(acknowledged).entries() {
        entries.push(oracle.read_seq(key.clone()).await.unwrap());
    }
    assert!(entries.iter().all(|next| *next == entries[0]), "{entries:?}");
    oracle.get_ts(1).await.unwrap();
    oracle.shutdown().await.unwrap();
}

/// The kernel refuses to let any file of the child grow beyond 2 MiB.
fn at_the_limit_of_a_files_size(driver: &str) {
    let directory = tempfile::tempdir().unwrap();
    let config = format!("{driver}:{}", directory.path().display());
    let mut command = Command::new("sh");
    // In units of 512 bytes; ignored, the signal leaves the write to fail.
    command.args(["-c", "trap '' XFSZ; ulimit -f 4096 && exec \"$@\"", "sh"]);
    command.arg(env::current_exe().unwrap()).args(["child", "--exact", "--nocapture"]);
    let said = Actor::run(command, &["fill", &config], "").finish();
    block_on(check_state(&config, check_child(&config, &said)));
}

fn when_syncs_fail(driver: &str) {
    let directory = tempfile::tempdir().unwrap();
    let config = format!("{driver}:{}", directory.path().display());
    let said = Actor::start(&["fail", &config], "").finish();
    let acknowledged = check_child(&config, &said);
    assert_eq!(acknowledged, 5, "{said:?}");
    block_on(check_state(&config, acknowledged));
}

/// A small file system of its own, or nothing where this process may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Path, megabytes: u64) -> Option<Self> {
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tsoracle-test"]).arg(place);
        let mounted = mount.status().is_ok_and(|status| status.success());
        mounted.then(|| Self(place.into()))
    }

    fn grow(&self, megabytes: u64) {
        let size = format!("remount,size={megabytes}m");
        let status = Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[allow(clippy::print_stderr, reason = "a test that did not run says so")]
fn on_a_full_file_system(driver: &str) {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(place.path(), 3) else {
        // The limit above stands in for it on a developer's machine, but not in CI.
        assert!(env::var_os("CI").is_none(), "CI has to be able to mount a file system");
        eprintln!("NOT RUN: a file system can be mounted by root only");
        return;
    };
    let config = format!("{driver}:{}/node", disk.0.display());
    let acknowledged = check_child(&config, &Actor::start(&["fill", &config], "").finish());

    // Started on the full disk it works or fails in one line, but loses nothing.
    block_on(async {
        match actor::driver(&config).await {
            Ok(driver) => driver.shutdown().await.unwrap(),
            Err(error) => assert_eq!(*error.kind(), ErrorKind::Fatal, "{error:#}"),
        }
    });
    disk.grow(40);
    block_on(check_state(&config, acknowledged));
}
