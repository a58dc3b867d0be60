use std::{fmt, process::ExitCode};

use tsoracle_core::{Error, ErrorKind};

use crate::{log, output::printable};

/// Why a command ends without success: one line to read, and an exit code.
#[derive(Debug)]
pub struct Failure {
    line: String,
    code: u8,
}

impl Failure {
    /// What was asked for could not be done. An error is shown with its causes.
    pub fn failed(line: impl fmt::Display) -> Self {
        Self { line: format!("{line:#}"), code: 1 }
    }

    /// It was asked for in a way that cannot be right.
    pub fn usage(line: impl fmt::Display) -> Self {
        Self { line: format!("{line:#}"), code: 2 }
    }

    /// The cluster goes on without this node, which an operator has to look at before it is started again.
    pub fn excluded(line: impl fmt::Display) -> Self {
        Self { line: format!("{line:#}"), code: 3 }
    }

    /// The same, of one of several things.
    pub fn about(self, what: &str) -> Self {
        Self { line: format!("the {what}: {}", self.line), ..self }
    }

    /// Says why, and gives the exit code.
    pub fn report(self) -> ExitCode {
        let line = self.line.split_whitespace().collect::<Vec<_>>().join(" ");
        log::line(&printable(&format!("error: {line}")));
        log::flush();
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Excluded => Self::excluded(error),
            _ => Self::failed(error),
        }
    }
}

impl From<tsoracle_client::Error> for Failure {
    fn from(error: tsoracle_client::Error) -> Self {
        match error.kind() {
            tsoracle_client::ErrorKind::Config => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}

/// A wrong setting is the caller's mistake, wherever it is found.
pub fn usage_if_config(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Config => Failure::usage(error),
        _ => Failure::failed(error),
    }
}
