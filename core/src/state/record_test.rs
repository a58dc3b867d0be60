//! That records are read as written, and that their size is never underrated.

use proptest::prelude::*;

use super::{
    Record, ReignRecord, Stage,
    answers::{AnswerPage, AnswerRecord},
    keys,
    record::{LeaseRecord, Leases, Meta, NamedRecord, Progress, SessionRecord},
};
use crate::{Epoch, Identity, LeaseHolder, LeaseId, NodeId, Version};

fn versions() -> impl Strategy<Value = Version> {
    any::<(u64, u64, u128)>().prop_map(|(era, number, name)| Version { era, number, name })
}

/// Numbers of every length, the longest ones often.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..300u64, Just(u64::MAX)]
}

fn reigns() -> impl Strategy<Value = Record> {
    let stages =
        prop::sample::select(vec![Stage::Fenced, Stage::Open, Stage::Released, Stage::Importing]);
    let numbers = [numbers(), numbers(), numbers(), numbers()];
    let ids = (any::<u128>(), any::<Option<u128>>(), any::<bool>());
    (stages, numbers, ids, versions(), versions()).prop_map(
        |(stage, [high_water_ms, lease_ms, session_ms, session_base_ms], ids, version, base)| {
            let (epoch, node, released) = ids;
            Record::from(ReignRecord {
                epoch: Epoch(epoch),
                stage,
                high_water_ms,
                lease_ms,
                opened_by: node.map(NodeId),
                released,
                session_ms,
                session_base_ms,
                version,
                fenced_on: base,
            })
        },
    )
}

fn leases() -> impl Strategy<Value = Record> {
    let holder = prop::collection::vec(any::<u8>(), 1..=crate::MAX_HOLDER_BYTES);
    let numbers = [numbers(), numbers(), numbers(), numbers(), numbers(), numbers()];
    let owner = prop::option::of("[a-zé]{1,64}");
    (holder, numbers, any::<bool>(), owner).prop_map(
        |(
            holder,
            [id, holder_epoch, ttl_ms, bound_ms, expires_at_ms, until_ms],
            superseded,
            owner,
        )| {
            Record::from(LeaseRecord {
                id: LeaseId(id),
                holder: LeaseHolder::new(holder).unwrap(),
                holder_epoch,
                ttl_ms,
                bound_ms,
                expires_at_ms,
                until_ms,
                superseded,
                owner: owner.map(|owner| Identity::new(owner).unwrap()),
            })
        },
    )
}

fn pages() -> impl Strategy<Value = Record> {
    let starts = prop::collection::vec(numbers(), 0..20);
    let answers = prop::collection::vec((numbers(), any::<[u8; 16]>(), starts), 1..5);
    answers.prop_map(|answers| {
        let page = answers.into_iter().fold(None, |page, (number, digest, starts)| {
            let answer = AnswerRecord { digest, starts: starts.into() };
            Some(AnswerPage::with(page.as_ref(), number, &answer))
        });
        Record::Answers(page.unwrap())
    })
}

/// Records, each with a key of its kind.
fn records() -> impl Strategy<Value = (Vec<u8>, Record)> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..400);
    let counts = (any::<u32>(), numbers(), numbers());
    let meta = counts.prop_map(|(rules, keys, sessions)| Meta { rules, keys, sessions });
    let progress = (numbers(), bytes()).prop_map(|(entries, last)| Progress { entries, last });
    let pair = || (numbers(), numbers());
    let session = pair().prop_map(|(first_incomplete, last_used_ms)| SessionRecord {
        first_incomplete,
        last_used_ms,
    });
    let starts = prop::collection::vec(numbers(), 0..130);
    let named = (any::<[u8; 16]>(), starts, numbers());
    let named = named.prop_map(|(digest, starts, expires_ms)| NamedRecord {
        answer: AnswerRecord { digest, starts: starts.into() },
        expires_ms,
    });
    let counted = pair().prop_map(|(count, last_id)| Leases { count, last_id });
    prop_oneof![
        reigns().prop_map(|record| (keys::REIGN.to_vec(), record)),
        meta.prop_map(|meta| (keys::META.to_vec(), meta.into())),
        progress.prop_map(|progress| (keys::IMPORT.to_vec(), progress.into())),
        numbers().prop_map(|next| (b"sa".to_vec(), next.into())),
        session.prop_map(|session| (b"u1".to_vec(), session.into())),
        pages().prop_map(|page| (b"a1".to_vec(), page)),
        named.prop_map(|named| (b"q1".to_vec(), named.into())),
        numbers().prop_map(|count| (keys::NAMED.to_vec(), count.into())),
        Just((b"y1".to_vec(), Record::Mark)),
        counted.prop_map(|counted| (keys::LEASES.to_vec(), counted.into())),
        leases().prop_map(|lease| (b"l1".to_vec(), lease)),
        Just((b"x1".to_vec(), Record::Mark)),
        bytes().prop_map(|bytes| (b"n".to_vec(), Record::Raw(bytes))),
    ]
}

proptest! {
    #[test]
    fn a_record_is_read_as_written_and_is_no_longer_than_its_size((key, record) in records()) {
        let bytes = record.encode();
        prop_assert!(bytes.len() <= record.size(), "{} of {}", bytes.len(), record.size());
        prop_assert_eq!(Record::decode(&key, bytes).unwrap(), record);
    }

    #[test]
    fn damage_is_an_error_or_another_record_but_no_panic(
        (key, record) in records(),
        cut: prop::sample::Index,
        flipped: (prop::sample::Index, u8),
    ) {
        let mut bytes = record.encode();
        if !bytes.is_empty() {
            let at = flipped.0.index(bytes.len());
            bytes[at] ^= flipped.1;
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(Record::Answers(page)) = Record::decode(&key, bytes) {
            let _ = page.find(&key, 1);
        }
    }
}
