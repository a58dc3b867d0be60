//! What goes wrong with etcd, and what is wrong in it.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::time::Duration;

use common::{
    Etcd,
    node::{Asker, after, effect, is, led, next, open, take, until, version},
    proxy_that_gives_nothing_up, proxy_to,
};
use etcd_client::GetOptions;
use tsoracle_core::{
    Clock as _, Error, ErrorKind, Floor, KeyRange, Leadership, Outcome, Reads, SystemClock,
    Version, adopt,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_of_etcd_may_fail() {
    let mut etcd = Etcd::start(3, &[]).await;
    let config = format!("etcd://{}/p", etcd.authority());
    let mut asker = Asker::over(&config, "s").await;
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
async fn a_member_in_reserve_is_connected_to_before_it_is_needed() {
    let etcd = Etcd::single(&[]).await;
    let ways = [(); 2].map(|()| proxy_to(etcd.members[0].port));
    let members = format!("{},{}", ways[0].address(), ways[1].address());
    let driver = open(&format!("etcd://{members}/p"), "a:1").await.unwrap();
    led(&driver).await;
    until(async || (ways[1].answered() > 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_may_come_after_this_node() {
    let mut etcd = Etcd::single(&[]).await;
    etcd.members[0].kill();
    let config = format!("etcd://{}/p", etcd.authority());
    let driver = open(&config, "").await.unwrap();
    let error = version(&driver).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    let outcome = driver.commit(Version::EMPTY, effect(after(Version::EMPTY))).await;
    let error = outcome.expect_err("it cannot be stored");
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "it was never sent: {error}");
    assert_eq!(*driver.leadership().borrow(), Leadership::Unknown);
    let early = open(&config, "").await.unwrap();
    early.shutdown().await.unwrap();
    etcd.members[0].start();
    led(&driver).await;
    assert_eq!(take(&driver, "orders", 4).await.unwrap().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_answers_nothing_is_reported_for_as_long_as_that_lasts() {
    let mut etcd = Etcd::single(&[]).await;
    let proxy = proxy_to(etcd.members[0].port);
    let driver = open(&format!("etcd://{}/p", proxy.address()), "a:1").await.unwrap();
    led(&driver).await;
    let found = || {
        let now = SystemClock.now().boot;
        let found = driver.report(now).findings.pop()?;
        assert_eq!(found.kind, "etcd_silent", "{found:?}");
        assert!(found.what.starts_with("etcd does not answer: "), "{found:?}");
        assert!(found.remedy.contains("etcdctl endpoint health"), "{found:?}");
        let since = found.since.expect("since its first call without an answer");
        assert!(
            now.since(since) >= Duration::from_secs(2),
            "a moment is not worth a word: {found:?}"
        );
        Some(found)
    };
    assert!(found().is_none(), "it is sound");
    let is_sound = async || found().is_none().then_some(());
    proxy.hang();
    until(async || found()).await;
    proxy.open();
    until(is_sound).await;
    // One that is down says at once that it is, and nothing else.
    etcd.members[0].kill();
    until(async || found()).await;
    etcd.members[0].start();
    until(is_sound).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_comes_late_changes_nothing() {
    let etcd = Etcd::single(&[]).await;
    // Two ways to one member.
    let ways = [(); 2].map(|()| proxy_that_gives_nothing_up(etcd.members[0].port));
    let config = format!("etcd://{},{}/p?ttl=60s", ways[0].address(), ways[1].address());
    let driver = open(&config, "").await.unwrap();
    let (mut orders, mut others) = (0, 0);
    for round in 0..6 {
        // What is sent this way waits, and is sent the other way as well.
        let late = &ways[round % 2];
        late.hang();
        for _ in 0..3 {
            assert_eq!(take(&driver, "orders", 5).await.unwrap().0, orders);
            orders += 5;
        }
        let answered = late.answered();
        late.open();
        until(async || (late.answered() > answered).then_some(())).await;
        // It has arrived, and may have to wait for its turn.
        for _ in 0..10 {
            assert_eq!(take(&driver, "others", 1).await.unwrap().0, others);
            others += 1;
        }
        assert_eq!(next(&driver, "orders").await.unwrap(), orders, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_made_once() {
    let etcd = Etcd::single(&[]).await;
    let ways = [(); 2].map(|()| proxy_to(etcd.members[0].port));
    let config = format!("etcd://{},{}/p?ttl=60s", ways[0].address(), ways[1].address());
    let driver = open(&config, "").await.unwrap();
    let (mut expected, mut base) = (0, version(&driver).await.unwrap());
    for round in 0..6 {
        ways[round % 2].hang_answers();
        for _ in 0..3 {
            // This makes the one without an answer a commit, not the read before it.
            let made = after(base);
            let mut writes = effect(made);
            writes.put("orders", u64::to_be_bytes(expected + 5));
            let outcome = driver.commit(base, writes).await.unwrap();
            assert_eq!(outcome, Outcome::Stored, "round {round}");
            (base, expected) = (made, expected + 5);
            assert_eq!(next(&driver, "orders").await.unwrap(), expected, "round {round}");
        }
        ways[round % 2].open();
    }
    assert_eq!(version(&driver).await.unwrap(), base);
    assert_eq!(base.number, 18, "each was made once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_uncertain_is_said_to_be_and_never_lands_later() {
    let etcd = Etcd::single(&[]).await;
    let proxy = proxy_to(etcd.members[0].port);
    let config = format!("etcd://{}/p?ttl=60s&timeout=100ms", proxy.address());
    let driver = open(&config, "").await.unwrap();
    take(&driver, "orders", 1).await.unwrap();
    let mut client = etcd.client().await;
    for round in 0..5 {
        let base = version(&driver).await.unwrap();
        let sent = [after(base), after(base)];
        proxy.hang();
        for made in sent {
            let error = driver.commit(base, effect(made)).await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Uncertain, "round {round}: {error}");
        }
        let error = version(&driver).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "round {round}: {error}");
        proxy.open();
        // One more on the same base decides: it is stored, or one of the others was.
        let settling = after(base);
        let decided = until(async || driver.commit(base, effect(settling)).await.ok()).await;
        let decided = match decided {
            Outcome::Stored => settling,
            Outcome::Conflict { found } => found,
        };
        assert!([sent[0], sent[1], settling].contains(&decided), "{decided:?} followed {base:?}");
        let revision = async |client: &mut etcd_client::Client| {
            client.get("p/state:v", None).await.unwrap().kvs()[0].mod_revision()
        };
        let stored = revision(&mut client).await;
        for _ in 0..10 {
            assert_eq!(version(&driver).await.unwrap(), decided, "something landed later");
        }
        assert_eq!(revision(&mut client).await, stored);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_lost_what_it_had_shows_it_and_is_not_written_to() {
    for change in [None, Some("--initial-cluster-token=another")] {
        let mut etcd = Etcd::single(&[]).await;
        let driver = open(&format!("etcd://{}/p", etcd.authority()), "").await.unwrap();
        for _ in 0..9 {
            take(&driver, "orders", 1).await.unwrap();
        }
        let (_, base) = take(&driver, "orders", 1).await.unwrap();
        etcd.members[0].wipe();
        if let Some(option) = change {
            etcd.members[0].option(option);
        }
        etcd.members[0].start();
        // The engine stops at a version below one that it has read.
        let found = until(async || version(&driver).await.ok()).await;
        assert_eq!(found, Version::EMPTY);
        let error = driver.commit(base, effect(after(base))).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "the state is behind: {error}");
        let mut client = etcd.client().await;
        let all = GetOptions::new().with_all_keys();
        let written = client.get("", Some(all)).await.unwrap();
        let mut keys = written.kvs().iter().map(|entry| entry.key_str().unwrap());
        assert!(keys.all(|key| key == "p/leader"), "it was written to: {written:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_another_cluster_is_taken_over_only_when_told_to() {
    let (old, new) = (Etcd::single(&[]).await, Etcd::single(&[]).await);
    let driver = open(&format!("etcd://{}/p", old.authority()), "").await.unwrap();
    for _ in 0..20 {
        take(&driver, "orders", 1).await.unwrap();
    }
    let base = version(&driver).await.unwrap();
    driver.shutdown().await.unwrap();
    // As a backup by keys does.
    let all = || Some(GetOptions::new().with_prefix());
    let mut target = new.client().await;
    let mut id = 0;
    for entry in old.client().await.get("p/", all()).await.unwrap().kvs() {
        let put = target.put(entry.key(), entry.value(), None).await.unwrap();
        id = put.header().unwrap().cluster_id();
    }
    let config = format!("etcd://{}/p", new.authority());
    let fatal = |error: &Error| *error.kind() == ErrorKind::Fatal;
    let error = is(open(&config, "").await, fatal, "a state of another cluster");
    assert!(error.to_string().contains("tsoracle raise"), "{error}");
    is(open(&format!("{config}?adopt=1"), "").await, fatal, "another one than was named");
    let driver = open(&format!("{config}?adopt={id:x}"), "").await.unwrap();
    // Nothing is stored but an adoption, which raises the time in the same commit.
    let refused = driver.commit(base, effect(after(base))).await.unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("not adopted yet"), "{refused}");
    assert_eq!(version(&driver).await.unwrap(), base);
    adopt(&driver, Floor::forced(5_000), Duration::from_secs(1)).await.unwrap();
    // From here on it stores again, without having looked.
    let outcome = driver.commit(base, effect(after(base))).await.unwrap();
    let adopted = version(&driver).await.unwrap();
    assert_eq!(outcome, Outcome::Conflict { found: adopted }, "the era is another one");
    assert_eq!(adopted.position(), (base.era + 1, base.number + 1));
    assert_eq!(take(&driver, "orders", 1).await.unwrap().0, 20);
    driver.shutdown().await.unwrap();
    // From now on it is this cluster's, with or without the option.
    for (config, expected) in [(config.clone(), 21), (format!("{config}?adopt={id:x}"), 22)] {
        let driver = open(&config, "").await.unwrap();
        assert_eq!(take(&driver, "orders", 1).await.unwrap().0, expected);
        assert_eq!(version(&driver).await.unwrap().era, adopted.era);
        driver.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_read_is_refused() {
    let etcd = Etcd::single(&[]).await;
    let mut client = etcd.client().await;
    let corrupt = |error: &Error| *error.kind() == ErrorKind::Corrupt;
    for (prefix, key, value, says) in [
        ("a", "version", "tsoracle-etcd/1 1 0 1 x", "tsoracle migrate"),
        ("b", "version", "tsoracle-etcd/9 1", "made by a newer release"),
        ("c", "version", "garbage", "garbage"),
        ("d", "version", "tsoracle-etcd/2 1", "d/state:v"),
        ("e", "state:v", "garbage", "the state's version"),
        ("f", "state:r", "garbage", "f/state:v"),
        ("g", "state:sorders", "", "g/state:v"),
    ] {
        client.put(format!("{prefix}/{key}"), value, None).await.unwrap();
        let opened = open(&format!("etcd://{}/{prefix}", etcd.authority()), "").await;
        let error = is(opened, corrupt, key);
        assert!(error.to_string().contains(says), "{error}");
    }
    // What becomes so under a leader ends it.
    for key in ["state:v", "version"] {
        let driver = open(&format!("etcd://{}/z", etcd.authority()), "").await.unwrap();
        let (_, base) = take(&driver, "orders", 1).await.unwrap();
        client.delete(format!("z/{key}"), None).await.unwrap();
        is(version(&driver).await, corrupt, "a version that was deleted");
        let mut leadership = driver.leadership();
        while leadership.changed().await.is_ok() {}
        is(driver.commit(base, effect(after(base))).await, corrupt, "a commit after that");
        client.delete("z/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_under_other_prefixes_do_not_meet() {
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
    for (driver, count) in drivers.iter().zip(1..) {
        led(driver).await;
        assert_eq!(take(driver, "orders", count).await.unwrap().0, 0);
    }
    for (driver, count) in drivers.iter().zip(1_u64..) {
        let whole = KeyRange { from: vec![], to: vec![0xff], limit: 9 };
        let state = driver.read(&Reads { keys: vec![], ranges: vec![whole] }).await.unwrap();
        let version = (b"v".to_vec(), state.version.encode().to_vec());
        let orders = (b"orders".to_vec(), count.to_be_bytes().to_vec());
        assert_eq!(state.ranges, [[orders, version]]);
        driver.shutdown().await.unwrap();
    }
    let all = GetOptions::new().with_all_keys();
    let stored = client.get("", Some(all)).await.unwrap();
    let foreign: Vec<_> = stored
        .kvs()
        .iter()
        .map(|entry| String::from_utf8_lossy(entry.key()))
        .filter(|key| !prefixes.iter().any(|prefix| key.starts_with(&format!("{prefix}/"))))
        .collect();
    assert_eq!(foreign, ["a", "a0"]);
}
