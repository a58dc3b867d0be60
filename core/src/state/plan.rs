use super::{
    Command, Reject, Reply, View, WorkingSet, Writes,
    capped::{self, Change},
    import, lease, named, reign, restored, sequence, session,
    view::Overlay,
    written::Written,
};
use crate::{
    Epoch, Error, Result,
    driver::{CommitLimits, Effect, Version},
    state::{REIGN, Record},
};

/// What a rule says: of a whole command its reply, with the records to write.
pub(super) type Planned<T = (Reply, Writes)> = Result<T, Stop>;

/// Why a command does nothing.
#[derive(thiserror::Error, Debug)]
pub(super) enum Stop {
    /// A rule refuses it.
    #[error(transparent)]
    Refused(#[from] Reject),
    /// What it rests on cannot be read.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Works out what `command` of `epoch` does to the state behind `view`: its reply, with the records to write.
///
/// # Errors
/// Only those of `view`. A refusal is part of the answer, and comes without writes.
pub fn plan(
    view: &dyn View,
    epoch: Epoch,
    command: &Command,
) -> Result<Result<(Reply, Writes), Reject>> {
    match planned(view, epoch, command) {
        Ok(planned) => Ok(Ok(planned)),
        Err(Stop::Refused(reject)) => Ok(Err(reject)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn planned(view: &dyn View, epoch: Epoch, command: &Command) -> Planned {
    match *command {
        Command::Fence { base, now_ms, headroom_ms, lease_ms } => {
            reign::fence(view, base, now_ms, headroom_ms, lease_ms)
        }
        Command::Open { node, lease_ms } => reign::open(view, epoch, node, lease_ms),
        Command::Extend { high_water_ms, elapsed_ms } => {
            reign::extend(view, epoch, high_water_ms, elapsed_ms)
        }
        Command::Release => reign::release(view, epoch),
        Command::Advance(ref advance) => sequence::advance(view, epoch, advance),
        Command::Expire { ref sessions } => session::expire(view, epoch, sessions),
        Command::ExpireNames { ref names } => named::expire(view, epoch, names),
        Command::Seed(ref seed) => sequence::seed(view, epoch, seed),
        Command::Delete { ref key } => sequence::delete(view, epoch, key),
        Command::OpenSequences(ref open) => restored::open(view, epoch, open),
        Command::Lease { ref ask, at } => lease::lease(view, epoch, ask, at),
        Command::Import(ref step) => import::import(view, step),
        Command::Init { high_water_ms, now_ms } => reign::init(view, high_water_ms, now_ms),
        Command::Adopt { high_water_ms, lease_ms, now_ms } => {
            reign::adopt(view, high_water_ms, lease_ms, now_ms)
        }
    }
}

/// The commands of one commit, worked out one after the other: each sees what those before it write, and
/// succeeds or is refused on its own.
#[derive(Default, Debug)]
pub struct Plan {
    written: Written,
    /// Of the commands since this was last asked for.
    changes: Vec<Change>,
}

impl Plan {
    /// Nothing yet, with room for about that many commands.
    pub fn with_capacity(commands: usize) -> Self {
        // Each writes a record of its own, and some share others.
        Self { written: Written::with_capacity(commands + commands / 8), changes: vec![] }
    }

    /// Adds a command. `None` if what it writes does not fit into the commit any more, and nothing is
    /// added then. The first command of a commit always fits.
    ///
    /// # Errors
    /// Those of [`plan`]; nothing is added then.
    pub fn add(
        &mut self,
        known: &WorkingSet,
        epoch: Epoch,
        command: &Command,
        limits: CommitLimits,
    ) -> Result<Option<Result<Reply, Reject>>> {
        let overlay = Overlay { below: known, writes: &self.written };
        let (reply, writes) = match plan(&overlay, epoch, command)? {
            Ok(planned) => planned,
            Err(reject) => return Ok(Some(Err(reject))),
        };
        if !self.written.is_empty() && !self.written.has_room(known, &writes, limits)? {
            return Ok(None);
        }
        let changes = match command {
            // What is copied is nobody's.
            Command::Import(_) => vec![],
            _ => capped::changes(&overlay, &writes)?,
        };
        self.written.merge(known, writes)?;
        self.changes.extend(changes);
        Ok(Some(Ok(reply)))
    }

    /// What has changed in how much there is of what is capped, since this was last asked for.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// The effect of the commit that makes version `next`, and the same records decoded.
    pub fn finish(mut self, next: Version) -> (Effect, Writes) {
        // Each write of the reign record notes the version that made it.
        if let Some(Record::Reign(record)) = self.written.get_mut(REIGN) {
            record.version = next;
        }
        let (mut effect, writes) = self.written.finish();
        effect.set_version(next);
        (effect, writes)
    }
}
