use std::{
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use openraft::{
    Snapshot,
    raft::{AppendEntriesRequest, SnapshotResponse},
};
use tsoracle_cluster::{
    snapshot::{self, Saving},
    transport::{Handler, Sender},
};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::{
    elections::{self, Standing},
    keeper::Keeper,
    known::Known,
    machine::{blocking, discard, receive},
    types::{Meta, Raft, SnapshotFile, TypeConfig, Vote},
    wire::{APPEND, CANVASS, PING, Part, SNAPSHOT, STAND, Told, VOTE, pack, unpack},
};

/// Answers what other nodes ask.
pub(crate) struct Peers {
    pub(crate) raft: Raft,
    pub(crate) standing: Standing,
    pub(crate) keeper: Keeper,
    pub(crate) known: Arc<Known>,
    /// The snapshot that is being received.
    pub(crate) incoming: Mutex<Option<Incoming>>,
}

/// A snapshot of which some parts are there.
pub(crate) struct Incoming {
    id: String,
    next: u64,
    file: SnapshotFile,
    saving: Saving,
}

impl Peers {
    /// Notes that a leader was heard, unless a later one is known.
    fn heard(&self, vote: &Vote) {
        if *vote >= self.raft.metrics().borrow().vote {
            self.standing.contact.note();
        }
    }

    fn told<T>(&self, told: Told<T>) -> T {
        self.known.learn(told.known);
        told.message
    }

    async fn part(&self, part: Part) -> Result<Bytes> {
        let vote = self.raft.metrics().borrow().vote;
        if vote > part.vote {
            return pack(&SnapshotResponse { vote });
        }
        let begun = match part.number {
            0 => {
                // What a sender left unfinished is of no use to another.
                let abandoned = self.incoming().take();
                if let Some(Incoming { saving, .. }) = abandoned {
                    saving.abandon();
                }
                let (keeper, id) = (self.keeper.clone(), part.meta.snapshot_id.clone());
                Some(blocking(move || begin(&keeper, id)).await?)
            }
            _ => self.incoming().take(),
        };
        let expected =
            |begun: &Incoming| begun.id == part.meta.snapshot_id && begun.next == part.number;
        let Some(mut incoming) = begun.filter(expected) else {
            let context = "the parts of a snapshot came out of order; it is begun anew";
            return Err(Error::new(ErrorKind::Unavailable, context));
        };
        let Some(chunk) = part.chunk else {
            return self.install(part.vote, part.meta, incoming).await;
        };
        incoming.next += 1;
        let incoming = blocking(move || incoming.saving.add(&chunk).map(|()| incoming)).await?;
        *self.incoming() = Some(incoming);
        pack(&SnapshotResponse { vote })
    }

    async fn install(&self, vote: Vote, meta: Meta, incoming: Incoming) -> Result<Bytes> {
        let Incoming { file, saving, .. } = incoming;
        let path = file.0.clone();
        let whole = blocking(move || {
            saving.finish()?;
            snapshot::verify(snapshot::load(&path)?)
        });
        let installed = match whole.await {
            Ok(()) => {
                let snapshot = Snapshot { meta, snapshot: Box::new(file.clone()) };
                self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)
            }
            Err(error) => Err(error),
        };
        discard(&file);
        pack(&installed?)
    }

    fn incoming(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begin(keeper: &Keeper, id: String) -> Result<Incoming> {
    let file = receive(keeper);
    Ok(Incoming { id, next: 0, saving: Saving::begin(&file.0)?, file })
}

fn stopped(error: impl Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("raft does not answer: {error}"))
}

#[async_trait]
impl Handler for Peers {
    fn admit(&self, sender: Sender) -> Result<()> {
        self.known.admit(sender)
    }

    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes> {
        match kind {
            APPEND => {
                let rpc: AppendEntriesRequest<TypeConfig> = self.told(unpack(&body)?);
                self.heard(&rpc.vote);
                pack(&self.raft.append_entries(rpc).await.map_err(stopped)?)
            }
            VOTE => {
                let rpc = self.told(unpack(&body)?);
                pack(&self.raft.vote(rpc).await.map_err(stopped)?)
            }
            SNAPSHOT => {
                let part: Part = unpack(&body)?;
                self.heard(&part.vote);
                self.part(part).await
            }
            CANVASS => pack(&elections::would_vote(&self.standing, unpack(&body)?)),
            STAND => {
                // Who does not lead any more may have said so long ago.
                let leader = self.raft.metrics().borrow().current_leader;
                if leader != Some(sender.node.into()) {
                    return Err(stopped("another node leads"));
                }
                tracing::info!("the leader leaves; standing for election");
                self.raft.trigger().elect().await.map_err(stopped)?;
                Ok(Bytes::new())
            }
            PING => Ok(Bytes::new()),
            kind => {
                let context = format!("a message of kind {kind} is not known to this release");
                Err(Error::new(ErrorKind::Config, context))
            }
        }
    }

    // Nothing is sent on streams.
    async fn received(&self, _: Sender, _: Bytes) {}

    fn connected(&self, _: u32) {}
}
