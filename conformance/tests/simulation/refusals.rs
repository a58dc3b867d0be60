//! Whether what was refused may have been refused: a node that was deposed must not refuse what its
//! successor has granted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use tsoracle_core::{LeaseId, Reject, state::Capped};

use crate::{naming::Named, reached::Reached, sessions::Id, world::World};

/// What callers know for certain, and since when.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Sessions that have got an answer.
    sessions: BTreeMap<String, u64>,
    /// Sessions that may be closed.
    closed: BTreeSet<String>,
    keys: BTreeMap<&'static str, u64>,
    leases: BTreeMap<LeaseId, u64>,
    /// Per name, the requests that were sent under it.
    names: BTreeMap<String, BTreeSet<Entries>>,
    /// Names under which something was answered.
    named: BTreeMap<String, u64>,
    /// Sessions may have expired, and names if they are kept no longer.
    slept: bool,
}

type Entries = Vec<(&'static str, u32)>;

/// What was asked for.
pub(crate) struct Asked<'a> {
    pub(crate) keys: Vec<&'static str>,
    pub(crate) id: Option<&'a Id>,
    pub(crate) name: Option<&'a Named>,
    pub(crate) lease: Option<LeaseId>,
}

impl Refusals {
    /// Notes a request that is about to be sent under a name.
    pub(crate) fn named(&self, name: &Named, entries: &[(&'static str, u32)]) {
        let mut known = self.0.lock().unwrap();
        known.names.entry(name.text().into()).or_default().insert(entries.to_vec());
    }

    /// Notes a request that was answered.
    pub(crate) fn answered(&self, end_ns: u64, asked: &Asked<'_>) {
        let mut known = self.0.lock().unwrap();
        for key in &asked.keys {
            known.keys.entry(key).or_insert(end_ns);
        }
        if let Some(name) = asked.name {
            known.named.entry(name.text().into()).or_insert(end_ns);
        }
        if let Some(id) = asked.id
            && !id.close
        {
            known.sessions.entry(id.session.name().into()).or_insert(end_ns);
        }
    }

    /// Whether something was answered under this name.
    pub(crate) fn is_known(&self, name: &Named) -> bool {
        self.0.lock().unwrap().named.contains_key(name.text())
    }

    pub(crate) fn granted(&self, end_ns: u64, lease: LeaseId) {
        self.0.lock().unwrap().leases.entry(lease).or_insert(end_ns);
    }

    /// The session is about to be closed.
    pub(crate) fn closed(&self, session: &str) {
        self.0.lock().unwrap().closed.insert(session.into());
    }

    /// Whether the session was answered before and is not known any more since it has expired.
    pub(crate) fn has_expired(&self, session: &str) -> bool {
        let known = self.0.lock().unwrap();
        known.slept && known.sessions.contains_key(session) && !known.closed.contains(session)
    }

    /// Sessions may expire from now on.
    pub(crate) fn slept(&self) {
        self.0.lock().unwrap().slept = true;
    }

    /// Whether they may.
    pub(crate) fn have_slept(&self) -> bool {
        self.0.lock().unwrap().slept
    }

    /// Why a call that began at `start_ns` must not be refused so, if it must not.
    pub(crate) fn judge(
        &self,
        world: &World,
        reject: &Reject,
        start_ns: u64,
        asked: Asked<'_>,
    ) -> Option<String> {
        let known = self.0.lock().unwrap();
        let was_known = |since: Option<&u64>| since.is_some_and(|&since| since < start_ns);
        let session = asked.id.map(|id| id.session.name());
        let session_is_known = session.is_some_and(|session| {
            was_known(known.sessions.get(session)) && !known.closed.contains(session)
        }) && !known.slept;
        let is_wrong = match reject {
            Reject::SessionUnknown => session_is_known,
            Reject::TooMany { what: Capped::Sessions, .. } => {
                world.reached(Reached::Capped);
                session_is_known
            }
            Reject::TooMany { what: Capped::Sequences, .. } => {
                world.reached(Reached::Capped);
                asked.keys.iter().all(|key| was_known(known.keys.get(key)))
            }
            Reject::TooManyOpenRequests { limit } => {
                world.reached(Reached::Capped);
                asked.id.is_none_or(|id| id.number - id.first_incomplete < *limit)
            }
            // Of the requests that are waited for, none is ever forgotten while the session lives.
            Reject::Forgotten { .. } => {
                session.is_none_or(|session| !known.closed.contains(session) && !known.slept)
            }
            // Only what another request was sent under is in use for another one.
            Reject::NameReused => {
                world.reached(Reached::NameReused);
                let sent = asked.name.and_then(|name| known.names.get(name.text()));
                sent.is_none_or(|requests| requests.len() < 2)
            }
            Reject::TooMany { what: Capped::Named, .. } => {
                world.reached(Reached::Capped);
                let expires = known.slept && world.names_expire();
                !expires && was_known(asked.name.and_then(|name| known.named.get(name.text())))
            }
            Reject::LeaseUnknown { .. } => {
                asked.lease.is_none_or(|lease| was_known(known.leases.get(&lease)))
            }
            Reject::TooMany { what: Capped::Leases, .. } => {
                world.reached(Reached::Capped);
                false
            }
            Reject::StaleHolder { .. }
            | Reject::LeaseOver { .. }
            | Reject::LeaseSuperseded { .. } => {
                world.reached(Reached::LeaseOver);
                false
            }
            _ => true,
        };
        is_wrong.then(|| reject.to_string())
    }
}
