//! What a cluster lives through: cut links, lost nodes, restarts, nodes far behind.

mod common;

use tokio::{io::AsyncWriteExt, net::TcpStream};
use tsoracle_core::{Clock, ErrorKind, SystemClock};

use self::common::served::Served;

/// Slow enough that no node of a loaded machine is taken for dead.
const OPTIONS: &str = "&heartbeat=50ms&election=1s";

/// As above, with a log so short that a node which was away needs the state.
const SHORT_LOG: &str = "&heartbeat=50ms&election=1s&snapshot_every=8&log_keep=4";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_that_reaches_a_majority_is_enough() {
    let mut served = Served::start(5, OPTIONS).await;
    let all = [0, 1, 2, 3, 4];
    assert_eq!(served.take(3).await, 0..3);
    let leader = served.serving().await;
    let before = served.timestamp(&all).await;
    // A star: a node that is not its centre reaches only the centre. A leader that stops hands over to the highest of those
    // that are equally far, which is the centre at the end.
    let centre = if leader == 4 { 3 } else { 4 };
    for one in 0..5 {
        for other in (0..one).filter(|other| one != centre && *other != centre) {
            served.nodes.set_link(one, other, false);
        }
    }
    assert_eq!(served.serving_among(&[centre]).await, centre);
    assert_eq!(served.take_among(&[centre], 3).await, 3..6);
    assert!(before < served.timestamp(&[centre]).await);
    served.refuses(leader).await;
    // And back again, without the centre.
    for one in 0..5 {
        for other in 0..one {
            served.nodes.set_link(one, other, one != centre && other != centre);
        }
    }
    let rest: Vec<_> = all.into_iter().filter(|node| *node != centre).collect();
    assert_eq!(served.take_among(&rest, 1).await, 6..7);
    served.nodes.set_links(centre, true);
    // Each catches up, and can lead.
    served.have_lead(centre).await;
    assert_eq!(served.take_among(&[centre], 1).await, 7..8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_between_two_nodes_of_three_ends_nothing() {
    let served = Served::start(3, OPTIONS).await;
    assert_eq!(served.take(1).await, 0..1);
    let leader = served.serving().await;
    let (lost, kept) = ((leader + 1) % 3, (leader + 2) % 3);
    served.nodes.set_link(leader, lost, false);
    // For longer than many elections take, if there were any: the one that lost the leader hears that
    // the other one has it.
    for start in 1..40 {
        assert_eq!(served.take(1).await, start..start + 1);
        SystemClock.sleep(std::time::Duration::from_millis(50)).await;
    }
    // The one in the middle fails: those that are left do not reach each other.
    served.nodes.set_links(kept, false);
    served.nodes.set_link(leader, lost, true);
    assert_eq!(served.take_among(&[leader, lost], 1).await, 40..41);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_cut_off_one_after_the_other_are_all_replaced() {
    let served = Served::start(3, OPTIONS).await;
    let mut start = 0;
    let mut before = served.timestamp(&[0, 1, 2]).await;
    for _ in 0..6 {
        let leader = served.serving().await;
        let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();
        served.nodes.set_links(leader, false);
        // The old one is asked first, and must not grant what the new one grants as well.
        assert_eq!(served.take_among(&others, 2).await, start..start + 2);
        let after = served.timestamp(&others).await;
        assert!(before < after, "{after} came after {before}");
        served.refuses(leader).await;
        served.nodes.set_links(leader, true);
        assert_eq!(served.take(1).await, start + 2..start + 3);
        (start, before) = (start + 3, after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_the_end_of_all_nodes() {
    let mut served = Served::start(3, OPTIONS).await;
    let mut before = served.timestamp(&[0, 1, 2]).await;
    for start in 0..4 {
        assert_eq!(served.take(1).await, start..start + 1);
        served.crash().await;
        let after = served.timestamp(&[0, 1, 2]).await;
        assert!(before < after, "{after} came after {before}");
        before = after;
    }
    assert_eq!(served.take(1).await, 4..5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_that_is_made_anew_brings_a_follower_up_to_date() {
    let mut served = Served::start(3, OPTIONS).await;
    assert_eq!(served.take(1).await, 0..1);
    let leader = served.serving().await;
    let (follower, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    // From now on every commit needs the follower.
    served.stop_node(gone).await;
    for round in 0..4 {
        let start = 1 + round * 2;
        assert_eq!(served.take(1).await, start..start + 1);
        // Messages that are on their way now are lost with the streams.
        served.nodes.set_link(leader, follower, false);
        served.nodes.break_streams(leader, follower);
        served.nodes.set_link(leader, follower, true);
        assert_eq!(served.take(1).await, start + 1..start + 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_gets_the_state() {
    let mut served = Served::start(3, SHORT_LOG).await;
    assert_eq!(served.take(1).await, 0..1);
    for round in 0..2 {
        let leader = served.serving().await;
        let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
        served.stop_node(away).await;
        let start = 1 + round * 41;
        for start in start..start + 40 {
            assert_eq!(served.take(1).await, start..start + 1);
        }
        served.start_node(away).await;
        served.stop_node(other).await;
        // Nothing is committed without the one that was away.
        assert_eq!(served.take(1).await, start + 40..start + 41);
        served.start_node(other).await;
        served.have_lead(away).await;
        let key = tsoracle_core::SeqKey::new("orders").unwrap();
        assert_eq!(served.oracle(away).read_seq(key).await.unwrap(), Some(start + 41));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_told_so_and_takes_no_part() {
    let mut served = Served::start(3, OPTIONS).await;
    assert_eq!(served.take(1).await, 0..1);
    let leader = served.serving().await;
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // All have met by now: each has committed with each.
    for gone in [wiped, other] {
        served.stop_node(gone).await;
        let start = served.take(1).await.start;
        assert!(start > 0);
        served.start_node(gone).await;
        served.take(1).await;
    }
    served.stop_node(wiped).await;
    std::fs::remove_dir_all(served.nodes.directory(wiped)).unwrap();
    served.start_node(wiped).await;
    let reason = served.failure_of(wiped).await;
    assert!(reason.contains("was wiped"), "{reason}");
    // Without the other one there is no majority that remembers.
    served.stop_node(other).await;
    let error = served.oracle(leader).get_seq(common::request("late")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    served.start_node(other).await;
    assert_eq!(served.take_among(&[leader, other], 1).await, 5..6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_peer_port_harms_nobody() {
    let served = Served::start(3, OPTIONS).await;
    for node in 0..3 {
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4_096], b"PRI * HTTP/2.0\r\n\r\nSM"]
        {
            let mut stream = TcpStream::connect(served.nodes.listen(node)).await.unwrap();
            // It may hang up before it has read everything.
            let _ = stream.write_all(garbage).await;
        }
    }
    assert_eq!(served.take(1).await, 0..1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_not_listened_to() {
    let mut served = Served::start(3, OPTIONS).await;
    assert_eq!(served.take(1).await, 0..1);
    let leader = served.serving().await;
    let stranger = (leader + 1) % 3;
    served.stop_node(stranger).await;
    let config = served.nodes.config(stranger).replacen(
        &served.nodes.directory(stranger).display().to_string(),
        &served.nodes.directory(stranger).with_extension("other").display().to_string(),
        1,
    );
    let driver = common::open(&format!("{config}&cluster=other")).await.unwrap();
    assert_eq!(served.take(1).await, 1..2);
    // With it alone there is no majority.
    served.stop_node((leader + 2) % 3).await;
    let error = served.oracle(leader).get_seq(common::request("late")).await.unwrap_err();
    assert!(matches!(
        error.kind(),
        ErrorKind::NotLeader(_) | ErrorKind::Unavailable | ErrorKind::Uncertain
    ));
    driver.shutdown().await.unwrap();
    served.start_node(stranger).await;
    assert_eq!(served.take(1).await, 2..3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_a_cluster() {
    let mut served = Served::start(2, OPTIONS).await;
    assert_eq!(served.take(3).await, 0..3);
    let other = 1 - served.serving().await;
    served.stop_node(other).await;
    served.start_node(other).await;
    assert_eq!(served.take(1).await, 3..4, "nothing is lost meanwhile");
}
