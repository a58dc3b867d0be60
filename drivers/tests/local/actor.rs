//! A second process: this test binary again, playing another role.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
};

use tsoracle_core::{ConsensusDriver, DriverConfig, Oracle, OracleOptions, Registry, Result};

const ROLE: &str = "TSORACLE_LOCAL_TEST_ROLE";

/// Marks the lines that are ours among those of the test harness.
const MARK: &str = "> ";

/// The driver that a config string names, opened.
pub(crate) async fn driver(config: &str) -> Result<Arc<dyn ConsensusDriver>> {
    tsoracle_drivers::link();
    Registry::linked()?.open(DriverConfig::parse(config)?, Default::default()).await
}

pub(crate) async fn oracle(config: &str) -> Result<Oracle> {
    Oracle::start(driver(config).await?, OracleOptions::default())
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(3).enable_all().build().unwrap().block_on(future)
}

/// The role this process was started for, in words, or nothing if it runs the tests.
pub(crate) fn role() -> Option<Vec<String>> {
    let role = env::var(ROLE).ok()?;
    Some(role.split('\t').map(str::to_owned).collect())
}

/// Says a line to the parent. It is with the parent's kernel when this returns.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The harness may have left a line unfinished.
    let said = out.write_all(format!("\n{MARK}{line}\n").as_bytes());
    if said.and_then(|()| out.flush()).is_err() {
        // The parent has gone, and nobody else would end this process.
        process::exit(1);
    }
}

/// A child process and what it says, line by line. It is killed when this is dropped.
pub(crate) struct Actor {
    pub(crate) child: Child,
    pub(crate) lines: Receiver<String>,
}

impl Actor {
    /// Starts the test named `child` of this binary in a role, with `input` to read.
    pub(crate) fn start(role: &[&str], input: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture"]);
        Self::run(command, role, input)
    }

    pub(crate) fn run(mut command: Command, role: &[&str], input: &str) -> Self {
        command.env(ROLE, role.join("\t")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // A child that is killed does not read to the end.
        thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|length| length > 0) {
                // A line without an end was cut off by the kill.
                if let Some(text) = line.strip_prefix(MARK).and_then(|line| line.strip_suffix('\n'))
                {
                    let _ = said.send(text.to_owned());
                }
                line.clear();
            }
        });
        Self { child, lines }
    }

    /// Kills it with SIGKILL, and returns what it had said and was not read yet.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.iter().collect()
    }

    /// Waits for its end, which has to be a good one, and returns the rest of what it said.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let said = self.lines.iter().collect();
        assert!(self.child.wait().unwrap().success(), "{said:?}");
        said
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
