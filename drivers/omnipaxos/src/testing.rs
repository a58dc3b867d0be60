//! What the tests of several modules need.

use tsoracle_core::versioned::{Effect, Version};
use tsoracle_replica::LogEntry;

use crate::entry::Commit;

/// The version that [`commit`] is based on.
pub(crate) fn version(number: u64) -> Version {
    Version { era: 0, number, name: number.into() }
}

/// A commit on that version, which makes the next one.
pub(crate) fn commit(number: u64) -> Commit {
    named(number, version(number + 1).name)
}

/// Another commit on that version.
pub(crate) fn rival(number: u64) -> Commit {
    named(number, u128::MAX - u128::from(number))
}

fn named(number: u64, name: u128) -> Commit {
    let base = version(number);
    let mut effect = Effect::default();
    effect.put(number.to_be_bytes(), name.to_be_bytes());
    effect.set_version(base.next(name).unwrap());
    Commit::new(&LogEntry::new(base, effect).unwrap()).unwrap()
}
