//! What is told of a transaction that etcd has answered with an error.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{
    Etcd,
    liar::{Liar, MARK},
    node::{Driver, after, effect, open, take, until, version},
};
use etcd_client::{Permission, PermissionType, RoleRevokePermissionOptions};
use tonic::Code;
use tsoracle_core::{Effect, ErrorKind, KeyRange, Outcome, Reads, Result, Version};

/// An effect that makes a version, with the mark in it.
fn marked(version: Version) -> Effect {
    let mut effect = effect(version);
    effect.put(MARK, "");
    effect
}

/// The version as it is stored, whatever the driver says.
async fn stored(etcd: &Etcd) -> Version {
    let found = etcd.client().await.get("p/state:v", None).await.unwrap();
    Version::decode(found.kvs().first().map(etcd_client::KeyValue::value)).unwrap()
}

/// How often an etcd is filled at most: it is a matter of moments whether a commit is among the transactions
/// that are under way when the quota is crossed.
const FILLED: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transaction_that_crosses_the_quota_is_not_told_as_refused() {
    for _ in 0..FILLED {
        let etcd = Etcd::single(&["--quota-backend-bytes=2097152".into()]).await;
        let config = format!("etcd://{}/p?ttl=60s&timeout=200ms", etcd.authority());
        let driver = open(&config, "").await.unwrap();
        let mut base = until(async || version(&driver).await.ok()).await;
        let mut client = etcd.client().await;
        let filling = tokio::spawn(async move {
            while client.put("filling", vec![7; 16 << 10], None).await.is_ok() {}
        });
        let (error, made) = loop {
            let made = after(base);
            match driver.commit(base, effect(made)).await {
                Ok(outcome) => assert_eq!(outcome, Outcome::Stored),
                Err(error) => break (error, made),
            }
            base = made;
        };
        filling.await.unwrap();
        if stored(&etcd).await == made {
            assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
            return;
        }
    }
    panic!("no commit was under way when the quota was crossed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_after_the_transaction_was_made_is_not_told_as_refused() {
    let etcd = Etcd::single(&[]).await;
    let liar = Liar::before(etcd.members[0].port).await;
    let config = format!("etcd://127.0.0.1:{}/p?ttl=60s", liar.port);
    let driver = open(&config, "").await.unwrap();
    let errors = [
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        (Code::ResourceExhausted, "grpc: received message larger than max"),
        (Code::Unavailable, "etcdserver: request timed out"),
        (Code::Unavailable, "etcdserver: leader changed"),
        (Code::DeadlineExceeded, "context deadline exceeded"),
        (Code::Cancelled, "context canceled"),
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        (Code::DataLoss, "etcdserver: corrupt cluster"),
        (Code::Internal, "stream terminated by RST_STREAM"),
        (Code::Aborted, ""),
        (Code::Unknown, ""),
    ];
    for (code, text) in errors {
        // Once: the next copy finds what the first one has made.
        let base = version(&driver).await.unwrap();
        let made = after(base);
        liar.lie(code, text, 1);
        assert_eq!(driver.commit(base, marked(made)).await.unwrap(), Outcome::Stored, "{code:?}");
        assert_eq!(stored(&etcd).await, made, "{code:?}");
        // Always: nobody can know.
        let next = after(made);
        liar.lie(code, text, usize::MAX);
        let error = driver.commit(made, marked(next)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "{code:?}: {error}");
        assert_eq!(stored(&etcd).await, next, "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_revoked_refuse_commits_until_they_are_granted_again() {
    let etcd = Etcd::single(&[]).await;
    let mut client = etcd.client().await;
    client.user_add("root", "r", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("tso", "s", None).await.unwrap();
    client.role_add("tso").await.unwrap();
    let below = || Permission::new(PermissionType::Readwrite, "p/").with_prefix();
    client.role_grant_permission("tso", below()).await.unwrap();
    client.user_grant_role("tso", "tso").await.unwrap();
    client.auth_enable().await.unwrap();
    let options = etcd_client::ConnectOptions::new().with_user("root", "r");
    let mut root = etcd_client::Client::connect([etcd.authority()], Some(options)).await.unwrap();
    let config = format!("etcd://{}/p?ttl=60s&user=tso&password=s", etcd.authority());
    let driver = open(&config, "").await.unwrap();
    for round in 0..3 {
        take(&driver, "orders", 1).await.unwrap();
        let base = version(&driver).await.unwrap();
        let options = RoleRevokePermissionOptions::new().with_prefix();
        root.role_revoke_permission("tso", "p/", Some(options)).await.unwrap();
        let error = driver.commit(base, effect(after(base))).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "round {round}: {error}");
        let whole = format!("{error:#}");
        assert!(whole.contains("permission denied"), "round {round}: {whole}");
        root.role_grant_permission("tso", below()).await.unwrap();
        // What was refused was not made, and the same process goes on.
        assert_eq!(version(&driver).await.unwrap(), base, "round {round}");
        assert_eq!(take(&driver, "orders", 1).await.unwrap().0, round * 2 + 1);
    }
}

async fn whole(driver: &Driver) -> Result<Version> {
    let whole = KeyRange { from: vec![], to: vec![0xff], limit: usize::MAX };
    Ok(driver.read(&Reads { keys: vec![], ranges: vec![whole] }).await?.version)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_disturbs_neither_reads_nor_commits() {
    let etcd = Etcd::single(&[]).await;
    let driver = open(&format!("etcd://{}/p?ttl=60s", etcd.authority()), "").await.unwrap();
    let mut client = etcd.client().await;
    let compacting = tokio::spawn(async move {
        loop {
            let now = client.get("any", None).await.unwrap().header().unwrap().revision();
            // One that was compacted already is an error, and of no interest.
            drop(client.compact(now, None).await);
            tokio::task::yield_now().await;
        }
    });
    for number in 0..50 {
        assert_eq!(take(&driver, "orders", 1).await.unwrap().0, number);
        assert_eq!(whole(&driver).await.unwrap(), version(&driver).await.unwrap());
    }
    compacting.abort();
}

/// What a member that was left behind answers is never older than what was stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_gives_no_old_state() {
    let etcd = Etcd::start(3, &[]).await;
    let others = format!("127.0.0.1:{},127.0.0.1:{}", etcd.members[1].port, etcd.members[2].port);
    let driver = open(&format!("etcd://{others}/p?ttl=60s"), "").await.unwrap();
    let behind = format!("etcd://127.0.0.1:{}/p?ttl=60s", etcd.members[0].port);
    let behind = open(&behind, "").await.unwrap();
    let mut expected = 0;
    for _ in 0..3 {
        etcd.members[0].signal("STOP");
        let mut last = Version::EMPTY;
        for _ in 0..20 {
            let (number, made) = until(async || take(&driver, "orders", 1).await.ok()).await;
            assert_eq!(number, expected);
            (expected, last) = (expected + 1, made);
        }
        etcd.members[0].signal("CONT");
        let found = until(async || version(&behind).await.ok()).await;
        assert!(found.position() >= last.position(), "{found:?} after {last:?}");
    }
}
