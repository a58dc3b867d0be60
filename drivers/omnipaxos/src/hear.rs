//! What comes from the peers.

use std::time::Duration;

use bytes::Bytes;
use omnipaxos::messages::{
    Message,
    ballot_leader_election::{BLEMessage, HeartbeatMsg},
    sequence_paxos::{PaxosMessage, PaxosMsg},
};
use tsoracle_cluster::transport::Sender;
use tsoracle_core::{BootTime, Error, ErrorKind, Result};

use crate::{
    entry::Entry,
    node::{Event, Node},
    wire::{self, Said},
};

/// For how long a peer is not asked again for what a state that was carried to it has answered.
pub(crate) const CARRIED: Duration = Duration::from_secs(2);

impl Node {
    /// Takes in what has come.
    ///
    /// # Errors
    /// Those of the store, and `Config` if the others know this node by another directory.
    pub(crate) fn hear(&mut self, event: Event, now: BootTime) -> Result<()> {
        match event {
            Event::Body { sender, body } => {
                match self.peers.take(&self.store, sender, &body, now) {
                    Ok(None) => {}
                    Ok(Some(Said::Hello)) => self.paxos.reconnected(sender.node.into()),
                    Ok(Some(Said::TakeOver)) => self.stand(sender.node),
                    Ok(Some(Said::Message(message))) => self.handle(sender.node, *message, now)?,
                    Err(error) => self.note_dropped(sender, error)?,
                }
            }
            Event::Call { sender, kind, body, reply } => {
                let answer = self.answer(sender, kind, &body, now)?;
                // The peer may have given up.
                let _ = reply.send(answer);
            }
            Event::Connected { peer } => {
                self.peers.connected(peer);
                self.paxos.reconnected(peer.into());
            }
            Event::Known { peer, known } => self.peers.known_as(peer, known)?,
            Event::Carried { peer, transfer, carried } => {
                // What waited for it may name the state once more.
                self.write_state()?;
                let transfer = (peer, transfer);
                self.peers.carried(&self.store, self.applied, transfer, carried, now)?;
            }
        }
        Ok(())
    }

    /// What is not sound is dropped, and said once; anything else has failed here.
    fn note_dropped(&mut self, sender: Sender, error: Error) -> Result<()> {
        if !matches!(error.kind(), ErrorKind::Config | ErrorKind::Invalid) {
            return Err(error);
        }
        let reason = error.to_string();
        if self.dropped != reason {
            tracing::warn!(peer = sender.node, reason, "what a peer says is not listened to");
            self.dropped = reason;
        }
        Ok(())
    }

    /// Answers a call, unless something failed here.
    fn answer(
        &mut self,
        sender: Sender,
        kind: u32,
        body: &[u8],
        now: BootTime,
    ) -> Result<Result<Bytes>> {
        let recognized = self.peers.recognize(&self.store, sender);
        if let Err(error) = recognized {
            self.note_dropped(sender, error.duplicate())?;
            // It is told by which id it is known: it must not take part under another one.
            return Ok(match (kind, self.peers.known(sender.node)) {
                (wire::GREET, Some(known)) => Ok(Bytes::copy_from_slice(&known.0.to_be_bytes())),
                _ => Err(error),
            });
        }
        Ok(match kind {
            wire::GREET => Ok(Bytes::copy_from_slice(&sender.id.0.to_be_bytes())),
            wire::CHUNK => self.peers.take_chunk(sender.node, body, now),
            other => Err(Error::new(ErrorKind::Invalid, format!("no call is of kind {other}"))),
        })
    }

    fn handle(&mut self, peer: u32, message: Message<Entry>, now: BootTime) -> Result<()> {
        let leads = self.paxos.get_current_leader() == Some((self.own, true));
        if let Message::SequencePaxos(PaxosMessage { msg, .. }) = &message {
            let seen = match msg {
                PaxosMsg::AcceptDecide(accept) => &accept.entries[..],
                PaxosMsg::AcceptSync(sync) => &sync.log_sync.suffix[..],
                // Answered by the state that is on its way, and by what follows it.
                PaxosMsg::Promise(_) if leads && self.peers.is_carrying(peer, now, CARRIED) => {
                    return Ok(());
                }
                _ => &[],
            };
            seen.iter().for_each(|entry| self.machine.observe(entry.id(), now));
            // Where a message brings decided entries, the library puts this node's own in front of
            // them, but up to the *new* decided index: with some that were never decided, and in
            // the place of others. So the own ones are applied before, and only what was brought is
            // taken from there.
            if matches!(msg, PaxosMsg::AcceptSync(_) | PaxosMsg::Promise(_)) {
                self.settle(now)?;
            }
        }
        match message {
            Message::BLE(BLEMessage { msg: HeartbeatMsg::Reply(_), .. }) => {
                self.replies.push(message);
            }
            message => self.paxos.handle_incoming(message),
        }
        Ok(())
    }
}
