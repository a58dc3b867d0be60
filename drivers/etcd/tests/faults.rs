//! What goes wrong with etcd, and what is wrong in it.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{
    Etcd,
    line::Line,
    node::{Asker, Leader, advance, is, open, until, wait_for},
};
use tsoracle_core::{
    ErrorKind, Leadership, MAX_BATCH, MAX_KEY_BYTES, RequestId, Session,
    state::{Query, Reply},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_of_etcd_may_fail() {
    if !common::is_there() {
        return;
    }
    let mut etcd = Etcd::start(3, &[]).await;
    let config = format!("etcd://{}/p", etcd.authority());
    let mut asker = Asker::new(open(&config, "").await.unwrap(), "s");
    asker.ask(10).await;
    // One after another, so that the leader of etcd is among them, and the member that is asked.
    for member in 0..3 {
        etcd.members[member].kill();
        asker.ask(20).await;
        etcd.members[member].start();
        asker.ask(20).await;
    }
    for member in 0..3 {
        etcd.members[member].signal("STOP");
        asker.ask(20).await;
        etcd.members[member].signal("CONT");
        asker.ask(20).await;
    }
    asker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_may_come_after_this_node() {
    if !common::is_there() {
        return;
    }
    let mut etcd = Etcd::single(&[]).await;
    etcd.members[0].kill();
    let config = format!("etcd://{}/p", etcd.authority());
    let driver = open(&config, "").await.unwrap();
    let error = driver.read(Query::Reign).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(*driver.leadership().borrow(), Leadership::Unknown);
    let port = etcd.members[0].port;
    let early = open(&config, "").await.unwrap();
    early.shutdown().await.unwrap();
    etcd.members[0].start();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    assert_eq!(leader.take("orders", 4).await.unwrap(), 0);
    assert!(port > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_comes_late_changes_nothing() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    // Two ways to one member.
    let ways = [(); 2].map(|()| Line::that_gives_nothing_up(etcd.members[0].port));
    let config = format!("etcd://127.0.0.1:{},127.0.0.1:{}/p?ttl=60s", ways[0].port, ways[1].port);
    let driver = open(&config, "").await.unwrap();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    let (mut orders, mut others) = (0, 0);
    for round in 0..6 {
        // What is sent this way waits, and is sent the other way as well.
        let late = &ways[round % 2];
        late.stall();
        for _ in 0..3 {
            assert_eq!(leader.take("orders", 5).await.unwrap(), orders);
            orders += 5;
        }
        let answered = late.answered();
        late.open();
        until(async || (late.answered() > answered).then_some(())).await;
        // It has arrived, and may have to wait for its turn.
        for _ in 0..10 {
            assert_eq!(leader.take("others", 1).await.unwrap(), others);
            others += 1;
        }
        assert_eq!(leader.next("orders").await.unwrap(), orders, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_made_once() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let ways = [(); 2].map(|()| Line::to(etcd.members[0].port));
    let config = format!("etcd://127.0.0.1:{},127.0.0.1:{}/p?ttl=60s", ways[0].port, ways[1].port);
    let driver = open(&config, "").await.unwrap();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    let mut expected = 0;
    for round in 0..6 {
        ways[round % 2].mute();
        for _ in 0..3 {
            assert_eq!(leader.take("orders", 5).await.unwrap(), expected, "round {round}");
            expected += 5;
        }
        ways[round % 2].open();
    }
    assert_eq!(leader.next("orders").await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_uncertain_is_said_to_be_and_never_lands_later() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let line = Line::to(etcd.members[0].port);
    let config = format!("etcd://127.0.0.1:{}/p?ttl=60s&timeout=100ms", line.port);
    let driver = open(&config, "").await.unwrap();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    leader.take("orders", 1).await.unwrap();
    let mut client = etcd.client().await;
    for round in 0..5 {
        let before = leader.next("orders").await.unwrap();
        line.stall();
        // The state is known to the driver by now, so that this is sent, and not answered.
        let error = leader.take("orders", 100).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "round {round}: {error}");
        // From here on nothing is known any more, so that this fails before it is sent.
        let error = leader.take("orders", 100).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "round {round}: {error}");
        line.open();
        let block = until(async || leader.take("orders", 1).await.ok()).await;
        assert!([before, before + 100].contains(&block), "{block} came after {before}");
        let version = client.get("p/version", None).await.unwrap().kvs()[0].mod_revision();
        leader.next("orders").await.unwrap();
        let next = leader.next("orders").await.unwrap();
        assert_eq!(next, block + 1, "the uncertain one landed after a later one");
        let now = client.get("p/version", None).await.unwrap().kvs()[0].mod_revision();
        assert_eq!(now, version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_lost_what_it_had_is_not_served_from() {
    if !common::is_there() {
        return;
    }
    for change in [None, Some("--initial-cluster-token=another")] {
        let mut etcd = Etcd::single(&[]).await;
        let driver = open(&format!("etcd://{}/p", etcd.authority()), "").await.unwrap();
        let leader = Leader::of(&driver).await;
        leader.reign().await;
        for _ in 0..10 {
            leader.take("orders", 1).await.unwrap();
        }
        etcd.members[0].wipe();
        if let Some(option) = change {
            etcd.members[0].option(option);
        }
        etcd.members[0].start();
        let error = until(async || {
            let error = driver.read(Query::Reign).await.unwrap_err();
            (!error.is_retryable()).then_some(error)
        })
        .await;
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains("tsoracle raise"), "{error}");
        let mut leadership = driver.leadership();
        while leadership.changed().await.is_ok() {}
        let error = leader.take("orders", 1).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        let mut client = etcd.client().await;
        let all = etcd_client::GetOptions::new().with_all_keys();
        let written = client.get("", Some(all)).await.unwrap();
        assert!(written.kvs().is_empty(), "it was written to: {written:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_another_cluster_is_taken_over_only_when_told_to() {
    if !common::is_there() {
        return;
    }
    let (old, new) = (Etcd::single(&[]).await, Etcd::single(&[]).await);
    let driver = open(&format!("etcd://{}/p", old.authority()), "").await.unwrap();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    for _ in 0..20 {
        leader.take("orders", 1).await.unwrap();
    }
    driver.shutdown().await.unwrap();
    // As a backup by keys does.
    let all = || Some(etcd_client::GetOptions::new().with_prefix());
    let mut target = new.client().await;
    let mut id = 0;
    for entry in old.client().await.get("p/", all()).await.unwrap().kvs() {
        let put = target.put(entry.key(), entry.value(), None).await.unwrap();
        id = put.header().unwrap().cluster_id();
    }
    let config = format!("etcd://{}/p", new.authority());
    let fatal = |error: &tsoracle_core::Error| *error.kind() == ErrorKind::Fatal;
    let error = is(open(&config, "").await, fatal, "a state of another cluster");
    assert!(error.to_string().contains("tsoracle raise"), "{error}");
    is(open(&format!("{config}?adopt=1"), "").await, fatal, "another one than was named");
    let driver = open(&format!("{config}?adopt={id:x}"), "").await.unwrap();
    let adopted = Leader::of(&driver).await;
    assert!(adopted.epoch > leader.epoch, "though this cluster's revisions are lower");
    adopted.reign().await;
    assert_eq!(adopted.take("orders", 1).await.unwrap(), 20);
    driver.shutdown().await.unwrap();
    // From now on it is this cluster's.
    let driver = open(&config, "").await.unwrap();
    let again = Leader::of(&driver).await;
    assert!(again.epoch > adopted.epoch);
    again.reign().await;
    assert_eq!(again.take("orders", 1).await.unwrap(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_read_is_refused() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let mut client = etcd.client().await;
    let corrupt = |error: &tsoracle_core::Error| *error.kind() == ErrorKind::Corrupt;
    for (prefix, key, value, says) in [
        ("a", "version", "tsoracle-etcd/9 1 0 1 x", "tsoracle-etcd/9"),
        ("b", "version", "garbage", "garbage"),
        ("c", "state:r", "garbage", "c/version is missing"),
        ("d", "state:sorders", "", "d/version is missing"),
    ] {
        client.put(format!("{prefix}/{key}"), value, None).await.unwrap();
        let opened = open(&format!("etcd://{}/{prefix}", etcd.authority()), "").await;
        let error = is(opened, corrupt, key);
        assert!(error.to_string().contains(says), "{error}");
    }
    // What becomes so under a leader ends it.
    let driver = open(&format!("etcd://{}/e", etcd.authority()), "").await.unwrap();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    client.delete("e/version", None).await.unwrap();
    is(leader.take("orders", 1).await, corrupt, "a version that was deleted");
    let mut leadership = driver.leadership();
    while leadership.changed().await.is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_writes_go_through() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let prefix = "p".repeat(64);
    let config = format!("etcd://{}/{prefix}?ttl=60s&timeout=10s", etcd.authority());
    let driver = open(&config, "").await.unwrap();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    let limits = driver.limits();
    let names: Vec<_> = (0..MAX_BATCH).map(|index| format!("{index:0>MAX_KEY_BYTES$}")).collect();
    let longest: Vec<_> = names.iter().map(|name| (name.as_str(), u32::MAX)).collect();
    let session = |index: usize| Session::from_text(&index.to_string());
    let id = |index, number| RequestId::new(session(index), number, 1).unwrap();
    // Pages of answers that are as large as they get: all but one of their answers name many blocks
    // of large numbers.
    let mut batch = vec![];
    let mut bytes = 0;
    for index in 0..limits.commands {
        for number in 1..=15 {
            let command = advance(&longest, Some(id(index, number)));
            if bytes + command.size_hint() > limits.bytes {
                all_done(&leader, std::mem::take(&mut batch)).await;
                bytes = 0;
            }
            bytes += command.size_hint();
            batch.push(command);
        }
    }
    all_done(&leader, batch).await;
    // All of these pages written anew, and as many keys as fit.
    let mut batch = vec![];
    let mut bytes = 0;
    for index in 0..limits.commands {
        let left = (limits.bytes - bytes) / (limits.commands - index) - 170;
        let names: Vec<_> = (0..(left / 13).min(MAX_BATCH))
            .map(|entry| format!("{:05}", index * MAX_BATCH + entry))
            .collect();
        let entries: Vec<_> = names.iter().map(|name| (name.as_str(), u32::MAX)).collect();
        let command = advance(&entries, Some(id(index, 14 + 2)));
        bytes += command.size_hint();
        batch.push(command);
    }
    assert!(bytes <= limits.bytes && bytes > limits.bytes * 9 / 10, "{bytes}");
    all_done(&leader, batch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_answers_are_cleared_in_one_commit() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let driver = open(&format!("etcd://{}/p?ttl=60s&timeout=10s", etcd.authority()), "").await;
    let driver = driver.unwrap();
    let leader = Leader::of(&driver).await;
    leader.reign().await;
    let sessions: Vec<_> = (0..8).map(|index| Session::from_text(&index.to_string())).collect();
    let ask = |session, number, first| {
        advance(&[("orders", 1)], Some(RequestId::new(session, number, first).unwrap()))
    };
    // One answer to a page.
    let every = |&session: &Session| (0..256).map(move |page| ask(session, page * 16 + 1, 1));
    let commands: Vec<_> = sessions.iter().flat_map(every).collect();
    for batch in commands.chunks(driver.limits().commands) {
        all_done(&leader, batch.to_vec()).await;
    }
    let mut client = etcd.client().await;
    let mut pages = async || {
        let count = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.get("p/state:a", Some(count)).await.unwrap().count()
    };
    assert_eq!(pages().await, 8 * 256);
    let clear = sessions.iter().map(|&session| ask(session, 4_097, 4_097)).collect();
    all_done(&leader, clear).await;
    assert_eq!(pages().await, 8, "only the last answers are left");
    assert_eq!(leader.next("orders").await.unwrap(), 8 * 257);
}

async fn all_done(leader: &Leader, commands: Vec<tsoracle_core::state::Command>) {
    for result in leader.commit(commands).await.unwrap().results {
        assert!(matches!(result, Ok(Reply::Advanced(_))), "{result:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_under_other_prefixes_do_not_meet() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let mut client = etcd.client().await;
    client.put("a", "not ours", None).await.unwrap();
    client.put("a0", "not ours", None).await.unwrap();
    let prefixes = ["a", "ab", "a/b", "a/state", "a/leader", "a/state/s"];
    let mut drivers = vec![];
    for prefix in prefixes {
        let config = format!("etcd://{}/{prefix}", etcd.authority());
        drivers.push(open(&config, &format!("{prefix}:1")).await.unwrap());
    }
    for (index, driver) in drivers.iter().enumerate() {
        let leader = Leader::of(driver).await;
        leader.reign().await;
        let count = u32::try_from(index).unwrap() + 1;
        assert_eq!(leader.take("orders", count).await.unwrap(), 0);
        let listing = Query::Sequences { prefix: String::new(), after: String::new(), limit: 9 };
        let answer = driver.read(listing).await.unwrap();
        assert!(format!("{answer:?}").matches("orders").count() == 1, "{answer:?}");
    }
    for (driver, count) in drivers.iter().zip(1..) {
        wait_for(driver, |now| matches!(now, Leadership::Leader { .. })).await;
        assert_eq!(Leader::of(driver).await.next("orders").await.unwrap(), count);
        driver.shutdown().await.unwrap();
    }
    let all = etcd_client::GetOptions::new().with_all_keys();
    let stored = client.get("", Some(all)).await.unwrap();
    let foreign: Vec<_> = stored
        .kvs()
        .iter()
        .map(|entry| String::from_utf8_lossy(entry.key()))
        .filter(|key| !prefixes.iter().any(|prefix| key.starts_with(&format!("{prefix}/"))))
        .collect();
    assert_eq!(foreign, ["a", "a0"]);
}
