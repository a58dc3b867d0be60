//! Drivers that panic, hang, or answer what was not asked. Whatever they do, the node serves no more,
//! and says what the driver did.

use std::time::Duration;

use tsoracle_core::{
    Epoch, Error, ErrorKind, LeaseHolder, LeaseId, MAX_HIGH_WATER_MS, ManualClock, Phase, Reject,
    Result, SeqBlock, SeqKey, SeqList,
    state::{Answer, LeaseGrant, ReignRecord, Reply, Stage},
};

use crate::rig::{BadRead, Cluster, Fault, LEASE, NOON_MS, Node, Step, settle};

type Lie = fn(&mut Vec<Result<Reply, Reject>>);

/// A cluster whose one node is elected, and meets this lie in taking over.
fn elected(step: Step, lie: Lie) -> Node {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    node.fault(step, Fault::Lie(lie));
    node.elect();
    node
}

/// Waits until the node serves no more, and has said why in words that contain these.
async fn stops(node: &Node, words: &[&str]) {
    let reason = node.failed().await;
    for word in words {
        assert!(reason.contains(word), "{reason}");
    }
    assert!(node.refuses());
    let error = node.oracle.get_ts(1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
    assert!(error.to_string().contains(words[0]), "{error}");
}

fn reply(results: &mut [Result<Reply, Reject>], is: fn(&Reply) -> bool) -> &mut Reply {
    let reply = results.iter_mut().filter_map(|result| result.as_mut().ok()).find(|r| is(r));
    reply.expect("the commit has such a reply")
}

fn fence(results: &mut [Result<Reply, Reject>], lie: impl Fn(&mut u64, &mut u64)) {
    let Reply::Fenced { floor_ms, high_water_ms, .. } = reply(results, |_| true) else {
        panic!("{results:?}");
    };
    lie(floor_ms, high_water_ms);
}

fn blocks(results: &mut [Result<Reply, Reject>]) -> &mut Vec<SeqBlock> {
    match reply(results, |reply| matches!(reply, Reply::Advanced(_))) {
        Reply::Advanced(blocks) => blocks,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn fewer_or_more_replies_than_commands() {
    let missing: Lie = |results| drop(results.pop());
    let double: Lie = |results| results.push(Ok(Reply::Released));
    for lie in [missing, double] {
        for step in [Step::Fence, Step::Open] {
            stops(&elected(step, lie), &["the driver answered", "command"]).await;
        }
        let (_, node) = Cluster::serving().await;
        node.fault(Step::Advance, Fault::Lie(lie));
        let error = node.seq("a", 1).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
        stops(&node, &["the driver answered 1 commands"]).await;
    }
}

#[tokio::test]
async fn replies_of_another_kind() {
    let other: Lie = |results| results.fill(Ok(Reply::Initialized));
    for (step, asked) in [(Step::Fence, "a fence"), (Step::Open, "an open")] {
        stops(&elected(step, other), &[asked, "Initialized"]).await;
    }
    let (_, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::Lie(other));
    node.seq("a", 1).await.unwrap_err();
    stops(&node, &["an advance", "Initialized"]).await;

    let (_, node) = Cluster::serving().await;
    node.fault(Step::Lease, Fault::Lie(other));
    let error = node.oracle.renew_lease(LeaseId(1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    stops(&node, &["a request for a lease", "Initialized"]).await;
}

#[tokio::test]
async fn refusals_that_make_no_sense() {
    let refused: Lie = |results| results.fill(Err(Reject::NotEmpty));
    for (step, asked) in [(Step::Fence, "a fence"), (Step::Open, "an open")] {
        stops(&elected(step, refused), &[asked, "NotEmpty"]).await;
    }
    let (_, node) = Cluster::serving().await;
    node.fault(Step::Extend, Fault::Lie(refused));
    node.busy_for(LEASE).await;
    stops(&node, &["an extend", "NotEmpty"]).await;
}

#[tokio::test]
async fn a_fence_whose_window_makes_no_sense() {
    let below_the_clock: Lie = |results| fence(results, |floor, _| *floor = NOON_MS / 2);
    let empty: Lie = |results| fence(results, |floor, high_water| *high_water = *floor - 1);
    let endless: Lie = |results| fence(results, |_, end| *end = MAX_HIGH_WATER_MS + 1);
    let above: Lie = |results| fence(results, |floor, _| *floor = u64::MAX);
    for lie in [below_the_clock, empty, endless, above] {
        stops(&elected(Step::Fence, lie), &["a fence of epoch 1", "Fenced"]).await;
    }
}

#[tokio::test]
async fn a_fence_that_replaced_what_lies_above_it() {
    fn replace(results: &mut [Result<Reply, Reject>], epoch: u128, high_water_ms: u64) {
        let Reply::Fenced { replaced, .. } = reply(results, |_| true) else { panic!() };
        *replaced = Some(ReignRecord {
            epoch: Epoch(epoch),
            stage: Stage::Released,
            high_water_ms,
            lease_ms: 1_000,
            opened_by: None,
            released: true,
            session_ms: 0,
            session_base_ms: 0,
        });
    }
    let later: Lie = |results| replace(results, 9, 5);
    let further: Lie = |results| replace(results, 0, NOON_MS + 1);
    for lie in [later, further] {
        stops(&elected(Step::Fence, lie), &["a fence of epoch 1", "Fenced"]).await;
    }
}

#[tokio::test]
async fn a_high_water_that_has_fallen() {
    let lower: Lie = |results| {
        let extended = reply(results, |reply| matches!(reply, Reply::Extended { .. }));
        *extended = Reply::Extended { high_water_ms: NOON_MS };
    };
    stops(&elected(Step::Extend, lower), &["an extend to", "Extended"]).await;

    let (_, node) = Cluster::serving().await;
    node.fault(Step::Extend, Fault::Lie(lower));
    node.busy_for(LEASE).await;
    stops(&node, &["an extend to", "Extended"]).await;
}

#[tokio::test]
async fn a_state_that_was_forgotten_between_two_reigns_of_one_node() {
    // What the first reign reserved, and what a stamping lease has added to it.
    for (floor_ms, leased) in [(NOON_MS, false), (NOON_MS + 5_000, true)] {
        let (_, node) = Cluster::serving().await;
        if leased {
            let holder = LeaseHolder::new("h").unwrap();
            node.oracle.acquire_lease(holder, 1, Duration::from_secs(10)).await.unwrap();
        }
        let forget: Lie = match leased {
            false => |results| forgotten(results, NOON_MS),
            true => |results| forgotten(results, NOON_MS + 5_000),
        };
        node.fault(Step::Fence, Fault::Lie(forget));
        node.elect();
        stops(&node, &["a fence of epoch 2", "were reached", &floor_ms.to_string()]).await;
    }
}

fn forgotten(results: &mut [Result<Reply, Reject>], floor_ms: u64) {
    let high_water_ms = floor_ms + 1_000;
    results[0] = Ok(Reply::Fenced { floor_ms, high_water_ms, replaced: None });
}

#[tokio::test]
async fn blocks_that_were_not_asked_for() {
    let none: Lie = |results| blocks(results).clear();
    let fewer: Lie = |results| blocks(results)[0].count -= 1;
    let another: Lie = |results| blocks(results)[0].key = SeqKey::new("b").unwrap();
    let endless: Lie = |results| blocks(results)[0].start = u64::MAX;
    let twice: Lie = |results| {
        let block = blocks(results)[0].clone();
        blocks(results).push(block);
    };
    for lie in [none, fewer, another, endless, twice] {
        let (_, node) = Cluster::serving().await;
        node.fault(Step::Advance, Fault::Lie(lie));
        let error = node.seq("a", 5).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
        stops(&node, &["an advance", "Advanced"]).await;
    }
}

#[tokio::test]
async fn an_epoch_that_has_fallen() {
    let (_, node) = Cluster::serving().await;
    node.claim(7);
    node.phase(|phase| *phase == Phase::Serving { epoch: Epoch(7) }).await;
    node.claim(6);
    stops(&node, &["the driver claims epoch 6 after epoch 7"]).await;
}

#[tokio::test]
async fn a_commit_that_takes_nothing() {
    let (_, node) = Cluster::serving().await;
    node.driver.limits.lock().unwrap().commands = 0;
    let error = node.seq("a", 1).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotLeader(None)), "{error}");
    stops(&node, &["a commit takes nothing", "commands: 0"]).await;
}

#[tokio::test]
async fn a_panic_in_a_commit() {
    for step in [Step::Fence, Step::Open] {
        let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
        node.fault(step, Fault::Panic);
        node.elect();
        stops(&node, &["the driver panicked in a commit"]).await;
    }
    let (_, node) = Cluster::serving().await;
    node.fault(Step::Lease, Fault::Panic);
    let error = node.oracle.renew_lease(LeaseId(1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    stops(&node, &["the driver panicked in a commit"]).await;
}

/// Every query a caller can make, once each.
async fn ask(node: &Node, which: usize) -> Result<(), Error> {
    let list = SeqList { limit: 10, ..SeqList::default() };
    match which {
        0 => node.oracle.read_seq(SeqKey::new("a").unwrap()).await.map(drop),
        1 => node.oracle.list_seqs(list).await.map(drop),
        _ => node.oracle.safe_frontier().await.map(drop),
    }
}

#[tokio::test]
async fn a_panic_in_a_query() {
    for which in 0..3 {
        let (_, node) = Cluster::serving().await;
        node.read_badly(BadRead::Panic);
        let error = ask(&node, which).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        stops(&node, &["the driver panicked in a query"]).await;
    }
}

#[tokio::test]
async fn answers_to_another_query() {
    for which in 0..3 {
        let (_, node) = Cluster::serving().await;
        node.read_badly(BadRead::Lie(|_| Answer::Reign(None)));
        let error = ask(&node, which).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        stops(&node, &["the driver answered", "Reign(None)"]).await;
    }
    // The engine's own query, for sessions that are over.
    let (_, node) = Cluster::serving().await;
    node.read_badly(BadRead::Lie(|_| Answer::Sequence(None)));
    node.busy_for(Duration::from_secs(120)).await;
    stops(&node, &["the driver answered", "Sequence(None)"]).await;
}

#[tokio::test]
async fn a_list_of_what_was_not_asked_for() {
    type Lie = fn(Answer) -> Answer;
    fn entry(name: &str) -> (SeqKey, u64) {
        (SeqKey::new(name).unwrap(), 1)
    }
    let unsorted: Lie = |_| Answer::Sequences(vec![entry("ab"), entry("aa")]);
    let doubled: Lie = |_| Answer::Sequences(vec![entry("aa"), entry("aa")]);
    let before: Lie = |_| Answer::Sequences(vec![entry("a")]);
    let outside: Lie = |_| Answer::Sequences(vec![entry("b")]);
    let too_long: Lie = |_| Answer::Sequences(["ab", "ac", "ad", "ae"].map(entry).into());
    for lie in [unsorted, doubled, before, outside, too_long] {
        let (_, node) = Cluster::serving().await;
        node.read_badly(BadRead::Lie(lie));
        let list = SeqList { prefix: "a".into(), after: "a".into(), limit: 2 };
        node.oracle.list_seqs(list).await.unwrap_err();
        stops(&node, &["the driver answered", "Sequences"]).await;
    }
}

#[tokio::test]
async fn a_frontier_that_has_fallen() {
    let (_, node) = Cluster::serving().await;
    let reached = node.oracle.safe_frontier().await.unwrap().physical_ms;
    node.read_badly(BadRead::Lie(|answer| match answer {
        Answer::Frontier { frontier_ms, expired } => {
            Answer::Frontier { frontier_ms: frontier_ms - 1, expired }
        }
        other => other,
    }));
    let error = node.oracle.safe_frontier().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
    stops(&node, &["the driver answered", &format!("had reached {reached} ms")]).await;
}

#[tokio::test]
async fn a_query_that_hangs_is_given_up() {
    for which in 0..3 {
        let (_, node) = Cluster::serving().await;
        node.read_badly(BadRead::Hang);
        let asked = tokio::spawn({
            let node = node.clone();
            async move { ask(&node, which).await }
        });
        while !asked.is_finished() {
            node.clock.advance(Duration::from_millis(100));
            settle().await;
        }
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("the driver did not answer"), "{error}");
    }
}

#[tokio::test]
async fn a_commit_that_hangs_ends_serving_with_the_lease() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Lease);
    let holder = LeaseHolder::new("h").unwrap();
    let asked = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.acquire_lease(holder, 1, Duration::from_secs(10)).await }
    });
    gate.reached().await;
    node.clock.advance(LEASE);
    assert!(node.refuses());
    let waiting = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.get_ts(1).await }
    });
    while !waiting.is_finished() {
        node.clock.advance(Duration::from_millis(100));
        settle().await;
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cannot be renewed"), "{error}");
    assert!(!asked.is_finished());
    gate.open();
    assert!(asked.await.unwrap().is_ok(), "and goes on when the driver does");
}

#[tokio::test]
async fn a_lease_beyond_what_was_asked_for() {
    let lie: Lie = |results| {
        let id = LeaseId(1);
        let grant = LeaseGrant { id, bound_ms: 0, expires_at_ms: 0, remaining_ms: u64::MAX };
        results.fill(Ok(Reply::Leased(grant)));
    };
    let (_, node) = Cluster::serving().await;
    node.fault(Step::Lease, Fault::Lie(lie));
    let holder = LeaseHolder::new("h").unwrap();
    let asked = node.oracle.acquire_lease(holder, 1, Duration::from_secs(10)).await;
    assert_eq!(*asked.unwrap_err().kind(), ErrorKind::Uncertain);
    stops(&node, &["a request for a lease", "Leased"]).await;
}
