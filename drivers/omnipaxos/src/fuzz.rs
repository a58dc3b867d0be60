//! Decoders that are not public, for the fuzz targets. Each says whether the bytes could be read.

use omnipaxos::{
    ballot_leader_election::Ballot,
    messages::{
        Message,
        sequence_paxos::{AcceptDecide, AcceptSync, PaxosMessage, PaxosMsg, Promise},
    },
    util::{LogSync, SequenceNumber},
};
use tsoracle_core::{Effect, Result, Version};
use tsoracle_replica::LogEntry;

use crate::{
    entry::{Commit, Entry, State},
    message::{PeerMessage, begins_at, check, skip_decided, state_of, take_state},
};

/// Reads a message of a peer, and does with it what is done before OmniPaxos takes it.
pub fn message(data: &[u8]) -> bool {
    let Ok(mut message) = PeerMessage::decode(data) else { return false };
    let encoded = message.encode().expect("what was read can be encoded");
    let again = PeerMessage::decode(&encoded).and_then(|again| again.encode());
    assert_eq!(again.expect("what was encoded can be read"), encoded);
    if let PeerMessage::Paxos(message) = &mut message {
        let (from, to) = (message.get_sender() as u32, message.get_receiver() as u32);
        if check(message, (from, to), &(1..=3).collect()).is_ok() {
            assert_eq!(state_of(message).copied(), take_state(message));
            skip_decided(message, 4);
            begins_at(message, 4);
        }
    }
    true
}

/// Messages as nodes send them.
pub fn messages() -> Result<Vec<Vec<u8>>> {
    let commit = |number: u64| -> Result<Entry> {
        let base = Version { era: 1, number, name: number.into() };
        let mut effect = Effect::default();
        effect.put("sorders", [1, 64]);
        effect.delete("x");
        effect.set_version(base.next(u128::MAX / 3)?);
        Ok(Entry::Commit(Commit::new(&LogEntry::new(base, effect)?)?))
    };
    let (ballot, seq_num) = (Ballot::with(1, 5, 0, 1), SequenceNumber { session: 1, counter: 2 });
    let state = Entry::State(State { index: 9, transfer: 7 });
    let sync = |suffix| LogSync { decided_snapshot: None, suffix, sync_idx: 4, stopsign: None };
    let entries = vec![commit(3)?, commit(4)?];
    let brought = sync(vec![state, commit(9)?]);
    let log_sync = sync(vec![commit(4)?]);
    let paxos = [
        PaxosMsg::AcceptDecide(AcceptDecide { n: ballot, seq_num, decided_idx: 3, entries }),
        PaxosMsg::AcceptSync(AcceptSync { n: ballot, seq_num, decided_idx: 4, log_sync: brought }),
        PaxosMsg::Promise(Promise {
            n: ballot,
            n_accepted: ballot,
            decided_idx: 4,
            accepted_idx: 5,
            log_sync: Some(log_sync),
        }),
    ];
    let paxos = paxos.map(|msg| {
        PeerMessage::Paxos(Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg }))
    });
    let all = [PeerMessage::Hello, PeerMessage::TakeOver].into_iter().chain(paxos);
    all.map(|message| message.encode()).collect()
}
