use std::{error, fmt, io, result, sync::Arc};

use tsoracle_types::{Invalid, on_one_line};

use crate::{Epoch, Reject};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = result::Result<T, E>;

/// What went wrong: a kind to act on, a sentence to read, and the cause.
///
/// `{}` shows the sentence alone, and `source` has the causes; `{:#}` shows all of them on one line.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    is_setting: bool,
    source: Option<Arc<dyn error::Error + Send + Sync>>,
}

/// What a caller does about an error.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Ask the leader, if one is named; otherwise ask again later. Nothing was committed.
    NotLeader(Option<LeaderHint>),
    /// Ask again later. Certainly nothing was committed.
    Unavailable,
    /// It may or may not have been committed: only a request with an id can be sent again.
    Uncertain,
    /// The state refused the command, and recorded nothing.
    Rejected(Reject),
    /// The request itself is wrong. Nothing was committed.
    Invalid,
    /// Too many requests wait already; ask again later, or less at once. Nothing was committed.
    Overloaded,
    /// The caller must prove who it is, and has not. Nothing was committed.
    Unauthenticated,
    /// The caller has no right to this. Nothing was committed.
    Denied,
    /// The configuration is wrong, or what it names cannot be used.
    Config,
    /// The stored state is damaged, or of an unknown format. An operator must look.
    Corrupt,
    /// A bug, or a failed disk: this process serves no more.
    Fatal,
    /// The cluster goes on without this node: it was removed or wiped, its directory was copied, or another
    /// process runs under its identity. This process serves no more. An operator must look.
    Excluded,
}

/// Where the leader is, as far as this node knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderHint {
    /// `host:port` of the leader's service, without a scheme.
    pub endpoint: String,
    /// The epoch it leads, if known.
    pub epoch: Option<Epoch>,
}

impl Error {
    /// An error of `kind`; `context` is a sentence in lower case that names the value and the fix.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), is_setting: false, source: None }
    }

    /// `Config`: an option that cannot be right, whatever it is used on. Nothing was begun.
    pub fn setting(context: impl Into<String>) -> Self {
        Self { is_setting: true, ..Self::new(ErrorKind::Config, context) }
    }

    /// `what`, a file or a directory, cannot be used: `Config` if an operator has to give another one,
    /// `Fatal` if the disk is full or fails.
    pub fn cannot_use(what: impl fmt::Display, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput => ErrorKind::Config,
            _ => ErrorKind::Fatal,
        };
        Self::new(kind, format!("cannot use {what}")).with_source(source)
    }

    /// `Corrupt`: `what`, something that is stored, has a format that this release does not read. It says so if a newer
    /// release has made it.
    pub fn unknown_format(what: impl fmt::Display, found: u64, known: u64) -> Self {
        let how = match found > known {
            true => ": it was made by a newer release; run that one",
            false => "",
        };
        let context = format!("{what} has format {found}, this release reads {known}{how}");
        Self::new(ErrorKind::Corrupt, context)
    }

    /// The same error of another kind.
    #[must_use]
    pub fn of_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// What the caller does about it.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Whether it is a [`setting`](Self::setting), and nothing else, that is wrong.
    pub fn is_setting(&self) -> bool {
        self.is_setting
    }

    /// Whether the process that met it serves no more.
    pub fn is_final(&self) -> bool {
        matches!(self.kind, ErrorKind::Corrupt | ErrorKind::Fatal | ErrorKind::Excluded)
    }

    /// Whether the same request may succeed later, without anyone mending anything.
    ///
    /// `Uncertain` is retryable only by a request that carries an id.
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ErrorKind::NotLeader(_)
            | ErrorKind::Unavailable
            | ErrorKind::Uncertain
            | ErrorKind::Overloaded => true,
            ErrorKind::Rejected(_)
            | ErrorKind::Invalid
            | ErrorKind::Unauthenticated
            | ErrorKind::Denied
            | ErrorKind::Config
            | ErrorKind::Corrupt
            | ErrorKind::Fatal
            | ErrorKind::Excluded => false,
        }
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

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(ErrorKind::Invalid, invalid.to_string())
    }
}

impl From<Reject> for Error {
    fn from(reject: Reject) -> Self {
        let context = reject.to_string();
        match reject {
            Reject::Fenced { .. } => Self::new(ErrorKind::NotLeader(None), context),
            reject => Self::new(ErrorKind::Rejected(reject), context),
        }
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self::new(ErrorKind::Fatal, "input or output failed").with_source(source)
    }
}
