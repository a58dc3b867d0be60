//! The disk of a node, which can be made to hang, and to lose what was not synced.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use tsoracle_core::{Clock, Result, SystemClock};

use super::{Site, failed};

/// How long a node may sync nothing. It is there for one that never does.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// The program that a node is run by, so that its syncs can be held. It needs Linux, and no rights.
const SOURCE: &str = include_str!("hold_sync.c");

pub(super) struct Disk {
    /// The directory through which the program gets its instructions, and reports.
    control: PathBuf,
    directory: PathBuf,
    /// The program, and the file whose syncs count; none where disks cannot hang.
    held: Option<(PathBuf, String)>,
}

impl Disk {
    /// The disks of the nodes of `site`, which sync `state_file`.
    pub(super) fn all(site: &Site, state_file: Option<&str>) -> Result<Vec<Self>> {
        let held = match state_file {
            Some(file) if lacking().is_none() => Some((build(site.root())?, file.into())),
            _ => None,
        };
        let disk = |node| {
            let control = site.root().join(format!("disk-{node}"));
            fs::create_dir(&control)?;
            Ok(Self { control, directory: site.directory(node), held: held.clone() })
        };
        (0..site.nodes()).map(disk).collect()
    }

    /// How `binary` is run, so that its disk can be made to hang if that is possible at all.
    pub(super) fn holding(&self, binary: &Path) -> Vec<OsString> {
        let binary = binary.as_os_str().to_owned();
        let Some((holder, file)) = &self.held else { return vec![binary] };
        let (control, directory) = (self.control.clone(), self.directory.clone());
        vec![holder.into(), control.into(), directory.into(), file.into(), binary]
    }

    fn at(&self, name: &str) -> PathBuf {
        self.control.join(name)
    }

    pub(super) async fn hang(&self) -> Result<()> {
        fs::write(self.at("hang"), "")?;
        let until = SystemClock.now().boot + PATIENCE;
        while !self.at("hangs").exists() {
            if SystemClock.now().boot >= until {
                return Err(failed("the node syncs nothing"));
            }
            SystemClock.sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn mend(&self) -> Result<()> {
        fs::remove_dir_all(self.at("synced"))?;
        self.go_on()
    }

    /// Takes back what was written since the last sync. The node does not run any more.
    pub(super) fn lose(&self) -> Result<()> {
        fs::remove_dir_all(&self.directory)?;
        fs::rename(self.at("synced"), &self.directory)?;
        self.go_on()
    }

    fn go_on(&self) -> Result<()> {
        fs::remove_file(self.at("hang"))?;
        Ok(fs::remove_file(self.at("hangs"))?)
    }
}

/// Why disks cannot be made to hang here, if they cannot.
pub(super) fn lacking() -> Option<&'static str> {
    static HAS_COMPILER: OnceLock<bool> = OnceLock::new();
    let has_compiler = || Command::new("cc").arg("--version").output().is_ok();
    match () {
        () if !cfg!(target_os = "linux") => Some("syncs can be held on Linux only"),
        () if !HAS_COMPILER.get_or_init(has_compiler) => Some("there is no cc to build with"),
        () => None,
    }
}

fn build(root: &Path) -> Result<PathBuf> {
    let (source, holder) = (root.join("hold_sync.c"), root.join("hold-sync"));
    fs::write(&source, SOURCE)?;
    let built = Command::new("cc").arg("-O1").arg("-o").arg(&holder).arg(&source).output()?;
    match built.status.success() {
        true => Ok(holder),
        false => Err(failed(String::from_utf8_lossy(&built.stderr))),
    }
}
