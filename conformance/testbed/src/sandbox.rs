//! Namespaces for the whole test program: of networks, mounts and processes.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Set inside.
const INSIDE: &str = "TSORACLE_CONFORMANCE_SANDBOX";

/// What namespaces of networks are named in is hidden below an empty directory. The shell stays, as
/// the first process of its namespace, so that signals do to the test program what they always do.
const SETUP: &str = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && \
                     { \"$@\"; code=$?; exit $code; }";

/// Runs this program again in namespaces of its own, if that is possible and it does not run there
/// yet. What the program starts is killed when it ends, and its networks are gone.
pub fn enter() {
    if is_inside() || lacking().is_some() {
        return;
    }
    let program = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let error = command().arg(program).args(env::args_os().skip(1)).env(INSIDE, "1").exec();
    // It could be done a moment ago; without it, the checks that need it fail.
    eprintln!("cannot run unshare: {error:#}");
}

pub(super) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Why there are no namespaces, if there are none.
pub(super) fn lacking() -> Option<&'static str> {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    LACKING.get_or_init(|| if is_inside() { None } else { probe().err() }).as_deref()
}

fn probe() -> Result<(), String> {
    let tried = command().arg("ip").arg("netns").stdin(Stdio::null()).output();
    let output = tried.map_err(|error| format!("cannot run unshare: {error:#}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().next().unwrap_or("unshare failed");
    Err(format!("networks of their own for nodes need root or user namespaces, and ip: {reason}"))
}

fn command() -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", SETUP, "sh"]);
    command
}
