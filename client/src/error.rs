use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tsoracle_types::on_one_line;

/// The result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why a call failed: a kind to act on, and a context to read. Its [`source`](StdError::source) is the
/// cause, which `{}` leaves out; `{:#}` shows all causes on one line.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What the caller does next.
///
/// Of a sequence request, every kind but [`Uncertain`](Self::Uncertain) means that nothing was
/// committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong. Correct the arguments.
    Invalid,
    /// The client cannot be built from these options. Correct them.
    Config,
    /// The server refuses the request in its present state. Read the message.
    Refused,
    /// The server, or this client, is at a limit. Ask again later, or for less.
    Exhausted,
    /// The server does not admit this client. Correct the credentials.
    Denied,
    /// The requested key or lease does not exist.
    NotFound,
    /// The server cannot do this. Upgrade it, or do without.
    Unimplemented,
    /// No server served the call before its deadline. Ask again later.
    Unavailable,
    /// The deadline passed without an answer from any server. Ask again later, or allow more time.
    Timeout,
    /// The request may or may not have been carried out, and this cannot be found out any more. Sequence
    /// values may have been granted that no caller will use.
    Uncertain,
    /// The server's answer breaks the protocol. Report a bug.
    Protocol,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// The kind to act on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without any correction, and without harm from this one.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Exhausted | ErrorKind::Unavailable | ErrorKind::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.alternate() {
            true => f.write_str(&on_one_line(self)),
            false => f.write_str(&self.context),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_carried_out_is_not_retryable() {
        assert!(Error::new(ErrorKind::Unavailable, "").is_retryable());
        assert!(!Error::new(ErrorKind::Uncertain, "").is_retryable());
    }

    #[test]
    fn the_cause_is_the_source_and_not_in_the_text() {
        let error = Error::new(ErrorKind::Unavailable, "no answer").with_source("a cause").clone();
        assert_eq!(error.to_string(), "no answer");
        assert_eq!(tsoracle_types::on_one_line(&error), "no answer: a cause");
    }
}
