//! What the answers of a driver must look like. One that answers what was not asked cannot be relied
//! on in anything: this node serves no more, and says what the driver did.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::task::JoinError;

use crate::{
    Committed, ConsensusDriver, Epoch, Error, ErrorKind, LeaseId, Reject, Result, SeqKey,
    state::{Answer, Command, LeaseAsk, Query, Reply},
};

/// What is remembered of commands while the driver has them.
pub(crate) struct Asked(Vec<Expected>);

/// What a command is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Fence,
    Open,
    Extend {
        high_water_ms: u64,
    },
    Release,
    Advance {
        digest: u64,
    },
    Expire,
    Init,
    Seed {
        start: u64,
    },
    /// Of this id, if it is one that exists, and for so long at most.
    Lease {
        id: Option<LeaseId>,
        ttl_ms: u64,
    },
    ReleaseLease,
    ExpireLeases,
    Import,
}

impl Asked {
    pub(crate) fn of(commands: &[Command]) -> Self {
        Self(commands.iter().map(Expected::of).collect())
    }

    /// Lets through what answers the commands, one by one.
    ///
    /// # Errors
    /// `Fatal`, saying what does not.
    pub(crate) fn check(&self, committed: Committed) -> Result<Committed> {
        let asked = self.0.len();
        if committed.results.len() != asked {
            return Err(nonsense(&format!("{asked} commands"), &committed.results));
        }
        match self.0.iter().zip(&committed.results).find(|(asked, result)| !asked.admits(result)) {
            Some((asked, result)) => Err(nonsense(asked, result)),
            None => Ok(committed),
        }
    }
}

/// Commits in a task of its own, and checks the answers.
///
/// # Errors
/// Those of the driver; `Fatal` if it panics, or answers what was not asked.
pub(crate) async fn commit(
    driver: Arc<dyn ConsensusDriver>,
    epoch: Epoch,
    commands: Vec<Command>,
) -> Result<Committed> {
    let asked = Asked::of(&commands);
    let task = tokio::spawn(async move { driver.commit(epoch, commands).await });
    asked.check(task.await.unwrap_or_else(|panic| Err(panicked("a commit", panic)))?)
}

/// The error of a driver that panics.
pub(crate) fn panicked(asked: &str, panic: JoinError) -> Error {
    Error::new(ErrorKind::Fatal, format!("the driver panicked in {asked}")).with_source(panic)
}

impl Expected {
    fn of(command: &Command) -> Self {
        match command {
            Command::Fence { .. } => Self::Fence,
            Command::Open { .. } => Self::Open,
            &Command::Extend { high_water_ms, .. } => Self::Extend { high_water_ms },
            Command::Release => Self::Release,
            Command::Advance(advance) => {
                let entries = advance.entries.iter().map(|(key, count)| (key, *count));
                Self::Advance { digest: digest(entries) }
            }
            Command::Expire { .. } => Self::Expire,
            Command::Init { .. } => Self::Init,
            Command::Import(_) => Self::Import,
            Command::Seed(seed) => Self::Seed { start: seed.start },
            Command::Lease { ask, .. } => match ask {
                &LeaseAsk::Acquire { ttl_ms, .. } => Self::Lease { id: None, ttl_ms },
                &LeaseAsk::Renew { id } => Self::Lease { id: Some(id), ttl_ms: u64::MAX },
                LeaseAsk::Release { .. } => Self::ReleaseLease,
                LeaseAsk::Expire => Self::ExpireLeases,
            },
        }
    }

    fn admits(self, result: &Result<Reply, Reject>) -> bool {
        match (self, result) {
            (_, Err(Reject::Fenced { .. }))
            | (
                Self::Fence,
                Err(Reject::OutOfRange { .. } | Reject::NewerRules { .. } | Reject::Importing),
            )
            | (Self::Fence, Ok(Reply::Fenced { .. }))
            | (Self::Open, Ok(Reply::Opened))
            | (Self::Release, Ok(Reply::Released))
            | (Self::Expire, Ok(Reply::Expired(_)))
            | (Self::Init, Ok(Reply::Initialized) | Err(_))
            | (Self::Import, Ok(Reply::Imported { .. }) | Err(_))
            | (Self::ReleaseLease, Ok(Reply::LeaseReleased))
            | (Self::ExpireLeases, Ok(Reply::LeasesExpired(_)))
            | (Self::Advance { .. } | Self::Seed { .. } | Self::Lease { .. }, Err(_)) => true,
            (Self::Extend { high_water_ms: asked }, Ok(Reply::Extended { high_water_ms })) => {
                *high_water_ms >= asked
            }
            (Self::Lease { id, ttl_ms }, Ok(Reply::Leased(lease))) => {
                id.is_none_or(|id| id == lease.id) && lease.remaining_ms <= ttl_ms
            }
            (Self::Seed { start }, Ok(Reply::Seeded(next))) => *next == start,
            (Self::Advance { digest: asked }, Ok(Reply::Advanced(blocks))) => {
                let fits = |start: u64, count| start.checked_add(u64::from(count)).is_some();
                blocks.iter().all(|block| fits(block.start, block.count))
                    && digest(blocks.iter().map(|block| (&block.key, block.count))) == asked
            }
            _ => false,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence => f.write_str("a fence"),
            Self::Open => f.write_str("an open"),
            Self::Extend { high_water_ms } => write!(f, "an extend to {high_water_ms} ms"),
            Self::Release => f.write_str("a release"),
            Self::Advance { .. } => f.write_str("an advance"),
            Self::Expire => f.write_str("an expiry of sessions"),
            Self::Init => f.write_str("an init"),
            Self::Import => f.write_str("an import"),
            Self::Seed { start } => write!(f, "a seed with {start}"),
            Self::Lease { .. } => f.write_str("a request for a lease"),
            Self::ReleaseLease => f.write_str("a release of a lease"),
            Self::ExpireLeases => f.write_str("an expiry of leases"),
        }
    }
}

/// Tells keys with counts apart, without keeping them.
fn digest<'a>(entries: impl Iterator<Item = (&'a SeqKey, u32)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    entries.for_each(|entry| entry.hash(&mut hasher));
    hasher.finish()
}

/// Checks the answer to a query.
///
/// # Errors
/// `Fatal` for an answer to what was not asked.
pub(crate) fn check(query: &Query, answer: &Answer) -> Result<()> {
    let fits = match (query, answer) {
        (Query::Reign, Answer::Reign(_))
        | (Query::Sequence(_), Answer::Sequence(_))
        | (Query::Frontier { .. }, Answer::Frontier { .. }) => true,
        (Query::Export { after, limit }, Answer::Exported(entries)) => {
            let keys = || entries.iter().map(|(key, _)| key);
            entries.len() <= *limit && keys().all(|key| key > after) && keys().is_sorted()
        }
        (Query::Expired { limit }, Answer::Expired(sessions)) => sessions.len() <= *limit,
        (Query::Sequences { prefix, after, limit }, Answer::Sequences(entries)) => {
            let keys = || entries.iter().map(|(key, _)| key.as_str());
            entries.len() <= *limit
                && keys().all(|key| key.starts_with(prefix) && key > after.as_str())
                && keys().is_sorted_by(|a, b| a < b)
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(nonsense(&format!("{query:?}"), answer)) }
}

/// The error of a driver that answers what was not asked.
pub(crate) fn nonsense(asked: &(impl fmt::Display + ?Sized), answered: &impl fmt::Debug) -> Error {
    let context = format!("the driver answered {asked} with {answered:?}, and is not relied on");
    Error::new(ErrorKind::Fatal, context)
}
