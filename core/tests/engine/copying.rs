//! Copies of the whole state, taken while it changes: whatever is committed between and during the reads, what is
//! put together is the state of one version, to the byte.

use std::{fs::File, num::NonZero, time::Duration};

use proptest::prelude::*;
use tsoracle_core::{
    Assembly, CopiedCommit, CopyPart, Entry, Epoch, Error, ErrorKind, LeaseHolder, LeaseId,
    ManualClock, RequestId, RequestName, Result, SeqKey, SeqRequest, SeqStore, Session, StateCopy,
    Version,
};

use crate::rig::{Cluster, Fault, Gate, LEASE, NOON_MS, Node, Step, settle};

const KINDS: &[u8] = b"abehklmpqrsuwxy";
const KEYS: [&str; 5] = ["a", "a b", "ab", "b", "ü"];

#[derive(Clone, Debug)]
enum Op {
    /// The next part of the copy, if it is there without a wait.
    Part,
    Advance {
        key: usize,
        session: Option<(u8, u64)>,
    },
    Named {
        key: usize,
        name: u8,
    },
    Seed {
        key: usize,
        start: u64,
    },
    Delete {
        key: usize,
    },
    Acquire {
        holder: u8,
        ttl_s: u64,
    },
    ReleaseLease {
        id: u64,
    },
    Pass {
        millis: u64,
    },
    /// A commit that is stored while its answer waits, and parts are taken.
    HeldAfter {
        key: usize,
        parts: usize,
    },
    /// A commit that waits before it is stored, while parts are taken.
    HeldBefore {
        key: usize,
        parts: usize,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || 0..KEYS.len();
    let op = prop_oneof![
        12 => Just(Op::Part),
        6 => (key(), prop::option::of((0..3u8, 1..40u64)))
            .prop_map(|(key, session)| Op::Advance { key, session }),
        2 => (key(), 0..9u8).prop_map(|(key, name)| Op::Named { key, name }),
        1 => (key(), 0..9u64).prop_map(|(key, start)| Op::Seed { key, start }),
        2 => key().prop_map(|key| Op::Delete { key }),
        2 => (0..3u8, 5..60u64).prop_map(|(holder, ttl_s)| Op::Acquire { holder, ttl_s }),
        1 => (1..6u64).prop_map(|id| Op::ReleaseLease { id }),
        1 => (1..90_000u64).prop_map(|millis| Op::Pass { millis }),
        2 => (key(), 0..4usize).prop_map(|(key, parts)| Op::HeldAfter { key, parts }),
        2 => (key(), 0..4usize).prop_map(|(key, parts)| Op::HeldBefore { key, parts }),
    ];
    prop::collection::vec(op, 0..60)
}

fn single(key: usize) -> SeqRequest {
    SeqRequest::single(SeqKey::new(KEYS[key]).unwrap(), 2).unwrap()
}

fn entries(key: usize) -> Vec<(SeqKey, u32)> {
    vec![(SeqKey::new(KEYS[key]).unwrap(), 1)]
}

/// Takes a part if it comes without a wait.
async fn take(copy: &mut StateCopy, assembly: &mut Assembly) -> Result<()> {
    let part = tokio::select! {
        biased;
        part = copy.next() => part?,
        () = settle() => None,
    };
    part.map_or(Ok(()), |part| assembly.add(part))
}

async fn act(node: &Node, op: Op, copy: &mut StateCopy, assembly: &mut Assembly) {
    let oracle = &node.oracle;
    // Refusals are as good as anything else.
    match op {
        Op::Part => take(copy, assembly).await.unwrap(),
        Op::Advance { key, session: None } => drop(oracle.get_seq(single(key)).await),
        Op::Advance { key, session: Some((session, number)) } => {
            let id = RequestId {
                session: Session([session; 16]),
                number: NonZero::new(number).unwrap(),
                first_incomplete: NonZero::new(number.saturating_sub(20).max(1)).unwrap(),
                retry: false,
                close: false,
            };
            drop(oracle.get_seq(SeqRequest::new(entries(key), Some(id)).unwrap()).await);
        }
        Op::Named { key, name } => {
            let name = RequestName::new(&name.to_string()).unwrap();
            drop(oracle.get_seq(SeqRequest::named(entries(key), name).unwrap()).await);
        }
        Op::Seed { key, start } => {
            drop(oracle.seed_seq(SeqKey::new(KEYS[key]).unwrap(), start).await)
        }
        Op::Delete { key } => drop(oracle.delete_seq(SeqKey::new(KEYS[key]).unwrap()).await),
        Op::Acquire { holder, ttl_s } => {
            let holder = LeaseHolder::new([holder]).unwrap();
            drop(oracle.acquire_lease(holder, 1, Duration::from_secs(ttl_s)).await);
        }
        Op::ReleaseLease { id } => drop(oracle.release_lease(LeaseId(id)).await),
        Op::Pass { millis } => {
            node.clock.advance(Duration::from_millis(millis));
            drop(oracle.get_ts(1).await);
        }
        Op::HeldAfter { key, parts } | Op::HeldBefore { key, parts } => {
            let gate = Gate::new();
            let fault = match op {
                Op::HeldAfter { .. } => Fault::HoldAfter(gate.clone()),
                _ => Fault::HoldBefore(gate.clone()),
            };
            node.fault(Step::Advance, fault);
            let asked = node.send(single(key));
            gate.reached().await;
            for _ in 0..parts {
                take(copy, assembly).await.unwrap();
            }
            gate.open();
            asked.await.unwrap().unwrap();
        }
    }
}

/// What a state holds, of what copies hold.
fn held(store: &impl SeqStore) -> Vec<Entry> {
    let kinds = KINDS.iter();
    kinds.flat_map(|kind| store.scan(&[*kind], &[kind + 1], usize::MAX).unwrap()).collect()
}

fn assembly(most_bytes: usize) -> Assembly {
    Assembly::with_memory(tempfile::tempfile, most_bytes).unwrap()
}

fn assembled(assembly: Assembly) -> (Version, Vec<Entry>) {
    let mut assembled = assembly.finish().unwrap();
    let mut entries = vec![];
    while let Some(entry) = assembled.next_entry().unwrap() {
        entries.push(entry);
    }
    (assembled.version, entries)
}

async fn a_copy_among(before: Vec<Op>, during: Vec<Op>, page_entries: usize, most_bytes: usize) {
    let (cluster, node) = Cluster::serving().await;
    // One that is given up. What is taken of it makes a whole as well.
    let mut other = node.oracle.copy_state().await.unwrap();
    let mut parts = assembly(1 << 20);
    for op in before.into_iter().filter(|op| !matches!(op, Op::Part)) {
        act(&node, op, &mut other, &mut parts).await;
    }
    drop(other);
    cluster.keep_history();
    let begun = cluster.version();
    let copy = node.oracle.copy_state().await.unwrap();
    let mut copy = copy.with_page_entries(page_entries);
    let mut assembly = assembly(most_bytes);
    for op in during {
        act(&node, op, &mut copy, &mut assembly).await;
    }
    while let Some(part) = copy.next().await.unwrap() {
        assembly.add(part).unwrap();
    }
    let (version, entries) = assembled(assembly);
    assert!(version.position() >= begun.position());
    assert_eq!(entries, held(&cluster.at(version)), "the state of that version, to the byte");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_is_the_state_of_one_version(
        before in ops(), during in ops(), page_entries in 1..6usize, most_bytes in 1..4_000usize
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(a_copy_among(before, during, page_entries, most_bytes));
    }
}

/// A read shows a commit whose answer is still under way, so that it comes behind the page that shows it.
#[tokio::test]
async fn a_commit_that_a_page_shows_first_is_waited_for() {
    let (cluster, node) = Cluster::serving().await;
    for key in KEYS {
        node.seq(key, 1).await.unwrap();
    }
    cluster.keep_history();
    let mut copy = node.oracle.copy_state().await.unwrap().with_page_entries(1);
    let mut assembly = assembly(1 << 20);
    // Up to behind the first sequence.
    loop {
        let part = copy.next().await.unwrap().expect("there is more");
        let covers = matches!(&part, CopyPart::Page { through, .. } if through[..] > b"sa"[..]);
        assembly.add(part).unwrap();
        if covers {
            break;
        }
    }
    let gate = Gate::new();
    node.fault(Step::Advance, Fault::HoldAfter(gate.clone()));
    let asked = node.send(single(0));
    gate.reached().await;
    for _ in 0..50 {
        take(&mut copy, &mut assembly).await.unwrap();
    }
    gate.open();
    asked.await.unwrap().unwrap();
    while let Some(part) = copy.next().await.unwrap() {
        assembly.add(part).unwrap();
    }
    let (version, entries) = assembled(assembly);
    assert_eq!(version, cluster.version());
    assert_eq!(entries, held(&cluster.at(version)));
}

async fn rest(copy: &mut StateCopy) -> Error {
    loop {
        match copy.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the copy was completed"),
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn a_copy_ends_with_the_reign_that_it_is_of() {
    let (_, node) = Cluster::serving().await;
    let mut copy = node.oracle.copy_state().await.unwrap().with_page_entries(1);
    copy.next().await.unwrap();
    node.follow();
    settle().await;
    let error = rest(&mut copy).await;
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotLeader(_)), "{error}");
}

#[tokio::test]
async fn a_copy_ends_where_a_commit_is_lost_track_of() {
    let (_, node) = Cluster::serving().await;
    let mut copy = node.oracle.copy_state().await.unwrap().with_page_entries(1);
    copy.next().await.unwrap();
    node.fault(Step::Advance, Fault::Refuse(ErrorKind::Unavailable));
    node.seq("a", 1).await.unwrap_err();
    let error = rest(&mut copy).await;
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn only_a_leader_completes_a_copy() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let node = cluster.node_with(1, &clock, |options| options.hold = Duration::from_millis(100));
    node.elect();
    node.serving().await;
    let mut copy = node.oracle.copy_state().await.unwrap();
    let renewal = node.hold(Step::Extend);
    clock.advance(LEASE * 2);
    let ending = tokio::spawn(async move { rest(&mut copy).await });
    renewal.reached().await;
    let error = node.until(ending).await;
    assert!(matches!(error.kind(), ErrorKind::NotLeader(_)), "{error}");
    renewal.open();
}

#[tokio::test]
async fn there_are_only_so_many_copies_at_once() {
    let (_, node) = Cluster::serving().await;
    let mut copies = vec![];
    for _ in 0..4 {
        copies.push(node.oracle.copy_state().await.unwrap());
    }
    let error = node.oracle.copy_state().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Overloaded, "{error}");
    copies.pop();
    node.oracle.copy_state().await.unwrap();
}

fn version(number: u64) -> Version {
    Version { era: 1, number, name: u128::from(number) }
}

fn page(number: u64, key: &str, through: &str) -> CopyPart {
    let entries = vec![(key.into(), vec![])];
    CopyPart::Page { version: version(number), entries, through: through.into() }
}

fn commit(base: u64) -> CopyPart {
    let (base, version) = (version(base), version(base + 1));
    CopyPart::Commits(vec![CopiedCommit { base, version, writes: vec![] }])
}

fn end(number: u64) -> CopyPart {
    CopyPart::End { version: version(number), epoch: Epoch::default() }
}

/// Where two parts do not follow each other, whatever the server means by it.
#[test]
fn parts_that_do_not_follow_each_other_are_refused() {
    let other = |mut part: CopyPart| {
        if let CopyPart::Page { version, .. } | CopyPart::End { version, .. } = &mut part {
            version.name = 99;
        }
        part
    };
    let wrong = [
        ("nothing", vec![end(1)]),
        ("a commit is missing", vec![page(5, "a", "b"), commit(5), commit(7), end(8)]),
        ("the first one is missing", vec![page(5, "a", "b"), commit(6), end(7)]),
        ("a commit twice", vec![page(5, "a", "b"), commit(5), commit(5), end(6)]),
        ("a page behind a commit", vec![page(5, "a", "b"), commit(5), page(5, "b", "c"), end(6)]),
        ("a page that goes back", vec![page(6, "a", "b"), page(5, "b", "c"), commit(5), end(6)]),
        ("two states at once", vec![page(5, "a", "b"), other(page(5, "b", "c")), end(5)]),
        ("a page ahead at the end", vec![page(5, "a", "b"), commit(5), page(7, "b", "c"), end(6)]),
        ("pages of two versions", vec![page(5, "a", "b"), page(6, "b", "c"), end(6)]),
        (
            "another page than its commit",
            vec![page(5, "a", "b"), other(page(6, "b", "c")), commit(5), end(6)],
        ),
        ("another end", vec![page(5, "a", "b"), commit(5), other(end(6))]),
        ("an early end", vec![page(5, "a", "b"), commit(5), end(5)]),
        ("something behind the end", vec![page(5, "a", "b"), end(5), commit(5)]),
        ("keys of another page", vec![page(5, "c", "b"), end(5)]),
        ("keys that were there", vec![page(5, "a", "b"), page(5, "a", "c"), end(5)]),
    ];
    for (what, parts) in wrong {
        let mut assembly = assembly(1 << 20);
        let added = parts.into_iter().try_for_each(|part| assembly.add(part));
        let error = added.expect_err(what);
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    }
    let right = [
        vec![page(5, "a", "b"), end(5)],
        vec![page(5, "a", "b"), commit(4), end(5)],
        vec![commit(4), page(5, "a", "b"), commit(5), page(6, "b", "c"), end(6)],
        vec![page(5, "a", "b"), page(7, "b", "c"), commit(5), commit(6), end(7)],
    ];
    for parts in right {
        let mut assembly = assembly(1 << 20);
        parts.iter().cloned().try_for_each(|part| assembly.add(part)).expect("they follow");
    }
    let unfinished = assembly(1 << 20).finish().unwrap_err();
    assert_eq!(*unfinished.kind(), ErrorKind::Corrupt);
}

#[test]
fn files_that_cannot_be_made_end_it() {
    let no_file = || Err::<File, _>(std::io::Error::from(std::io::ErrorKind::StorageFull));
    assert_eq!(*Assembly::new(no_file).unwrap_err().kind(), ErrorKind::Fatal);
}
