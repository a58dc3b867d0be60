//! What nodes send each other.

use std::collections::BTreeSet;

use omnipaxos::{
    ballot_leader_election::Ballot,
    messages::{
        Message,
        ballot_leader_election::{BLEMessage, HeartbeatMsg},
        sequence_paxos::{PaxosMessage, PaxosMsg},
    },
    util::{LogSync, SequenceNumber},
};
use serde::{Deserialize, Serialize};
use tsoracle_core::{Error, ErrorKind, Result};
use tsoracle_replica::leaps::MAX_NUMBER;

use crate::{
    entry::{Entry, State},
    log::Log,
    paxos::{FIRST_BALLOT, LAST_BALLOT},
};

/// How many bytes the log of a follower may take before it takes no more entries: several times what a leader has.
const MOST_BYTES: usize = 128 << 20;

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

/// Finds out whether a message from node `from` to node `to` is one that these nodes send. Returns the highest
/// number of a ballot that it names.
///
/// OmniPaxos takes every message for sound: one that is not must not reach it.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(crate) fn check(
    message: &Message<Entry>,
    (from, to): (u32, u32),
    members: &BTreeSet<u32>,
) -> Result<u32> {
    if (message.get_sender(), message.get_receiver()) != (from.into(), to.into()) {
        return Err(malformed("names other nodes than the session does"));
    }
    let (by, to) = (Some(u64::from(from)), Some(u64::from(to)));
    // Each ballot, and whose it has to be.
    let (ballots, numbers) = match message {
        Message::BLE(BLEMessage { msg: HeartbeatMsg::Request(_), .. }) => (vec![], vec![]),
        Message::BLE(BLEMessage { msg: HeartbeatMsg::Reply(reply), .. }) => {
            (vec![(reply.ballot, by), (reply.leader, None)], vec![])
        }
        Message::SequencePaxos(PaxosMessage { msg, .. }) => match msg {
            PaxosMsg::PrepareReq(request) => (vec![(request.n, None)], vec![]),
            PaxosMsg::Prepare(prepare) => (
                vec![(prepare.n, by), (prepare.n_accepted, None)],
                vec![prepare.decided_idx, prepare.accepted_idx],
            ),
            PaxosMsg::Promise(promise) => {
                promise.log_sync.as_ref().map_or(Ok(()), check_sync)?;
                let ballots = vec![(promise.n, to), (promise.n_accepted, None)];
                let sync = promise.log_sync.as_ref().map(|sync| sync.sync_idx);
                let numbers = [Some(promise.decided_idx), Some(promise.accepted_idx), sync];
                (ballots, numbers.into_iter().flatten().collect())
            }
            PaxosMsg::AcceptSync(sync) => {
                check_sync(&sync.log_sync)?;
                check_numbered(sync.seq_num)?;
                (vec![(sync.n, by)], vec![sync.decided_idx, sync.log_sync.sync_idx])
            }
            PaxosMsg::AcceptDecide(accept) => {
                are_commits(&accept.entries)?;
                check_numbered(accept.seq_num)?;
                (vec![(accept.n, by)], vec![accept.decided_idx])
            }
            PaxosMsg::Decide(decide) => {
                check_numbered(decide.seq_num)?;
                (vec![(decide.n, by)], vec![decide.decided_idx])
            }
            PaxosMsg::Accepted(accepted) => (vec![(accepted.n, to)], vec![accepted.accepted_idx]),
            PaxosMsg::NotAccepted(refused) => (vec![(refused.n, None)], vec![]),
            PaxosMsg::ProposalForward(_)
            | PaxosMsg::Compaction(_)
            | PaxosMsg::AcceptStopSign(_)
            | PaxosMsg::ForwardStopSign(_) => {
                return Err(malformed("is of a kind that is never sent"));
            }
        },
    };
    numbers.into_iter().try_for_each(|number| check_number(number as u64))?;
    let highest = ballots.iter().map(|(ballot, _)| ballot.n).max().unwrap_or_default();
    ballots.into_iter().try_for_each(|(ballot, whose)| check_ballot(ballot, whose, members))?;
    Ok(highest)
}

/// A ballot of this configuration, of that node or of any member; or one that a node begins with.
fn check_ballot(ballot: Ballot, whose: Option<u64>, members: &BTreeSet<u32>) -> Result<()> {
    if whose.is_none() && (ballot == Ballot::default() || ballot == FIRST_BALLOT) {
        return Ok(());
    }
    let is_member = u32::try_from(ballot.pid).is_ok_and(|node| members.contains(&node));
    let is_own = whose.is_none_or(|node| node == ballot.pid);
    let is_ours =
        ballot.config_id == FIRST_BALLOT.config_id && ballot.priority == FIRST_BALLOT.priority;
    if is_member && is_own && is_ours && ballot.n < LAST_BALLOT {
        Ok(())
    } else {
        Err(malformed(&format!("names the ballot {ballot:?}, which cannot be")))
    }
}

fn check_numbered(SequenceNumber { session, counter }: SequenceNumber) -> Result<()> {
    check_number(session.max(counter))
}

fn check_number(number: u64) -> Result<()> {
    match number {
        0..=MAX_NUMBER => Ok(()),
        _ => Err(malformed(&format!("names the number {number}"))),
    }
}

/// Whether a message fits the log of this node: what is decided is in the log then, no entry is missing before
/// others, and there are not too many. `has_state` is whether a state has come that stands for all entries before those of the message.
pub(crate) fn fits(message: &Message<Entry>, log: &Log, has_state: bool) -> bool {
    let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return true };
    let begins = |sync: &LogSync<Entry>| has_state || sync.sync_idx <= log.end();
    let end = |sync: &LogSync<Entry>| sync.sync_idx + sync.suffix.len();
    match msg {
        PaxosMsg::AcceptSync(sync) => {
            begins(&sync.log_sync) && sync.decided_idx <= end(&sync.log_sync)
        }
        PaxosMsg::Promise(promise) => match &promise.log_sync {
            None => promise.decided_idx <= log.end(),
            Some(sync) => {
                let last = promise.decided_idx.max(promise.accepted_idx);
                begins(sync) && sync.sync_idx >= log.decided && last <= end(sync)
            }
        },
        PaxosMsg::AcceptDecide(_) => log.bytes <= MOST_BYTES,
        PaxosMsg::Accepted(accepted) => {
            Some(accepted.n) != log.promise || accepted.accepted_idx <= log.end()
        }
        _ => true,
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
        Some((Entry::State(state), rest)) => {
            check_number(state.index as u64)?;
            are_commits(rest)
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
pub(crate) mod tests {
    use omnipaxos::{
        messages::{
            ballot_leader_election::{HeartbeatReply, HeartbeatRequest},
            sequence_paxos::{
                AcceptDecide, AcceptSync, Accepted, Compaction, Decide, NotAccepted, Prepare,
                PrepareReq, Promise,
            },
        },
        storage::{NoSnapshot, SnapshotType},
    };

    use super::*;
    use crate::testing::commit;

    fn of(msg: PaxosMsg<Entry>) -> Message<Entry> {
        Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg })
    }

    /// From node 1 to node 2.
    pub(crate) fn heartbeat() -> Message<Entry> {
        let msg = HeartbeatMsg::Request(HeartbeatRequest { round: 1 });
        Message::BLE(BLEMessage { from: 1, to: 2, msg })
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
        let members = (1..=3).collect();
        let check = |message: &_, from, to| check(message, (from, to), &members);
        let own = Ballot { pid: 2, ..ballot() };
        let sound = of(PaxosMsg::Accepted(Accepted { n: own, accepted_idx: 1 }));
        check(&sound, 1, 2).unwrap();
        check(&sync(vec![state(5), Entry::Commit(commit(1))], None), 1, 2).unwrap();
        check(&sound, 3, 2).unwrap_err();
        check(&sound, 1, 3).unwrap_err();
        let mut ends = sync(vec![], None);
        log_sync(&mut ends).unwrap().stopsign =
            Some(omnipaxos::storage::StopSign::with(omnipaxos::ClusterConfig::default(), None));
        for wrong in [
            ends,
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

    /// Messages that name this ballot, and this number, in each of their places.
    fn naming(ballot: Ballot, number: usize) -> Vec<Message<Entry>> {
        let counted = |session, counter| SequenceNumber { session, counter };
        let log_sync =
            |sync_idx, suffix| LogSync { decided_snapshot: None, suffix, sync_idx, stopsign: None };
        let (n, own) = (super::tests::ballot(), Ballot { pid: 2, ..super::tests::ballot() });
        let named = Ballot { pid: 2, ..ballot };
        let reply = |ballot, leader| {
            let msg = HeartbeatMsg::Reply(HeartbeatReply { round: 1, ballot, leader, happy: true });
            Message::BLE(BLEMessage { from: 1, to: 2, msg })
        };
        let prepare = Prepare { n, decided_idx: 1, n_accepted: n, accepted_idx: 1 };
        let promise =
            Promise { n: own, n_accepted: n, decided_idx: 1, accepted_idx: 1, log_sync: None };
        let brought = Promise { log_sync: Some(log_sync(number, vec![])), ..promise.clone() };
        let accept = AcceptDecide { n, seq_num: counted(1, 1), decided_idx: 1, entries: vec![] };
        let decide = Decide { n, seq_num: counted(1, 1), decided_idx: 1 };
        let sync =
            AcceptSync { n, seq_num: counted(1, 1), decided_idx: 1, log_sync: log_sync(1, vec![]) };
        let far = number as u64;
        let after_state = AcceptSync { log_sync: log_sync(1, vec![state(number)]), ..sync.clone() };
        let paxos = [
            PaxosMsg::PrepareReq(PrepareReq { n: ballot }),
            PaxosMsg::Prepare(Prepare { n: ballot, ..prepare }),
            PaxosMsg::Prepare(Prepare { n_accepted: ballot, ..prepare }),
            PaxosMsg::Prepare(Prepare { decided_idx: number, ..prepare }),
            PaxosMsg::Prepare(Prepare { accepted_idx: number, ..prepare }),
            PaxosMsg::Promise(Promise { n: named, ..promise.clone() }),
            PaxosMsg::Promise(Promise { n_accepted: ballot, ..promise.clone() }),
            PaxosMsg::Promise(Promise { decided_idx: number, ..promise.clone() }),
            PaxosMsg::Promise(Promise { accepted_idx: number, ..promise }),
            PaxosMsg::Promise(brought),
            PaxosMsg::AcceptSync(AcceptSync { n: ballot, ..sync.clone() }),
            PaxosMsg::AcceptSync(AcceptSync { decided_idx: number, ..sync.clone() }),
            PaxosMsg::AcceptSync(AcceptSync { log_sync: log_sync(number, vec![]), ..sync.clone() }),
            PaxosMsg::AcceptSync(after_state),
            PaxosMsg::AcceptSync(AcceptSync { seq_num: counted(far, 1), ..sync.clone() }),
            PaxosMsg::AcceptSync(AcceptSync { seq_num: counted(1, far), ..sync }),
            PaxosMsg::AcceptDecide(AcceptDecide { n: ballot, ..accept.clone() }),
            PaxosMsg::AcceptDecide(AcceptDecide { decided_idx: number, ..accept.clone() }),
            PaxosMsg::AcceptDecide(AcceptDecide { seq_num: counted(1, far), ..accept }),
            PaxosMsg::Decide(Decide { n: ballot, ..decide }),
            PaxosMsg::Decide(Decide { decided_idx: number, ..decide }),
            PaxosMsg::Decide(Decide { seq_num: counted(far, 1), ..decide }),
            PaxosMsg::Accepted(Accepted { n: named, accepted_idx: 1 }),
            PaxosMsg::Accepted(Accepted { n: own, accepted_idx: number }),
            PaxosMsg::NotAccepted(NotAccepted { n: ballot }),
        ];
        let ble = [reply(ballot, n), reply(n, ballot)];
        paxos.into_iter().map(of).chain(ble).collect()
    }

    #[test]
    fn no_message_names_a_ballot_or_a_number_that_cannot_be() {
        let members: BTreeSet<_> = (1..=3).collect();
        let sound = naming(ballot(), 3);
        for message in &sound {
            assert_eq!(check(message, (1, 2), &members).unwrap(), 5, "{message:?}");
        }
        let wrong = [
            Ballot { n: u32::MAX, ..ballot() },
            Ballot { n: LAST_BALLOT, ..ballot() },
            Ballot { config_id: u32::MAX, ..ballot() },
            Ballot { priority: 1, ..ballot() },
        ];
        let names = |message: &Message<Entry>, what: &str| format!("{message:?}").contains(what);
        for wrong in wrong {
            let named = format!("{:?}", Ballot { pid: 0, ..wrong });
            let named = named.split(", pid").next().unwrap().to_owned();
            let messages = naming(wrong, 3).into_iter().filter(|message| names(message, &named));
            let refused = messages.map(|message| check(&message, (1, 2), &members).unwrap_err());
            assert_eq!(refused.count(), 12, "{wrong:?}");
        }
        for message in naming(ballot(), usize::MAX) {
            if names(&message, &usize::MAX.to_string()) {
                check(&message, (1, 2), &members).unwrap_err();
            }
        }
        // Of another node, where it is the sender's or the receiver's, or of no node at all.
        let stray = naming(Ballot { pid: 3, ..ballot() }, 3);
        let refused = stray.iter().filter(|message| check(message, (1, 2), &members).is_err());
        assert_eq!(refused.count(), 5);
        let stray = naming(Ballot { pid: 1 << 40, ..ballot() }, 3);
        let refused = stray.iter().filter(|message| check(message, (1, 2), &members).is_err());
        assert_eq!(refused.count(), 10);
    }
}
