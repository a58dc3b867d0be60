use std::error::Error as StdError;
use std::fmt;

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a call failed: a kind to act on, and a sentence to read.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Source>,
}

/// What the caller does next.
///
/// Of a sequence request, every kind but [`Uncertain`](Self::Uncertain) says that nothing was
/// committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong. Mend the arguments.
    Invalid,
    /// The client cannot be built from these options. Mend them.
    Config,
    /// The server refused, for good as long as its state is what it is. Look at the message.
    Refused,
    /// The server, or this client, is at a limit. Ask again later, or for less.
    Exhausted,
    /// The server does not let this client in. Mend the credentials.
    Denied,
    /// What was asked for does not exist.
    NotFound,
    /// The server cannot do this. Upgrade it, or do without.
    Unimplemented,
    /// Nobody served the call before its deadline. Ask again later.
    Unavailable,
    /// The deadline passed while answers were awaited, and no server said anything at all. Ask again
    /// later, or allow more time.
    Timeout,
    /// The request may or may not have been carried out, and nobody can tell any more. Sequence
    /// values may have been granted that nobody will use.
    Uncertain,
    /// The server answered what the protocol does not allow. Report a bug.
    Protocol,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without anyone mending anything, and without harm
    /// from this one.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Exhausted | ErrorKind::Unavailable | ErrorKind::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_carried_out_is_not_simply_asked_again() {
        assert!(Error::new(ErrorKind::Unavailable, "").is_retryable());
        assert!(!Error::new(ErrorKind::Uncertain, "").is_retryable());
    }
}
