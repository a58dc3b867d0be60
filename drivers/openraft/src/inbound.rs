use std::{fmt::Display, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::sync::watch;
use tsoracle_core::{Error, ErrorKind, Result};
use tsoracle_replica::{
    Tasks,
    leaps::REACHED,
    transfer::{CHUNK, Inbox},
    transport::{Handler, Sender},
};

use crate::{
    elections::{self, Contact},
    numbers::{self, Numbers},
    types::{Applied, Id, Raft, Snapshot, SnapshotData, TypeConfig, Vote},
    wire::{APPEND, CAMPAIGN, INSTALL, Install, PING, PRE_VOTE, REMOVED, VOTE, pack, unpack},
};

/// Answers the calls of other nodes.
pub(crate) struct Inbound {
    pub(crate) raft: Raft,
    pub(crate) contact: Arc<Contact>,
    pub(crate) inbox: Inbox,
    pub(crate) tasks: Tasks,
    pub(crate) numbers: Arc<Numbers>,
    /// Set once a leader has said that this node was removed.
    pub(crate) removed: Arc<watch::Sender<bool>>,
}

impl Inbound {
    /// Notes that a leader was heard, unless a later one is known.
    fn heard(&self, vote: &Vote) {
        if *vote >= self.raft.metrics().borrow().vote {
            self.contact.note_leader(*vote);
        }
    }

    fn is_leader(&self, node: u32) -> bool {
        self.raft.metrics().borrow().current_leader == Some(node.into())
    }

    async fn append(&self, from: u32, rpc: AppendEntriesRequest<TypeConfig>) -> Result<Bytes> {
        numbers::check_append(&rpc, from, self.numbers.applied().as_ref())?;
        self.numbers.admit(&rpc.vote, None).await?;
        self.heard(&rpc.vote);
        pack(&self.raft.append_entries(rpc).await.map_err(stopped)?)
    }

    async fn vote(&self, from: u32, rpc: VoteRequest<u64>) -> Result<Bytes> {
        numbers::check_vote(&rpc, from)?;
        self.numbers.admit(&rpc.vote, None).await?;
        pack(&self.raft.vote(rpc).await.map_err(stopped)?)
    }

    async fn install(&self, from: u32, message: Install) -> Result<Bytes> {
        let received = self.inbox.finish(&self.tasks, from, message.transfer).await?;
        let found = Applied::read(&received.applied()?)?;
        let (vote, meta) = (&message.vote, &message.meta);
        numbers::check_state((vote, meta), from, &found, self.numbers.applied().as_ref())?;
        self.numbers.admit(vote, meta.last_log_id.as_ref()).await?;
        self.heard(vote);
        let chunks = Box::new(received.into_chunks()?);
        let snapshot = Snapshot { meta: message.meta, snapshot: Box::new(SnapshotData(chunks)) };
        let installed = self.raft.install_full_snapshot(message.vote, snapshot).await;
        pack(&installed.map_err(stopped)?)
    }

    /// The leader that this node follows is believed, as it is about what is committed.
    fn remove(&self, by: u32, vote: &Vote) -> Result<Bytes> {
        if !self.is_leader(by) || *vote < self.raft.metrics().borrow().vote {
            return Err(stopped("another node leads"));
        }
        self.removed.send_replace(true);
        Ok(Bytes::new())
    }

    /// Campaigns because the leader wants it.
    async fn campaign(&self, by: u32) -> Result<Bytes> {
        // A node that does not lead any more may have asked long ago.
        if !self.is_leader(by) {
            return Err(stopped("another node leads"));
        }
        tracing::info!(by, "the leader leaves; campaigning");
        self.raft.trigger().elect().await.map_err(stopped)?;
        Ok(Bytes::new())
    }
}

fn stopped(error: impl Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("raft does not answer: {error:#}"))
}

#[async_trait]
impl Handler for Inbound {
    /// The transport knows the nodes by their ids; which of them vote is known to raft.
    fn admit(&self, _: Sender) -> Result<()> {
        Ok(())
    }

    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes> {
        match kind {
            APPEND => self.append(sender.node, unpack(&body)?).await,
            VOTE => self.vote(sender.node, unpack(&body)?).await,
            CHUNK => {
                if self.is_leader(sender.node) {
                    self.contact.note();
                }
                self.inbox.take(&self.tasks, sender.node, &body).await
            }
            INSTALL => self.install(sender.node, unpack(&body)?).await,
            PRE_VOTE => {
                let last: Option<Id> = unpack(&body)?;
                let would_vote = self.numbers.is_near(last.as_ref())
                    && elections::would_vote(&self.raft, &self.contact, last);
                pack(&would_vote)
            }
            CAMPAIGN => self.campaign(sender.node).await,
            PING => Ok(Bytes::new()),
            REACHED => Ok(self.numbers.log.reached().encode()),
            REMOVED => self.remove(sender.node, &unpack(&body)?),
            kind => {
                let context = format!("a message of kind {kind} is not known to this release");
                Err(Error::new(ErrorKind::Config, context))
            }
        }
    }

    // Nothing is sent but calls.
    async fn received(&self, _: Sender, _: Bytes) {}

    fn connected(&self, _: u32) {}

    fn disconnected(&self, peer: u32) {
        self.inbox.abandon(peer);
    }

    fn address(&self, node: u32) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let member = metrics.membership_config.membership().get_node(&node.into())?;
        Some(member.peer.clone())
    }
}
