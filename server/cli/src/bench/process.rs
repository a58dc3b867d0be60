use std::{
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tsoracle_core::{Clock as _, SystemClock};

use super::load::now;
use crate::failure::Failure;

/// A server in a process of its own. It ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// `HOST:PORT`.
    pub address: String,
}

/// How long a server may take until it listens.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

impl Process {
    /// Starts this binary, in `directory`, and waits until it serves.
    pub fn start(directory: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        let own = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("cannot start a server: {error:#}")))?;
        Self::start_other(&own, directory, arguments)
    }

    /// Starts another program, in `directory`, and waits until it says in its first line where it serves.
    pub fn start_other(
        program: &Path,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<Self, Failure> {
        tokio::task::block_in_place(|| Self::spawn(program, directory, arguments))
    }

    /// Starts a program that says nothing of itself, and waits until it listens at `address`.
    pub async fn start_silent(
        program: &str,
        directory: &Path,
        arguments: &[String],
        address: &str,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::failed(format!("{program} not found")),
            _ => Failure::failed(format!("cannot start {program}: {error:#}")),
        })?;
        let mut process = Self { child, address: address.into() };
        let until = now() + STARTS_WITHIN;
        while TcpStream::connect(address).await.is_err() {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(Failure::failed(format!("{program} has ended: {status}")));
            }
            if now() > until {
                return Err(Failure::failed(format!("{program} does not listen at {address}")));
            }
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
        Ok(process)
    }

    fn spawn(program: &Path, directory: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        let cannot = |error| {
            Failure::failed(format!("cannot start a server ({}): {error:#}", program.display()))
        };
        let mut command = command(program, directory, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line).map_err(cannot)?;
        }
        // The only word with a colon in it is the address.
        let address = line.split_whitespace().find(|word| word.contains(':'));
        if let Some(address) = address.map(str::to_owned) {
            return Ok(Self { child, address });
        }
        let mut printed = String::new();
        let _ = child.kill();
        if let Some(stderr) = child.stderr.as_mut() {
            let _ = stderr.read_to_string(&mut printed);
        }
        let _ = child.wait();
        Err(Failure::failed(format!("cannot start a server: {line} {printed}")))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it stop by itself, and waits for that.
    pub fn stop(mut self) -> Result<(), Failure> {
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("cannot stop a server: {error:#}"))
        };
        kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(|error| cannot(&error))?;
        let status = tokio::task::block_in_place(|| self.child.wait());
        match status.map_err(|error| cannot(&error))? {
            status if status.success() => Ok(()),
            status => Err(cannot(&status)),
        }
    }
}

/// A program to be started here.
pub fn command(program: &Path, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    // What is set for servers and clients here is not meant for these.
    let ours = |name: &OsString| name.to_string_lossy().starts_with("TSORACLE_");
    for name in std::env::vars_os().map(|(name, _)| name).filter(ours) {
        command.env_remove(name);
    }
    command
}

/// What a program prints that ends by itself.
pub fn output(mut command: Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = tokio::task::block_in_place(|| command.stdin(Stdio::null()).output());
    match ended {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let printed = String::from_utf8_lossy(&output.stderr);
            Err(Failure::failed(format!("{program} failed: {}", printed.trim())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::failed(format!("{program} not found")))
        }
        Err(error) => Err(Failure::failed(format!("cannot run {program}: {error:#}"))),
    }
}

/// An address of this machine that is free now.
pub fn free() -> Result<String, Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(Failure::failed)?;
    Ok(listener.local_addr().map_err(Failure::failed)?.to_string())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
