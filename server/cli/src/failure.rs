use std::{fmt, process::ExitCode};

use tsoracle_core::{Error, ErrorKind, Reject};

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

    /// Nobody reads what is printed any more, so that there is nobody to tell.
    pub(crate) fn unread() -> Self {
        Self { line: String::new(), code: 0 }
    }

    /// The same, of one of several things.
    pub fn about(self, what: &str) -> Self {
        Self { line: format!("the {what}: {}", self.line), ..self }
    }

    /// Says why, and gives the exit code.
    pub fn report(self) -> ExitCode {
        if self.code == 0 {
            return ExitCode::SUCCESS;
        }
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
            ErrorKind::Config if error.is_setting() => Self::usage(error),
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

/// A time that makes no sense is the caller's mistake.
pub(crate) fn usage_if_absurd(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Rejected(Reject::FarFromClock { .. } | Reject::MayRepeat { .. }) => {
            Failure::usage(format!("{error:#} with --force"))
        }
        ErrorKind::Rejected(Reject::OutOfRange { .. }) => Failure::usage(error),
        _ => error.into(),
    }
}

/// A wrong setting is the caller's mistake, wherever it is found.
pub fn usage_if_config(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Config => Failure::usage(error),
        _ => Failure::failed(error),
    }
}
