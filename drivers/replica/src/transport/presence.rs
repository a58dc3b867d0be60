use std::{collections::BTreeMap, fmt, sync::Mutex};

use super::lock;

/// Which process speaks for each node: each draws an incarnation when it starts. While sessions of one stand, another
/// one under the same identity is not listened to, so that a node that runs twice counts once.
///
/// A process that was killed may leave a session behind for a while. So the one that was there before has to show
/// that it still is, before the other one is told that it is one too many.
#[derive(Default)]
pub(super) struct Presence(Mutex<BTreeMap<u32, Present>>);

/// Asks a process whether it is still there; if so, [`Presence::prove`] is called.
pub(super) type Ask = Box<dyn Fn() + Send>;

struct Present {
    incarnation: u64,
    address: String,
    /// The sessions that stand, by their numbers.
    sessions: BTreeMap<u64, Ask>,
    next: u64,
    other: Option<Other>,
}

/// A second process.
struct Other {
    incarnation: u64,
    address: String,
    /// The first one was there after this one had come.
    is_proven: bool,
}

/// Why a session is not to be.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Conflict {
    /// The process that was there before may be gone.
    Unclear,
    /// It is there.
    Duplicate {
        /// Where it is.
        first: String,
        /// Where this one is.
        second: String,
    },
}

impl Presence {
    /// A session with a process that speaks for `node` is to stand. Returns its number.
    pub(super) fn enter(
        &self,
        node: u32,
        (incarnation, address): (u64, &str),
        ask: Ask,
    ) -> Result<u64, Conflict> {
        let mut all = lock(&self.0);
        let present = all.entry(node).or_insert_with(|| Present::new(incarnation, address));
        if present.incarnation != incarnation && present.sessions.is_empty() {
            *present = Present { next: present.next, ..Present::new(incarnation, address) };
        }
        if present.incarnation != incarnation {
            return Err(present.conflict(incarnation, address));
        }
        present.next += 1;
        present.sessions.insert(present.next, ask);
        Ok(present.next)
    }

    /// That session has ended.
    pub(super) fn leave(&self, node: u32, session: u64) {
        if let Some(present) = lock(&self.0).get_mut(&node) {
            present.sessions.remove(&session);
        }
    }

    /// The process of that session is there.
    pub(super) fn prove(&self, node: u32, session: u64) {
        let mut all = lock(&self.0);
        let Some(present) = all.get_mut(&node) else { return };
        let Present { sessions, address, other, .. } = present;
        let asked =
            other.as_mut().filter(|other| sessions.contains_key(&session) && !other.is_proven);
        if let Some(other) = asked {
            other.is_proven = true;
            let (first, second) = (address, &other.address);
            tracing::error!(
                node,
                %first,
                %second,
                "two processes run under the identity of one node; the second one is refused"
            );
        }
    }

    /// Which nodes run twice, and where, in words.
    pub(super) fn duplicates(&self) -> Vec<(u32, String)> {
        let all = lock(&self.0);
        let twice = all.iter().filter(|(_, present)| !present.sessions.is_empty());
        let twice = twice.filter_map(|(node, present)| {
            let other = present.other.as_ref().filter(|other| other.is_proven)?;
            let (first, second) = (&present.address, &other.address);
            let what =
                format!("node {node} runs twice, at {first} and at {second}, which is refused");
            Some((*node, what))
        });
        twice.collect()
    }
}

impl Present {
    fn new(incarnation: u64, address: &str) -> Self {
        let (sessions, address) = (BTreeMap::new(), address.into());
        Self { incarnation, address, sessions, next: 0, other: None }
    }

    fn conflict(&mut self, incarnation: u64, address: &str) -> Conflict {
        let known = self.other.take().filter(|other| other.incarnation == incarnation);
        let is_proven = known.is_some_and(|other| other.is_proven);
        self.other = Some(Other { incarnation, address: address.into(), is_proven });
        if is_proven {
            return Conflict::Duplicate { first: self.address.clone(), second: address.into() };
        }
        self.sessions.values().for_each(|ask| ask());
        Conflict::Unclear
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn the_later_of_two_processes_is_refused_once_the_first_has_shown_that_it_is_there() {
        let (presence, asked) = (Presence::default(), Arc::<AtomicU32>::default());
        let ask = || -> Ask {
            let asked = asked.clone();
            Box::new(move || {
                asked.fetch_add(1, Ordering::Relaxed);
            })
        };
        let first = presence.enter(2, (7, "a:1"), ask()).unwrap();
        let again = presence.enter(2, (7, "a:1"), ask()).unwrap();
        presence.leave(2, again);
        assert_eq!(presence.enter(2, (8, "b:1"), ask()), Err(Conflict::Unclear));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(presence.duplicates().is_empty());
        presence.prove(2, first);
        let duplicate = Conflict::Duplicate { first: "a:1".into(), second: "b:1".into() };
        assert_eq!(presence.enter(2, (8, "b:1"), ask()), Err(duplicate));
        assert!(presence.duplicates()[0].1.contains("at a:1 and at b:1"));
        // A third one has to be told from the first as well.
        assert_eq!(presence.enter(2, (9, "c:1"), ask()), Err(Conflict::Unclear));
        // What is left of a process that is gone is no reason to refuse the next one.
        presence.leave(2, first);
        presence.enter(2, (8, "b:1"), ask()).unwrap();
        assert!(presence.duplicates().is_empty());
    }
}
