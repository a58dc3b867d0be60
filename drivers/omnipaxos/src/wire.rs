//! What nodes say to each other, as bytes.
//!
//! A message of the stream begins with its kind and the session it belongs to. Messages of OmniPaxos
//! may be as large as the log, and are sent in parts.

use omnipaxos::{
    ballot_leader_election::Ballot,
    messages::{
        Message,
        ballot_leader_election::HeartbeatMsg,
        sequence_paxos::{PaxosMessage, PaxosMsg},
    },
    storage::SnapshotType,
    util::LogSync,
};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::entry::{Base, Entry, Snapshot};

/// A call: who this node is to the other, by the directory's id.
pub(crate) const GREET: u32 = 1;
/// A call: a chunk of a state that a message will name.
pub(crate) const CHUNK: u32 = 2;

const HELLO: u8 = 1;
const TAKE_OVER: u8 = 2;
const PART: u8 = 3;
const LAST_PART: u8 = 4;

/// The body of one part.
const PART_BYTES: usize = 1 << 20;

/// A whole message: the log with what may be appended beyond its bound.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Parts of one message: its number in the session, and theirs in it.
type Position = (u32, u32);

/// What a body says.
#[derive(Debug)]
pub(crate) enum Said {
    /// A stream stands: what was sent before on another one may be lost.
    Hello,
    /// The leader leaves, and asks this node to stand for election.
    TakeOver,
    /// A message of OmniPaxos.
    Message(Message<Entry>),
}

/// The body that begins a session.
pub(crate) fn hello(session: u64) -> Vec<u8> {
    body(HELLO, session)
}

/// The body by which a leader that stops hands over.
pub(crate) fn take_over(session: u64) -> Vec<u8> {
    body(TAKE_OVER, session)
}

/// The bodies of a message, the session's one of that number.
pub(crate) fn message(message: &Message<Entry>, session: u64, number: u32) -> Result<Vec<Vec<u8>>> {
    let bytes = postcard::to_allocvec(message).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot encode a message to a peer").with_source(source)
    })?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        let context = format!("a message of {} bytes to a peer is too large", bytes.len());
        return Err(Error::new(ErrorKind::Fatal, context));
    }
    let last = bytes.len().div_ceil(PART_BYTES).saturating_sub(1);
    let parts = bytes.chunks(PART_BYTES).enumerate().map(|(index, part)| {
        let mut body = body(if index == last { LAST_PART } else { PART }, session);
        body.extend_from_slice(&number.to_be_bytes());
        body.extend_from_slice(&(index as u32).to_be_bytes());
        body.extend_from_slice(part);
        body
    });
    Ok(parts.collect())
}

fn body(kind: u8, session: u64) -> Vec<u8> {
    let mut body = vec![kind];
    body.extend_from_slice(&session.to_be_bytes());
    body
}

/// What has come from one peer, and is not a whole message yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    session: u64,
    parts: Option<(Position, Vec<u8>)>,
}

impl Inbox {
    /// Takes a body. Nothing if it says nothing yet, or is a straggler of an earlier session.
    ///
    /// # Errors
    /// `Invalid` if it is not to be understood. It changes nothing then.
    pub(crate) fn take(&mut self, body: &[u8]) -> Result<Option<Said>> {
        let Some((&kind, rest)) = body.split_first() else { return Err(malformed("is empty")) };
        let (session, rest) = split(rest, u64::from_be_bytes)?;
        if session < self.session {
            return Ok(None);
        }
        if session > self.session {
            *self = Self { session, parts: None };
        }
        match kind {
            HELLO => Ok(Some(Said::Hello)),
            TAKE_OVER => Ok(Some(Said::TakeOver)),
            PART => self.join(rest).map(|_| None),
            LAST_PART => match self.join(rest)? {
                Some(()) => {
                    let (_, bytes) = self.parts.take().expect("a part was just added");
                    let message = postcard::from_bytes(&bytes).map_err(|source| {
                        malformed("cannot be read: run releases that go together")
                            .with_source(source)
                    })?;
                    Ok(Some(Said::Message(message)))
                }
                None => Ok(None),
            },
            other => Err(malformed(&format!("is of kind {other}"))),
        }
    }

    /// Adds a part to those before it. Nothing if some of those are missing.
    fn join(&mut self, rest: &[u8]) -> Result<Option<()>> {
        let (number, rest) = split(rest, u32::from_be_bytes)?;
        let (index, part) = split(rest, u32::from_be_bytes)?;
        if index == 0 {
            self.parts = Some(((number, 0), part.to_vec()));
            return Ok(Some(()));
        }
        let follows = |(position, _): &mut (Position, Vec<u8>)| *position == (number, index - 1);
        let Some((position, bytes)) = self.parts.as_mut().and_then(|parts| {
            let follows = follows(parts);
            follows.then_some(parts)
        }) else {
            self.parts = None;
            return Ok(None);
        };
        if bytes.len() + part.len() > MAX_MESSAGE_BYTES {
            self.parts = None;
            return Err(malformed("is too large"));
        }
        position.1 = index;
        bytes.extend_from_slice(part);
        Ok(Some(()))
    }
}

/// Takes a number off the front.
fn split<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Result<(T, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or_else(|| malformed("breaks off"))?;
    Ok((number(*head), rest))
}

fn malformed(how: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("a message {how}"))
}

/// The body of a call that carries a chunk.
pub(crate) fn chunk(transfer: u64, index: u32, chunk: &[u8]) -> Vec<u8> {
    [&transfer.to_be_bytes()[..], &index.to_be_bytes(), chunk].concat()
}

/// What [`chunk`] has put together: the transfer, the chunk's number in it, and where it begins.
pub(crate) fn read_chunk(body: &[u8]) -> Result<(u64, u32, usize)> {
    let (transfer, rest) = split(body, u64::from_be_bytes)?;
    let (index, rest) = split(rest, u32::from_be_bytes)?;
    Ok((transfer, index, body.len() - rest.len()))
}

/// Finds out whether a message from node `from` to node `to` is one that our nodes send.
///
/// OmniPaxos takes every message for sound: one that is not must not come to it.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(crate) fn check(message: &Message<Entry>, from: u64, to: u64, config: u32) -> Result<()> {
    if (message.get_sender(), message.get_receiver()) != (from, to) {
        return Err(malformed("names other nodes than the stream does"));
    }
    let ballot = |ballot: &Ballot| match ballot.config_id == config || *ballot == Ballot::default()
    {
        true => Ok(()),
        false => Err(malformed(&format!("is of configuration {}", ballot.config_id))),
    };
    match message {
        Message::BLE(heartbeat) => match &heartbeat.msg {
            HeartbeatMsg::Request(_) => Ok(()),
            HeartbeatMsg::Reply(reply) => ballot(&reply.ballot).and(ballot(&reply.leader)),
        },
        Message::SequencePaxos(PaxosMessage { msg, .. }) => match msg {
            PaxosMsg::PrepareReq(request) => ballot(&request.n),
            PaxosMsg::Prepare(prepare) => ballot(&prepare.n).and(ballot(&prepare.n_accepted)),
            PaxosMsg::Promise(promise) => {
                ballot(&promise.n).and(ballot(&promise.n_accepted))?;
                promise.log_sync.as_ref().map_or(Ok(()), check_sync)
            }
            PaxosMsg::AcceptSync(sync) => ballot(&sync.n).and(check_sync(&sync.log_sync)),
            PaxosMsg::AcceptDecide(accept) => ballot(&accept.n),
            PaxosMsg::NotAccepted(refusal) => ballot(&refusal.n),
            PaxosMsg::Accepted(accepted) => ballot(&accepted.n),
            PaxosMsg::Decide(decide) => ballot(&decide.n),
            PaxosMsg::ProposalForward(_)
            | PaxosMsg::Compaction(_)
            | PaxosMsg::AcceptStopSign(_)
            | PaxosMsg::ForwardStopSign(_) => Err(malformed("is of a kind that is never sent")),
        },
    }
}

fn check_sync(sync: &LogSync<Entry>) -> Result<()> {
    if sync.stopsign.is_some() {
        return Err(malformed("ends the configuration"));
    }
    match &sync.decided_snapshot {
        Some(SnapshotType::Complete(Snapshot { base: Base::Here, .. })) => {
            Err(malformed("leaves out the state that it begins with"))
        }
        Some(SnapshotType::Delta(Snapshot { base: Base::Here | Base::Image(_), .. })) => {
            Err(malformed("adds a state to a state"))
        }
        Some(SnapshotType::Complete(snapshot) | SnapshotType::Delta(snapshot))
            if snapshot.entries.len() > sync.sync_idx =>
        {
            Err(malformed("has more entries than there can be"))
        }
        _ => Ok(()),
    }
}

/// The snapshot in a message, if there is one.
pub(crate) fn snapshot_of(message: &mut Message<Entry>) -> Option<&mut Snapshot> {
    let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return None };
    let sync = match msg {
        PaxosMsg::AcceptSync(sync) => &mut sync.log_sync,
        PaxosMsg::Promise(promise) => promise.log_sync.as_mut()?,
        _ => return None,
    };
    match sync.decided_snapshot.as_mut()? {
        SnapshotType::Complete(snapshot) | SnapshotType::Delta(snapshot) => Some(snapshot),
    }
}
