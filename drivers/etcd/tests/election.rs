//! Who leads, when nodes of a real etcd come, go, and do not answer.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{
    Etcd, member,
    node::{after, effect, led, next, open, take, until, version, wait_for},
    proxy_to,
    service::Service,
};
use tsoracle_core::{Clock, Leadership, Outcome, SystemClock};
use tsoracle_testbed::proxy::Proxy;

/// So long that no leader loses its key by itself within a test.
const FOR_EVER: &str = "ttl=60s&timeout=2s";

fn follows(endpoint: &str) -> impl FnMut(&Leadership) -> bool {
    move |now| matches!(now, Leadership::Follower { leader: Some(leader) } if leader.endpoint == endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_answer_is_deposed() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{FOR_EVER}&probe=600ms", etcd.authority());
    let (service, other) = (Service::start(0), Service::start(0));
    let a = open(&config, &service.endpoint()).await.unwrap();
    led(&a).await;
    let (_, base) = take(&a, "orders", 1).await.unwrap();
    let b = open(&config, &other.endpoint()).await.unwrap();
    wait_for(&b, follows(&service.endpoint())).await;
    // B has asked A at least once, and was answered.
    until(async || (service.asked() > 0).then_some(())).await;
    // From here on connections are made and not answered, as by a process that stands still.
    service.proxy.hang();
    led(&b).await;
    let (first, found) = take(&b, "orders", 1).await.unwrap();
    assert_eq!(first, 1);
    let outcome = a.commit(base, effect(after(base))).await.unwrap();
    assert_eq!(outcome, Outcome::Conflict { found }, "the older leader changes nothing");
    let now = wait_for(&a, follows(&other.endpoint())).await;
    let Leadership::Follower { leader: Some(leader) } = now else { unreachable!() };
    assert_eq!(leader.epoch, None, "an epoch is not known before its fence");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_never_answered_is_left_alone() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{FOR_EVER}&probe=100ms", etcd.authority());
    let nowhere = format!("127.0.0.1:{}", common::free_port());
    let a = open(&config, &nowhere).await.unwrap();
    led(&a).await;
    let proxy = proxy_to(etcd.members[0].port);
    let config = format!("etcd://{}/p?{FOR_EVER}&probe=100ms", proxy.address());
    let b = open(&config, "").await.unwrap();
    wait_for(&b, follows(&nowhere)).await;
    // Far longer than it takes to depose one, and B still learns what happens.
    let began = SystemClock.now().boot;
    until(async || (SystemClock.now().boot.since(began).as_millis() > 1_500).then_some(())).await;
    let before = proxy.answered();
    take(&a, "orders", 1).await.unwrap();
    until(async || (proxy.answered() > before).then_some(())).await;
    assert!(follows(&nowhere)(&b.leadership().borrow()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_is_followed_at_once() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{FOR_EVER}", etcd.authority());
    let mut driver = open(&config, "").await.unwrap();
    for round in 0..4 {
        led(&driver).await;
        assert_eq!(take(&driver, "orders", 1).await.unwrap().0, round);
        let next = open(&config, "").await.unwrap();
        driver.shutdown().await.unwrap();
        driver = next;
    }
    let mut client = etcd.client().await;
    led(&driver).await;
    drop(driver);
    // One that is dropped stops as well.
    until(async || client.get("p/leader", None).await.unwrap().kvs().is_empty().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_etcd_loses_its_key_and_steps_down() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let proxy = proxy_to(etcd.members[0].port);
    let a = open(&format!("etcd://{}/p?ttl=2s", proxy.address()), "a:1").await.unwrap();
    led(&a).await;
    let b = open(&format!("etcd://{}/p?ttl=2s", etcd.authority()), "b:1").await.unwrap();
    wait_for(&b, follows("a:1")).await;
    let renewing = SystemClock.now().boot;
    let (_, renewed) = take(&a, "orders", 1).await.unwrap();
    proxy.hang();
    led(&b).await;
    let elected = SystemClock.now().boot;
    wait_for(&a, |now| *now == Leadership::Unknown).await;
    let seen = b.seen(&renewed).expect("the watch reports each commit");
    assert!(seen < elected, "the last commit before was seen before the election");
    assert!(seen >= renewing, "and not before it was made");
    proxy.open();
    wait_for(&a, follows("b:1")).await;
    assert_eq!(next(&a, "orders").await.unwrap(), 1, "a follower can be read from too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contender_whose_watch_hangs_or_breaks_still_learns_what_happens() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    for (cut, prefix) in [(Proxy::hang as fn(&Proxy), "hangs"), (Proxy::close, "breaks")] {
        let a = open(&format!("etcd://{}/{prefix}?{FOR_EVER}", etcd.authority()), "a:1").await;
        let a = a.unwrap();
        led(&a).await;
        let ways = [(); 2].map(|()| proxy_to(etcd.members[0].port));
        let members = format!("{},{}", ways[0].address(), ways[1].address());
        let b = open(&format!("etcd://{members}/{prefix}?ttl=60s"), "b:1").await.unwrap();
        wait_for(&b, follows("a:1")).await;
        // The other one is asked now and then, and reports nothing.
        let before = ways[0].answered();
        take(&a, "orders", 1).await.unwrap();
        until(async || (ways[0].answered() > before).then_some(())).await;
        cut(&ways[0]);
        a.shutdown().await.unwrap();
        led(&b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_leader_writes_nothing() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let proxy = proxy_to(etcd.members[0].port);
    let config = format!("etcd://{}/p?ttl=2s", proxy.address());
    let driver = open(&config, "").await.unwrap();
    led(&driver).await;
    let follower = open(&config, "").await.unwrap();
    wait_for(&follower, |now| matches!(now, Leadership::Follower { .. })).await;
    let mut client = etcd.client().await;
    let before = client.get("p/leader", None).await.unwrap().header().unwrap().revision();
    // Looks and keepalives, for longer than the lease.
    let (answered, began) = (proxy.answered(), SystemClock.now().boot);
    until(async || {
        let long = SystemClock.now().boot.since(began).as_millis() > 3_000;
        (long && proxy.answered() > answered + 2_000).then_some(())
    })
    .await;
    let after = client.get("p/leader", None).await.unwrap();
    assert_eq!(after.header().unwrap().revision(), before);
    assert_eq!(after.kvs().len(), 1, "and its lease goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_resigns_is_followed_by_a_contender() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{FOR_EVER}", etcd.authority());
    let a = open(&config, "a:1").await.unwrap();
    let first = led(&a).await;
    let b = open(&config, "b:1").await.unwrap();
    wait_for(&b, follows("a:1")).await;
    a.resign(first).await;
    wait_for(&a, |now| *now != Leadership::Leader { claim: first }).await;
    let second = led(&b).await;
    wait_for(&a, follows("b:1")).await;
    a.resign(first).await;
    // A may stand for election again by then.
    let began = SystemClock.now().boot;
    until(async || (SystemClock.now().boot.since(began).as_millis() > 2_500).then_some(())).await;
    b.resign(second).await;
    let third = led(&a).await;
    assert!(third > first, "claim {third} came after {first}");
    b.shutdown().await.unwrap();
    // Alone, it gets the election key again, as a claim of its own.
    a.resign(third).await;
    wait_for(&a, |now| *now != Leadership::Leader { claim: third }).await;
    let fourth = led(&a).await;
    assert!(fourth > third, "claim {fourth} came after {third}");
    for over in [first, third] {
        a.resign(over).await;
    }
    let began = SystemClock.now().boot;
    until(async || (SystemClock.now().boot.since(began).as_millis() > 1_500).then_some(())).await;
    assert_eq!(*a.leadership().borrow(), Leadership::Leader { claim: fourth });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_notices_when_each_version_was_made() {
    if !common::is_there() {
        return;
    }
    let etcd = Etcd::single(&[]).await;
    let proxy = proxy_to(etcd.members[0].port);
    let config = |address| format!("etcd://{address}/p?{FOR_EVER}");
    let a = open(&config(member(etcd.members[0].port)), "a:1").await.unwrap();
    led(&a).await;
    let b = open(&config(proxy.address()), "b:1").await.unwrap();
    wait_for(&b, follows("a:1")).await;
    for _ in 0..3 {
        let begun = SystemClock.now().boot;
        let (_, made) = take(&a, "orders", 1).await.unwrap();
        let seen = until(async || b.seen(&made)).await;
        assert!(seen >= begun && seen <= SystemClock.now().boot);
        assert_eq!(b.seen(&after(made)), None, "a version that was never made");
        let other = tsoracle_core::Version { name: !made.name, ..made };
        assert_eq!(b.seen(&other), None, "another version of the same number");
        let own = a.seen(&made).expect("a node has seen what it has stored");
        assert!(own >= begun && own <= SystemClock.now().boot);
    }
    // What was made while B noticed nothing, it dates later and not earlier.
    proxy.hang();
    let (_, missed) = take(&a, "orders", 1).await.unwrap();
    let opening = SystemClock.now().boot;
    assert_eq!(b.seen(&missed), None);
    proxy.open();
    assert!(until(async || b.seen(&missed)).await >= opening);
    let (_, later) = take(&a, "orders", 1).await.unwrap();
    assert_eq!(version(&b).await.unwrap(), later);
    assert!(b.seen(&later) >= b.seen(&missed));
}
