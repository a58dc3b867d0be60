//! What nodes send each other.

use omnipaxos::{
    messages::{
        Message,
        sequence_paxos::{PaxosMessage, PaxosMsg},
    },
    util::LogSync,
};
use serde::{Deserialize, Serialize};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::entry::{Entry, State};

/// A message to a peer. It may be as large as the log, and is sent in parts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PeerMessage {
    /// A session begins: what was sent before may be lost.
    Hello,
    /// The leader has the receiver campaign.
    TakeOver,
    /// A message of OmniPaxos.
    Paxos(Message<Entry>),
}

impl PeerMessage {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_allocvec(self).map_err(|source| {
            Error::new(ErrorKind::Fatal, "cannot encode a message to a peer").with_source(source)
        })
    }

    /// The message that was encoded.
    ///
    /// # Errors
    /// `Invalid` if it cannot be read.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        postcard::from_bytes(bytes).map_err(|source| {
            malformed("cannot be read: run releases that go together").with_source(source)
        })
    }
}

/// Finds out whether a message from node `from` to node `to` is one that these nodes send.
///
/// OmniPaxos takes every message for sound: one that is not must not reach it.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(crate) fn check(message: &Message<Entry>, from: u32, to: u32) -> Result<()> {
    if (message.get_sender(), message.get_receiver()) != (from.into(), to.into()) {
        return Err(malformed("names other nodes than the session does"));
    }
    let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return Ok(()) };
    match msg {
        PaxosMsg::Promise(promise) => promise.log_sync.as_ref().map_or(Ok(()), check_sync),
        PaxosMsg::AcceptSync(sync) => check_sync(&sync.log_sync),
        PaxosMsg::AcceptDecide(accept) => are_commits(&accept.entries),
        PaxosMsg::ProposalForward(_)
        | PaxosMsg::Compaction(_)
        | PaxosMsg::AcceptStopSign(_)
        | PaxosMsg::ForwardStopSign(_) => Err(malformed("is of a kind that is never sent")),
        _ => Ok(()),
    }
}

fn check_sync(sync: &LogSync<Entry>) -> Result<()> {
    if sync.stopsign.is_some() {
        return Err(malformed("ends the configuration"));
    }
    if sync.decided_snapshot.is_some() {
        return Err(malformed("has a snapshot of the library's own"));
    }
    match sync.suffix.split_first() {
        Some((Entry::State(state), _)) if state.index <= sync.sync_idx => {
            Err(malformed("names a state that is not needed"))
        }
        Some((_, rest)) => are_commits(rest),
        None => Ok(()),
    }
}

fn are_commits(entries: &[Entry]) -> Result<()> {
    match entries.iter().all(|entry| matches!(entry, Entry::Commit(_))) {
        true => Ok(()),
        false => Err(malformed("names a state between entries")),
    }
}

/// What a message brings to bring another log up to date, if it does.
fn log_sync(message: &mut Message<Entry>) -> Option<&mut LogSync<Entry>> {
    let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return None };
    match msg {
        PaxosMsg::AcceptSync(sync) => Some(&mut sync.log_sync),
        PaxosMsg::Promise(promise) => promise.log_sync.as_mut(),
        _ => None,
    }
}

/// The state that a message names, if it does.
pub(crate) fn state_of(message: &mut Message<Entry>) -> Option<&mut State> {
    match log_sync(message)?.suffix.first_mut()? {
        Entry::State(state) => Some(state),
        Entry::Commit(_) => None,
    }
}

/// Removes the state that a message names: for OmniPaxos, the log of the sender begins after it.
pub(crate) fn take_state(message: &mut Message<Entry>) -> Option<State> {
    let state = *state_of(message)?;
    let sync = log_sync(message)?;
    sync.suffix.remove(0);
    sync.sync_idx = state.index;
    Some(state)
}

/// Leaves out of the log that a leader brings what is decided here already: the same entries, which this node
/// may have dropped. False if nothing is left of it that this node lacks.
///
/// A leader answers each promise. The answer to a copy that was on its way for longer may come when this node
/// has asked again, and begins where it was then. OmniPaxos would replace decided entries by it.
pub(crate) fn skip_decided(message: &mut Message<Entry>, decided: usize) -> bool {
    let Message::SequencePaxos(PaxosMessage { msg: PaxosMsg::AcceptSync(sync), .. }) = message
    else {
        return true;
    };
    let sync = &mut sync.log_sync;
    let known = decided.saturating_sub(sync.sync_idx);
    let reaches = known <= sync.suffix.len();
    sync.suffix.drain(..known.min(sync.suffix.len()));
    sync.sync_idx += known;
    reaches
}

/// Whether the entries of a message begin at `index`.
pub(crate) fn begins_at(message: &mut Message<Entry>, index: usize) -> bool {
    log_sync(message).is_some_and(|sync| sync.sync_idx == index)
}

fn malformed(how: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("a message {how}"))
}

#[cfg(test)]
mod tests {
    use omnipaxos::{
        ballot_leader_election::Ballot,
        messages::sequence_paxos::{AcceptDecide, AcceptSync, Accepted, Compaction},
        storage::{NoSnapshot, SnapshotType},
        util::SequenceNumber,
    };

    use super::*;
    use crate::testing::commit;

    fn of(msg: PaxosMsg<Entry>) -> Message<Entry> {
        Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg })
    }

    fn ballot() -> Ballot {
        Ballot::with(1, 5, 0, 1)
    }

    fn accept(entries: Vec<Entry>) -> Message<Entry> {
        let seq_num = SequenceNumber { session: 1, counter: 2 };
        of(PaxosMsg::AcceptDecide(AcceptDecide { n: ballot(), seq_num, decided_idx: 3, entries }))
    }

    fn sync(suffix: Vec<Entry>, snapshot: Option<SnapshotType<Entry>>) -> Message<Entry> {
        let log_sync = LogSync { decided_snapshot: snapshot, suffix, sync_idx: 4, stopsign: None };
        let seq_num = SequenceNumber::default();
        of(PaxosMsg::AcceptSync(AcceptSync { n: ballot(), seq_num, decided_idx: 0, log_sync }))
    }

    fn state(index: usize) -> Entry {
        Entry::State(State { index, transfer: 7 })
    }

    #[test]
    fn a_message_is_read_as_sent() {
        let commits = (1..5).map(|number| Entry::Commit(commit(number))).collect();
        for sent in [
            PeerMessage::Hello,
            PeerMessage::TakeOver,
            PeerMessage::Paxos(accept(commits)),
            PeerMessage::Paxos(sync(vec![state(9), Entry::Commit(commit(1))], None)),
        ] {
            let bytes = sent.encode().unwrap();
            let read = PeerMessage::decode(&bytes).unwrap();
            assert_eq!(format!("{read:?}"), format!("{sent:?}"));
            for length in 0..bytes.len() {
                let error = PeerMessage::decode(&bytes[..length]).unwrap_err();
                assert_eq!(*error.kind(), ErrorKind::Invalid, "{length}");
            }
        }
    }

    #[test]
    fn a_state_is_taken_from_a_message_and_its_entries_follow_on_it() {
        let mut message = sync(vec![state(9), Entry::Commit(commit(1))], None);
        assert_eq!(take_state(&mut message), Some(State { index: 9, transfer: 7 }));
        let rest = log_sync(&mut message).unwrap();
        assert_eq!((rest.sync_idx, rest.suffix.len()), (9, 1));
        assert_eq!(take_state(&mut message), None);
        assert_eq!(take_state(&mut accept(vec![])), None);
    }

    #[test]
    fn what_is_decided_is_left_out_of_a_log_that_is_brought() {
        let commits = || (4..7).map(|number| Entry::Commit(commit(number))).collect::<Vec<_>>();
        for (decided, left, reaches) in [(3, 3, true), (4, 3, true), (6, 1, true), (8, 0, false)] {
            let mut message = sync(commits(), None);
            assert_eq!(skip_decided(&mut message, decided), reaches, "{decided}");
            assert!(begins_at(&mut message, decided.max(4)));
            assert_eq!(log_sync(&mut message).unwrap().suffix, commits()[3 - left..]);
        }
        assert!(skip_decided(&mut accept(commits()), 9));
    }

    #[test]
    fn messages_that_no_node_of_ours_sends_do_not_reach_the_library() {
        let sound = of(PaxosMsg::Accepted(Accepted { n: ballot(), accepted_idx: 1 }));
        check(&sound, 1, 2).unwrap();
        check(&sync(vec![state(5), Entry::Commit(commit(1))], None), 1, 2).unwrap();
        check(&sound, 3, 2).unwrap_err();
        check(&sound, 1, 3).unwrap_err();
        for wrong in [
            of(PaxosMsg::ProposalForward(vec![])),
            of(PaxosMsg::Compaction(Compaction::Trim(1))),
            accept(vec![state(9)]),
            sync(vec![], Some(SnapshotType::Complete(NoSnapshot))),
            sync(vec![], Some(SnapshotType::Delta(NoSnapshot))),
            sync(vec![state(4)], None),
            sync(vec![Entry::Commit(commit(1)), state(9)], None),
        ] {
            let error = check(&wrong, 1, 2).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{wrong:?}");
        }
    }
}
