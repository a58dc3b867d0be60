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
    /// A session begins: what was sent before in another one may be lost.
    Hello,
    /// The leader leaves, and asks this node to stand for election.
    TakeOver,
    /// A message of OmniPaxos.
    Message(Box<Message<Entry>>),
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
        if !(HELLO..=LAST_PART).contains(&kind) {
            return Err(malformed(&format!("is of kind {kind}")));
        }
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
            _ => match self.join(rest)? {
                Some(()) => {
                    let (_, bytes) = self.parts.take().expect("a part was just added");
                    let message = postcard::from_bytes(&bytes).map_err(|source| {
                        malformed("cannot be read: run releases that go together")
                            .with_source(source)
                    })?;
                    Ok(Some(Said::Message(Box::new(message))))
                }
                None => Ok(None),
            },
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

#[cfg(test)]
mod tests {
    use omnipaxos::{
        messages::sequence_paxos::{AcceptDecide, Accepted, Compaction},
        util::SequenceNumber,
    };
    use tsoracle_cluster::{EntryId, LogEntry};
    use tsoracle_core::{
        Epoch, SeqKey,
        state::{Command, Limits, Seed},
    };

    use super::*;

    fn of(msg: PaxosMsg<Entry>) -> Message<Entry> {
        Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg })
    }

    /// A message of more than two parts.
    fn large() -> Message<Entry> {
        let key = SeqKey::new("k".repeat(128)).unwrap();
        let seed = Command::Seed(Seed { key, start: 1, limits: Limits::default() });
        let id = EntryId { node: 1, claim: 1, counter: 1 };
        let entry = LogEntry { id, epoch: Epoch(1), commands: vec![seed; 4_000] };
        of(PaxosMsg::AcceptDecide(AcceptDecide {
            n: Ballot::with(1, 5, 0, 1),
            seq_num: SequenceNumber { session: 1, counter: 2 },
            decided_idx: 3,
            entries: vec![Entry::new(&entry).unwrap(); 5],
        }))
    }

    fn same(said: Option<Said>, sent: &Message<Entry>) {
        match said {
            Some(Said::Message(message)) => assert_eq!(format!("{message:?}"), format!("{sent:?}")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_in_parts_is_read_as_sent() {
        let (sent, mut inbox) = (large(), Inbox::default());
        let bodies = message(&sent, 7, 0).unwrap();
        assert!(bodies.len() > 2, "{}", bodies.len());
        let (last, before) = bodies.split_last().unwrap();
        for body in before {
            assert!(inbox.take(body).unwrap().is_none());
        }
        same(inbox.take(last).unwrap(), &sent);
        // And a small one after it, in one.
        let small = of(PaxosMsg::Accepted(Accepted { n: Ballot::default(), accepted_idx: 1 }));
        let bodies = message(&small, 7, 1).unwrap();
        assert_eq!(bodies.len(), 1);
        same(inbox.take(&bodies[0]).unwrap(), &small);
    }

    #[test]
    fn a_message_with_a_part_missing_is_left_out_and_the_next_one_is_not() {
        let sent = large();
        let (first, second) = (message(&sent, 7, 0).unwrap(), message(&sent, 7, 1).unwrap());
        for missing in 0..first.len() {
            let mut inbox = Inbox::default();
            for (_, body) in first.iter().enumerate().filter(|(part, _)| *part != missing) {
                assert!(inbox.take(body).unwrap().is_none(), "{missing}");
            }
            let (last, before) = second.split_last().unwrap();
            assert!(before.iter().all(|body| inbox.take(body).unwrap().is_none()));
            same(inbox.take(last).unwrap(), &sent);
        }
    }

    #[test]
    fn stragglers_of_an_earlier_session_are_left_out() {
        let small = of(PaxosMsg::Accepted(Accepted { n: Ballot::default(), accepted_idx: 1 }));
        let body = |session| message(&small, session, 0).unwrap().remove(0);
        let mut inbox = Inbox::default();
        same(inbox.take(&body(1)).unwrap(), &small);
        assert!(matches!(inbox.take(&hello(2)).unwrap(), Some(Said::Hello)));
        assert!(inbox.take(&body(1)).unwrap().is_none());
        assert!(inbox.take(&take_over(1)).unwrap().is_none());
        same(inbox.take(&body(2)).unwrap(), &small);
        assert!(matches!(inbox.take(&take_over(2)).unwrap(), Some(Said::TakeOver)));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut inbox = Inbox::default();
        let small = of(PaxosMsg::Accepted(Accepted { n: Ballot::default(), accepted_idx: 1 }));
        let body = message(&small, 1, 0).unwrap().remove(0);
        for length in 0..body.len() {
            let error = inbox.take(&body[..length]).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{length}");
        }
        assert!(inbox.take(&[9; 30]).is_err());
        same(inbox.take(&body).unwrap(), &small);
        let (transfer, index, start) = read_chunk(&chunk(7, 8, b"chunk")).unwrap();
        assert_eq!((transfer, index, start), (7, 8, 12));
        assert!(read_chunk(b"short").is_err());
    }

    #[test]
    fn messages_that_no_node_of_ours_sends_do_not_come_to_the_library() {
        let accepted = |config| {
            let n = Ballot::with(config, 5, 0, 1);
            of(PaxosMsg::Accepted(Accepted { n, accepted_idx: 1 }))
        };
        check(&accepted(1), 1, 2, 1).unwrap();
        let sync = |snapshot| {
            let log_sync = LogSync {
                decided_snapshot: Some(snapshot),
                suffix: vec![],
                sync_idx: 0,
                stopsign: None,
            };
            of(PaxosMsg::AcceptSync(omnipaxos::messages::sequence_paxos::AcceptSync {
                n: Ballot::with(1, 5, 0, 1),
                seq_num: SequenceNumber::default(),
                decided_idx: 0,
                log_sync,
            }))
        };
        let empty = Snapshot { base: Base::Nothing, entries: vec![] };
        check(&sync(SnapshotType::Complete(empty.clone())), 1, 2, 1).unwrap();
        check(&accepted(1), 3, 2, 1).unwrap_err();
        check(&accepted(1), 1, 3, 1).unwrap_err();
        for wrong in [
            accepted(2),
            of(PaxosMsg::ProposalForward(vec![])),
            of(PaxosMsg::Compaction(Compaction::Trim(1))),
            sync(SnapshotType::Complete(Snapshot::here())),
            sync(SnapshotType::Delta(Snapshot::here())),
            sync(SnapshotType::Delta(Snapshot { base: Base::Image(Default::default()), ..empty })),
        ] {
            let error = check(&wrong, 1, 2, 1).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{wrong:?}");
        }
    }
}
