use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::failure::Failure;

/// This binary in a process of its own, which says in its first line where it serves. It ends with
/// this value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// `HOST:PORT`.
    pub(crate) address: String,
}

impl Process {
    /// Starts it, in `directory`, and waits until it serves.
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        tokio::task::block_in_place(|| Self::spawn(directory, arguments))
    }

    fn spawn(directory: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        let cannot = |error| Failure::failed(format!("cannot start a server: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(arguments).current_dir(directory);
        // What is set for servers here is not meant for this one.
        let ours = |name: &OsString| name.to_string_lossy().starts_with("TSORACLE_");
        for name in std::env::vars_os().map(|(name, _)| name).filter(ours) {
            command.env_remove(name);
        }
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
        let mut said = String::new();
        let _ = child.kill();
        if let Some(stderr) = child.stderr.as_mut() {
            let _ = stderr.read_to_string(&mut said);
        }
        let _ = child.wait();
        Err(Failure::failed(format!("cannot start a server: {line} {said}")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it stop by itself, and waits for that.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("cannot stop a server: {error}"))
        };
        kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(|error| cannot(&error))?;
        let status = tokio::task::block_in_place(|| self.child.wait());
        match status.map_err(|error| cannot(&error))? {
            status if status.success() => Ok(()),
            status => Err(cannot(&status)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
