use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::{net::TcpStream, time::timeout};
use tsoracle_core::{Clock, Result, SystemClock};

use super::failed;

/// How long a process may take to start, or to end. It is there for what never does.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How much is shown of what a process said.
const SHOWN_LINES: usize = 60;

/// A process that has not been waited for. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it, and waits until it listens at `address`.
    pub(super) async fn start(
        name: &str,
        mut command: Command,
        log: &Path,
        address: SocketAddr,
    ) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().map_err(|error| {
            failed(format!("cannot run {:?}: {error:#}", command.get_program()))
        })?;
        let mut process = Self { child, name: name.into(), log: log.into() };
        process.listens(address).await?;
        Ok(process)
    }

    async fn listens(&mut self, address: SocketAddr) -> Result<()> {
        let until = SystemClock.now().boot + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failed(&format!("ended with {status} instead of serving")));
            }
            if let Ok(Ok(_)) = timeout(LOOK * 20, TcpStream::connect(address)).await {
                return Ok(());
            }
            if SystemClock.now().boot >= until {
                return Err(self.failed(&format!("does not listen at {address}")));
            }
            SystemClock.sleep(LOOK).await;
        }
    }

    /// Asks it to end, which it must do with success.
    pub(super) async fn stop(mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        let status = self.ended().await?;
        match status.success() {
            true => Ok(()),
            false => Err(self.failed(&format!("was asked to stop, and ended with {status}"))),
        }
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ends_with(mut self, code: i32) -> Result<()> {
        let status = self.ended().await?;
        match status.code() == Some(code) {
            true => Ok(()),
            false => Err(self.failed(&format!("was to end with {code}, and ended with {status}"))),
        }
    }

    async fn ended(&mut self) -> Result<ExitStatus> {
        let until = SystemClock.now().boot + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if SystemClock.now().boot >= until {
                return Err(self.failed("does not end"));
            }
            SystemClock.sleep(LOOK).await;
        }
    }

    /// Has it stand still, and returns once it does.
    pub(super) async fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let until = SystemClock.now().boot + PATIENCE;
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(self.pid()), stopped).map_err(std::io::Error::from)?.is_none() {
            if SystemClock.now().boot >= until {
                return Err(self.failed("does not stand still"));
            }
            SystemClock.sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal)
            .map_err(|error| self.failed(&format!("cannot be sent {signal:?}: {error:#}")))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn failed(&self, what: &str) -> tsoracle_core::Error {
        failed(format!("{} {what}\n{}", self.name, said(&self.name, &self.log)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of what a process said.
pub(super) fn said(name: &str, log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    format!("what {name} said, {} lines, the last of which:\n{}\n", lines.len(), shown.join("\n"))
}
