//! Decoders that are not public, for the fuzz targets. Each says whether the bytes could be read.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    CommittedLeaderId, EntryPayload, Membership, StoredMembership,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tsoracle_core::{Effect, Result, Version};
use tsoracle_replica::{Addresses, LogEntry};

use crate::{
    types::{Applied, Entry, Id, Payload, TypeConfig, Vote, decode, encode},
    wire::{Install, pack, unpack},
};

/// Reads a message of a peer, or the answer to one: its kind in one byte, and its body.
pub fn message(data: &[u8]) -> bool {
    let Some((kind, body)) = data.split_first() else { return false };
    match kind {
        0 => sent::<AppendEntriesRequest<TypeConfig>>(body),
        1 => sent::<VoteRequest<u64>>(body),
        2 => sent::<Install>(body),
        3 => sent::<Option<Id>>(body),
        4 => sent::<AppendEntriesResponse<u64>>(body),
        5 => sent::<VoteResponse<u64>>(body),
        6 => sent::<SnapshotResponse<u64>>(body),
        _ => false,
    }
}

fn sent<T: Serialize + DeserializeOwned>(body: &[u8]) -> bool {
    let Ok(message) = unpack::<T>(body) else { return false };
    let encoded = pack(&message).expect("what was read can be encoded");
    let again = unpack::<T>(&encoded).and_then(|again| pack(&again));
    assert_eq!(again.expect("what was encoded can be read"), encoded);
    true
}

/// Reads what a node stores: its kind in one byte, and its value.
pub fn stored(data: &[u8]) -> bool {
    let Some((kind, value)) = data.split_first() else { return false };
    match kind {
        0 => kept::<Entry>(value),
        1 => kept::<Vote>(value),
        2 => kept::<Id>(value),
        3 => kept::<Applied>(value),
        _ => false,
    }
}

fn kept<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(value) = decode::<T>(bytes) else { return false };
    let encoded = encode(&value).expect("what was read can be encoded");
    let again = decode::<T>(&encoded).and_then(|again| encode(&again));
    assert_eq!(again.expect("what was encoded can be read"), encoded);
    true
}

fn id(index: u64) -> Id {
    Id::new(CommittedLeaderId::new(3, 1), index)
}

fn membership() -> Membership<u64, Addresses> {
    let address =
        |node: u64| Addresses { peer: format!("n{node}:1"), service: format!("n{node}:2") };
    let nodes: BTreeMap<_, _> = (1..=3).map(|node| (node, address(node))).collect();
    Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3])], nodes)
}

fn entries() -> Result<Vec<Entry>> {
    let base = Version { era: 1, number: 7, name: 7 };
    let mut effect = Effect::default();
    effect.put("sorders", [1, 64]);
    effect.delete("x");
    effect.set_version(base.next(u128::MAX / 3)?);
    let commit = LogEntry::new(base, effect)?.encode()?;
    let payloads = [
        EntryPayload::Normal(Payload(commit.into())),
        EntryPayload::Membership(membership()),
        EntryPayload::Blank,
    ];
    let entries = (8..).zip(payloads);
    Ok(entries.map(|(index, payload)| Entry { log_id: id(index), payload }).collect())
}

fn tagged(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], body].concat()
}

/// Messages and answers as nodes send them.
pub fn messages() -> Result<Vec<Vec<u8>>> {
    let vote = Vote::new_committed(3, 1);
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(id(7)),
        entries: entries()?,
        leader_commit: Some(id(8)),
    };
    let applied = Applied {
        log_id: Some(id(8)),
        membership: StoredMembership::new(Some(id(2)), membership()),
    };
    Ok(vec![
        tagged(0, &pack(&append)?),
        tagged(1, &pack(&VoteRequest { vote, last_log_id: Some(id(8)) })?),
        tagged(2, &pack(&Install { vote, meta: applied.into_meta(), transfer: 5 })?),
        tagged(3, &pack(&Some(id(8)))?),
        tagged(4, &pack(&AppendEntriesResponse::<u64>::HigherVote(vote))?),
        tagged(5, &pack(&VoteResponse { vote, vote_granted: true, last_log_id: Some(id(8)) })?),
        tagged(6, &pack(&SnapshotResponse { vote })?),
    ])
}

/// What a node stores, as it is stored.
pub fn values() -> Result<Vec<Vec<u8>>> {
    let applied = Applied {
        log_id: Some(id(8)),
        membership: StoredMembership::new(Some(id(2)), membership()),
    };
    let mut values = vec![
        tagged(1, &encode(&Vote::new_committed(3, 1))?),
        tagged(2, &encode(&id(8))?),
        tagged(3, &encode(&applied)?),
    ];
    for entry in entries()? {
        values.push(tagged(0, &encode(&entry)?));
    }
    Ok(values)
}
