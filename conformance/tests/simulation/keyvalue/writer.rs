//! Commits, one after another, each as one transaction.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tsoracle_core::{
    Committed, Epoch, Error, ErrorKind, Result, SeqStore as _,
    state::{Answer as Answered, Command, Effect, Query, REIGN, answer, apply},
};

use super::{
    PAUSE, Shared,
    store::{Answer, Commit, Request, Versioned},
};
use crate::{clock::pass, world::Point};

/// How often the store is asked for one thing.
const ATTEMPTS: usize = 3;

/// What a caller has the writer do.
#[derive(Debug)]
pub(super) enum Job {
    Commit { epoch: Epoch, commands: Vec<Command>, reply: oneshot::Sender<Result<Committed>> },
    Read { query: Query, reply: oneshot::Sender<Result<Answered>> },
    Stop { reply: oneshot::Sender<()> },
}

/// It remembers the state that it has read and written. That is no authority: each transaction compares
/// the version that its commands were worked out from.
pub(super) struct Writer {
    shared: Arc<Shared>,
    known: Option<Versioned>,
    commits: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, known: None, commits: 0 }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = queue.recv().await {
            // Whoever asked may have gone.
            match job {
                Job::Commit { epoch, commands, reply } => {
                    let _ = reply.send(self.commit(epoch, &commands).await);
                }
                Job::Read { query, reply } => {
                    let read = self.ask(Request::Look).await;
                    let _ = reply.send(match read {
                        Some(found) => answer(&found.state.entries, &query),
                        None => Err(unavailable()),
                    });
                }
                Job::Stop { reply } => {
                    let claim = self.shared.claim.lock().unwrap().take();
                    if let Some(claim) = claim {
                        self.ask(Request::Revoke(claim.lease)).await;
                    }
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    /// Asks until there is an answer, for something that may be done twice.
    async fn ask(&self, request: Request) -> Option<Answer> {
        for _ in 0..ATTEMPTS {
            match self.shared.ask(request.clone()).await {
                Some(answer) => return Some(answer),
                None => pass(PAUSE).await,
            }
        }
        None
    }

    async fn commit(&mut self, epoch: Epoch, commands: &[Command]) -> Result<Committed> {
        let fences = matches!(commands.first(), Some(Command::Fence { .. }));
        if fences {
            // What an earlier claim knew is of no use to this one.
            self.known = None;
        }
        loop {
            let claim = self.shared.leads(epoch).ok_or_else(not_leader)?;
            let mut known = match self.known.take() {
                Some(known) => known,
                None => {
                    self.ask(Request::Look).await.ok_or_else(unavailable)?.state.as_ref().clone()
                }
            };
            let (results, effect) = apply(&known.entries, epoch, commands)?;
            self.commits += 1;
            let name = format!("{}-{}", self.shared.node.0, self.commits);
            let (created, modified) = (claim.created, known.modified);
            let commit = Commit { created, modified, name, epoch, effect: effect.clone() };
            let world = &self.shared.world;
            world.hazard(self.shared.me, Point::Sync).await;
            let Some(modified) = self.store(commit).await? else { continue };
            let (replaced, _) = known.reign;
            follow(&mut known, (modified, epoch), effect);
            self.known = Some(known);
            let replaced_seen = if fences { self.shared.evidence(replaced) } else { None };
            return Ok(Committed { results, replaced_seen });
        }
    }

    /// The revision in which it is stored. `None` if somebody has written since, and certainly not this.
    ///
    /// A transaction that got no answer is sent again as it was: at most one of both goes through.
    async fn store(&self, commit: Commit) -> Result<Option<u64>> {
        let commit = Arc::new(commit);
        let mut may_be_stored = false;
        for _ in 0..ATTEMPTS {
            let Some(answer) = self.shared.ask(Request::Commit(commit.clone())).await else {
                may_be_stored |= !commit.effect.is_empty();
                pass(PAUSE).await;
                continue;
            };
            let state = &answer.state;
            if answer.done {
                return Ok(Some(if commit.effect.is_empty() {
                    commit.modified
                } else {
                    state.modified
                }));
            }
            if state.name == commit.name {
                return Ok(Some(state.modified));
            }
            if answer.holder.is_some_and(|holder| holder.created == commit.created) {
                return Ok(None);
            }
            self.shared.look.notify_one();
            return Err(match may_be_stored && state.modified != commit.modified {
                true => uncertain(),
                false => not_leader(),
            });
        }
        Err(if may_be_stored { uncertain() } else { unavailable() })
    }
}

fn follow(known: &mut Versioned, written: (u64, Epoch), effect: Effect) {
    (known.modified, _) = written;
    if effect.touches(REIGN) {
        known.reign = written;
    }
    known.entries.commit(effect).expect("memory does not fail");
}

fn not_leader() -> Error {
    Error::new(ErrorKind::NotLeader(None), "this node does not lead under that epoch")
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the store does not answer")
}

fn uncertain() -> Error {
    Error::new(ErrorKind::Uncertain, "the transaction may or may not have been made")
}
