//! What is capped, and how commands change how much of it there is.

use std::fmt;

use super::{
    Limits, Record, Rules, View, Writes,
    keys::{self, Key},
    record::{Leases, load},
    view::Write,
};
use crate::Result;

/// How many things are capped.
pub(crate) const CAPS: usize = 4;

/// What there may be only so many of, in all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Capped {
    /// Keys that have been used or seeded.
    Sequences,
    /// Sessions of exactly-once requests.
    Sessions,
    /// Stamping leases.
    Leases,
    /// Named requests.
    Named,
}

impl Capped {
    pub(crate) const ALL: [Self; CAPS] =
        [Self::Sequences, Self::Sessions, Self::Leases, Self::Named];

    /// The cap.
    pub(crate) fn of(self, limits: &Limits) -> u64 {
        match self {
            Self::Sequences => limits.keys,
            Self::Sessions => limits.sessions,
            Self::Leases => limits.leases,
            Self::Named => limits.named,
        }
    }

    pub(crate) fn of_mut(self, limits: &mut Limits) -> &mut u64 {
        match self {
            Self::Sequences => &mut limits.keys,
            Self::Sessions => &mut limits.sessions,
            Self::Leases => &mut limits.leases,
            Self::Named => &mut limits.named,
        }
    }
}

impl fmt::Display for Capped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequences => "sequences",
            Self::Sessions => "sessions",
            Self::Leases => "stamping leases",
            Self::Named => "named requests",
        })
    }
}

/// What a command changes in how much there is of what is capped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// So much there is from now on.
    Count(Capped, u64),
    /// The version of the rules that the state is under from now on.
    Rules(Rules),
    /// Sequences are closed no longer.
    Opened,
    /// What is stored under this key is new.
    Made(Capped, Key),
    /// What is stored under this key goes.
    Ended(Capped, Key),
}

/// What these writes change of what `view` shows. Nearly always nothing.
///
/// # Errors
/// Those of `view`, of which the command that writes this has read what is asked for here.
pub(super) fn changes(view: &dyn View, writes: &Writes) -> Result<Vec<Change>> {
    // Whatever is made or ends changes a count along, and all counts have keys of one byte.
    if writes.iter().all(|(key, _)| key.len() != 1) {
        return Ok(vec![]);
    }
    let mut last_lease = 0;
    if writes.iter().any(|(key, _)| key[..] == *keys::LEASES) {
        last_lease = load::<Leases>(view, keys::LEASES)?.map_or(0, |leases| leases.last_id);
    }
    let mut changes = vec![];
    for (key, write) in writes.iter() {
        let what = match key.first() {
            Some(b's') => Capped::Sequences,
            Some(b'u') => Capped::Sessions,
            Some(b'l') => Capped::Leases,
            Some(b'q') => Capped::Named,
            _ => {
                match write {
                    Write::Put(Record::Meta(meta)) => {
                        changes.push(Change::Count(Capped::Sequences, meta.keys));
                        changes.push(Change::Count(Capped::Sessions, meta.sessions));
                        changes.push(Change::Rules(Rules::new(meta.rules)));
                    }
                    Write::Put(Record::Leases(leases)) => {
                        changes.push(Change::Count(Capped::Leases, leases.count));
                    }
                    Write::Put(Record::Next(count)) => {
                        changes.push(Change::Count(Capped::Named, *count));
                    }
                    Write::Delete if key[..] == *keys::RESTORED => changes.push(Change::Opened),
                    _ => {}
                }
                continue;
            }
        };
        match write {
            Write::Put(Record::Lease(lease)) if lease.id.0 <= last_lease => {}
            Write::Put(Record::Lease(_)) => changes.push(Change::Made(what, key.clone())),
            Write::Put(_) if view.get(key)?.is_none() => {
                changes.push(Change::Made(what, key.clone()));
            }
            Write::Delete => changes.push(Change::Ended(what, key.clone())),
            _ => {}
        }
    }
    Ok(changes)
}
