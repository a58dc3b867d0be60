//! Commits, each as one transaction.

use std::sync::Arc;

use tsoracle_core::{Error, ErrorKind, Outcome, Reads, Result, Snapshot};

use super::{
    PAUSE, Shared,
    store::{Answer, Request},
};
use crate::{clock::pass, disk::Commit, flaw::Flaw, world::Point};

/// How often the store is asked for one thing.
const ATTEMPTS: usize = 3;

impl Shared {
    /// Asks until there is an answer, for something that may be done twice.
    pub(super) async fn ask_again(&self, request: Request) -> Option<Answer> {
        for _ in 0..ATTEMPTS {
            match self.ask(request.clone()).await {
                Some(answer) => return Some(answer),
                None => pass(PAUSE).await,
            }
        }
        None
    }

    /// Reads from any copy of the state that is not older than what is known.
    pub(super) async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        for attempt in 0..ATTEMPTS {
            let request = if attempt == 0 { Request::Read } else { Request::Look };
            let Some(answer) = self.ask(request).await else {
                pass(PAUSE).await;
                continue;
            };
            let is_new = self.advance(answer.state.version);
            if is_new || self.world.has(Flaw::ReadsGoBack) {
                return wanted.read_from(&answer.state.entries);
            }
        }
        Err(unavailable())
    }

    /// A transaction that got no answer is sent again as it was: at most one of both goes through.
    pub(super) async fn commit(&self, commit: Arc<Commit>) -> Result<Outcome> {
        let _in_flight = self.in_flight.read().await;
        if self.is_stopped() {
            return Err(unavailable());
        }
        let created = match self.world.temper.compares_election {
            // None is created in revision 0.
            true => Some(self.claim.lock().unwrap().map_or(0, |claim| claim.created)),
            false => None,
        };
        self.world.hazard(self.me, Point::Sync).await;
        let mut may_be_stored = false;
        for _ in 0..ATTEMPTS {
            let request = Request::Commit { commit: commit.clone(), created };
            let Some(answer) = self.ask(request).await else {
                may_be_stored = true;
                pass(PAUSE).await;
                continue;
            };
            if answer.done || answer.state.version == commit.next {
                self.advance(commit.next);
                return Ok(Outcome::Stored);
            }
            self.look.notify_one();
            return self.not_done(&commit, &answer, may_be_stored);
        }
        Err(if may_be_stored { uncertain() } else { unavailable() })
    }

    /// What to say of a transaction whose conditions did not hold. An earlier copy of it, also one that the
    /// network has made, may have been carried out.
    fn not_done(&self, commit: &Commit, answer: &Answer, is_doubled: bool) -> Result<Outcome> {
        let found = answer.state.version;
        if self.world.has(Flaw::ConflictFromBehind) {
            return Ok(Outcome::Conflict { found });
        }
        match commit.base.admits(commit.next, found) {
            Some(Outcome::Conflict { found }) if found.position() <= commit.next.position() => {
                self.advance(found);
                Ok(Outcome::Conflict { found })
            }
            // It is still at the base: the election key is another node's.
            Some(Outcome::Stored) if !is_doubled => {
                Err(Error::new(ErrorKind::NotLeader(None), "this node does not lead"))
            }
            _ => Err(uncertain()),
        }
    }
}

pub(super) fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the store does not answer")
}

pub(super) fn uncertain() -> Error {
    Error::new(ErrorKind::Uncertain, "the transaction may or may not have been made")
}
