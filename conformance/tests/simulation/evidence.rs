//! When a node first observed the commits that were decided.

use std::collections::{BTreeMap, VecDeque};

use tsoracle_core::{
    BootTime, Effect, Epoch, Version,
    state::{REIGN, Record},
};

use crate::flaw::Flaw;

/// What a node remembers of the newest commits.
#[derive(Debug)]
pub(crate) struct Evidence {
    flaw: Option<Flaw>,
    memory: usize,
    decided: VecDeque<Observed>,
    /// By number, when an entry of it was first in the log.
    logged: BTreeMap<u64, BootTime>,
}

#[derive(Debug)]
struct Observed {
    version: Version,
    at: BootTime,
    /// Whose reign record it wrote, if it wrote any.
    reign: Option<Epoch>,
}

impl Evidence {
    pub(crate) fn new(memory: usize, flaw: Option<Flaw>) -> Self {
        Self { flaw, memory, decided: VecDeque::new(), logged: BTreeMap::new() }
    }

    /// Notes a commit that is decided, and when it was first observed here. Older ones than those known
    /// before are of no use.
    pub(crate) fn decided(&mut self, version: Version, at: BootTime, reign: Option<Epoch>) {
        let is_new =
            self.decided.back().is_none_or(|last| last.version.position() < version.position());
        if is_new {
            self.decided.push_back(Observed { version, at, reign });
            if self.decided.len() > self.memory {
                self.decided.pop_front();
            }
        }
    }

    /// Notes a commit that is in the log, and may still be overwritten.
    pub(crate) fn logged(&mut self, version: Version, at: BootTime) {
        self.logged.entry(version.number).or_insert(at);
    }

    /// When that very commit was observed, or a later one of the same era.
    pub(crate) fn seen(&self, version: &Version) -> Option<BootTime> {
        match self.flaw {
            Some(Flaw::NoWaitForTheLease) => return Some(BootTime::default()),
            Some(Flaw::EvidenceOfUndecided) => return self.logged.get(&version.number).copied(),
            Some(Flaw::EvidenceOfAnotherWrite) => return self.first_of_reign(version),
            _ => {}
        }
        let answers = |seen: &Version| {
            seen == version || seen.era == version.era && seen.number > version.number
        };
        self.decided.iter().find(|seen| answers(&seen.version)).map(|seen| seen.at)
    }

    fn first_of_reign(&self, version: &Version) -> Option<BootTime> {
        let wrote = self.decided.iter().find(|seen| seen.version == *version)?;
        self.decided.iter().find(|seen| seen.reign == wrote.reign).map(|seen| seen.at)
    }
}

/// Whose reign record an effect writes, if it writes any.
pub(crate) fn reign_of(effect: &Effect) -> Option<Epoch> {
    let bytes = effect.get(REIGN)??;
    match Record::decode(REIGN, bytes.into()) {
        Ok(Record::Reign(record)) => Some(record.epoch),
        other => panic!("the engine wrote no reign record, but {other:?}"),
    }
}
