//! What the contract says of commits and reads, on a real etcd.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{
    Etcd,
    node::{Driver, after, effect, open, version},
};
use tsoracle_core::{
    Effect, ErrorKind, KeyRange, MAX_BATCH, MAX_KEY_BYTES, Outcome, Reads, Version,
};

/// Long enough for an etcd that has a busy machine under it.
const PATIENT: &str = "ttl=60s&timeout=10s";

async fn stored(driver: &Driver, base: Version, effect: Effect) -> Version {
    let made = effect.version().unwrap();
    assert_eq!(driver.commit(base, effect).await.unwrap(), Outcome::Stored);
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_on_a_stale_base_is_not_stored() {
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{PATIENT}", etcd.authority());
    let drivers = [open(&config, "").await.unwrap(), open(&config, "").await.unwrap()];
    // Whichever has the election key: the version alone decides.
    let mut base = Version::EMPTY;
    for round in 0..6_u8 {
        let (winner, loser) =
            (&drivers[usize::from(round % 2)], &drivers[usize::from(1 - round % 2)]);
        let made = after(base);
        let mut writes = effect(made);
        writes.put("round", [round]);
        writes.delete("stale");
        stored(winner, base, writes.clone()).await;
        let mut stale = effect(after(base));
        stale.put("stale", [round]);
        stale.delete("round");
        let outcome = loser.commit(base, stale).await.unwrap();
        assert_eq!(outcome, Outcome::Conflict { found: made });
        // A copy of what was stored, as of a request that was sent twice.
        for driver in &drivers {
            assert_eq!(driver.commit(base, writes.clone()).await.unwrap(), Outcome::Stored);
            let state = driver.read(&Reads::keys(["round", "stale"])).await.unwrap();
            assert_eq!(state.version, made);
            assert_eq!(state.values, [Some(vec![round]), None]);
        }
        base = made;
    }
    // A base that is still to come is no conflict, and nothing is stored.
    let ahead = Version { number: base.number + 3, ..after(base) };
    let error = drivers[0].commit(ahead, effect(after(ahead))).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    assert_eq!(version(&drivers[1]).await.unwrap(), base);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_commits_on_one_base_one_is_stored() {
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{PATIENT}", etcd.authority());
    let drivers = [open(&config, "").await.unwrap(), open(&config, "").await.unwrap()];
    let mut base = Version::EMPTY;
    for _ in 0..5 {
        let committing: Vec<_> = (0..16)
            .map(|index| {
                let (driver, made) = (drivers[index % 2].clone(), after(base));
                tokio::spawn(async move { (made, driver.commit(base, effect(made)).await) })
            })
            .collect();
        let mut outcomes = vec![];
        for committing in committing {
            let (made, outcome) = committing.await.unwrap();
            outcomes.push((made, outcome.unwrap()));
        }
        let now = version(&drivers[0]).await.unwrap();
        for (made, outcome) in outcomes {
            let expected = match made == now {
                true => Outcome::Stored,
                false => Outcome::Conflict { found: now },
            };
            assert_eq!(outcome, expected);
        }
        assert_eq!(now.number, base.number + 1);
        base = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_commits_are_stored_and_read() {
    let etcd = Etcd::single(&[]).await;
    let prefix = "p".repeat(64);
    let config = format!("etcd://{}/{prefix}?{PATIENT}", etcd.authority());
    let driver = open(&config, "").await.unwrap();
    let limits = driver.limits();
    // A batch of the longest keys, which clears a whole session of answers.
    assert!(limits.writes >= 2 * (MAX_BATCH + 257), "{limits:?}");
    let key = |index: usize| format!("q{index:0>MAX_KEY_BYTES$}");
    let mut base = Version::EMPTY;
    // As many writes as are allowed, fewer and larger ones, and a single one; each takes all bytes.
    for writes in [limits.writes, 512, 65, 2] {
        let made = after(base);
        let mut filled = effect(made);
        let rest = limits.bytes - filled.size();
        let value = rest / (writes - 1) - Effect::size_of(key(0).as_bytes(), None);
        for index in 1..writes {
            filled.put(key(index), vec![index as u8; value]);
        }
        let unused = limits.bytes - filled.size();
        filled.put(key(1), vec![1; value + unused]);
        assert_eq!((filled.len(), filled.size()), (writes, limits.bytes));
        stored(&driver, base, filled.clone()).await;
        let keys = filled.iter().map(|(key, _)| key);
        let state = driver.read(&Reads::keys(keys)).await.unwrap();
        assert_eq!(state.version, made);
        for ((key, value), found) in filled.iter().zip(&state.values) {
            assert!(found.as_deref() == value, "{} differs", key.escape_ascii());
        }
        // All of it is cleared again in one commit.
        base = after(made);
        let mut cleared = effect(base);
        for (key, _) in filled.iter().filter(|(key, _)| key[0] == b'q') {
            cleared.delete(key);
        }
        assert_eq!(cleared.len(), writes);
        stored(&driver, made, cleared).await;
        let whole = KeyRange { from: b"q".to_vec(), to: b"r".to_vec(), limit: usize::MAX };
        let state = driver.read(&Reads { keys: vec![], ranges: vec![whole] }).await.unwrap();
        assert_eq!((state.version, state.ranges), (base, vec![vec![]]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_read_is_of_one_version() {
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{PATIENT}", etcd.authority());
    let drivers = [open(&config, "").await.unwrap(), open(&config, "").await.unwrap()];
    // So many that they are read in several transactions.
    let names: Vec<_> = (0..300_u16).map(|index| format!("k{index:03}")).collect();
    let writer = drivers[0].clone();
    let keys = names.clone();
    let writing = tokio::spawn(async move {
        let mut base = Version::EMPTY;
        for _ in 0..60 {
            let made = after(base);
            let mut writes = effect(made);
            for key in &keys {
                writes.put(key.as_str(), made.number.to_be_bytes());
            }
            base = stored(&writer, base, writes).await;
        }
        base
    });
    let range = |from: &str, to: &str, limit| KeyRange { from: from.into(), to: to.into(), limit };
    let ranges = vec![
        range("k", "l", 300),
        range("k100", "k200", 7),
        range("k299", "l", 9),
        range("z", "k", 9),
        range("k", "l", 0),
        range("a", "b", 9),
    ];
    let reads = Reads { keys: names.iter().map(|name| name.clone().into()).collect(), ranges };
    let mut newest = Version::EMPTY;
    while !writing.is_finished() {
        let state = drivers[1].read(&reads).await.unwrap();
        assert!(state.version.position() >= newest.position());
        newest = state.version;
        if newest == Version::EMPTY {
            continue;
        }
        let value = newest.number.to_be_bytes().to_vec();
        assert!(state.values.iter().all(|found| found.as_ref() == Some(&value)));
        let counts: Vec<_> = state.ranges.iter().map(Vec::len).collect();
        assert_eq!(counts, [300, 7, 1, 0, 0, 0]);
        for (entry, name) in state.ranges[0].iter().zip(&names) {
            assert_eq!(*entry, (name.clone().into_bytes(), value.clone()));
        }
        assert_eq!(state.ranges[1][0].0, b"k100");
    }
    let last = writing.await.unwrap();
    assert_eq!(version(&drivers[1]).await.unwrap(), last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_driver_stores_and_reads_nothing() {
    let etcd = Etcd::single(&[]).await;
    let config = format!("etcd://{}/p?{PATIENT}", etcd.authority());
    let driver = open(&config, "").await.unwrap();
    let base = stored(&driver, Version::EMPTY, effect(after(Version::EMPTY))).await;
    let made = after(base);
    let committing = tokio::spawn({
        let driver = driver.clone();
        async move { driver.commit(base, effect(made)).await }
    });
    let stopping = [driver.clone(), driver.clone()]
        .map(|driver| tokio::spawn(async move { driver.shutdown().await }));
    for stopping in stopping {
        stopping.await.unwrap().unwrap();
    }
    // It was stored before the driver stopped, or never is.
    let outcome = committing.await.unwrap();
    let error = driver.commit(made, effect(after(made))).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    let error = version(&driver).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    let expected = if outcome.is_ok() { made } else { base };
    assert_eq!(version(&open(&config, "").await.unwrap()).await.unwrap(), expected);
}
