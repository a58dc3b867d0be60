//! States of earlier builds: made by them, under load of a few requests, and killed. They are opened as they are,
//! and go on where they were.

use std::{fs, path::Path};

use tsoracle_core::{
    Epoch, LeaseHolder, RequestId, RequestName, SeqKey, SeqRequest, Session, Timestamp,
};

use crate::{
    actor::{block_on, oracle},
    for_each_driver,
};

/// What the release before versions issued last, and the bound of its stamping lease, in milliseconds.
const ISSUED: [(&str, u64, u64); 2] = [
    ("file", 470_803_325_271_932_928, 1_795_972_457_771),
    ("rocksdb", 470_803_325_955_080_192, 1_795_972_460_345),
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A copy of the state that the earlier release has left.
fn state_of_before(driver: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/local/fixtures");
    copy(&fixtures.join(driver), directory.path());
    directory
}

fn a_state_of_before_goes_on_where_it_was(driver: &str) {
    let (_, issued, bound_ms) = ISSUED.into_iter().find(|(name, ..)| *name == driver).unwrap();
    let directory = state_of_before(driver);
    let config = format!("{driver}:{}", directory.path().display());
    block_on(async {
        // Twice, since the second time it holds a version.
        for round in 0..2 {
            let oracle = oracle(&config).await.unwrap();
            let granted = oracle.get_ts(1).await.unwrap();
            assert!(granted.range.first() > Timestamp::from_u64(issued));
            assert!(granted.range.first().physical_ms() > bound_ms, "above every stamping lease");
            assert_eq!(granted.epoch, Epoch(2 + round), "above its own epoch");
            let paid = RequestId::new(Session::from_text("payment-4711"), 1, 1).unwrap();
            let invoices = vec![(SeqKey::new("invoices").unwrap(), 1)];
            let again = SeqRequest::new(invoices, Some(paid)).unwrap();
            assert_eq!(oracle.get_seq(again).await.unwrap().blocks[0].start, 0);
            for (key, next) in [("orders", 64), ("vouchers", 1_000), ("invoices", 1)] {
                let key = SeqKey::new(key).unwrap();
                let next = next + round as u64;
                assert_eq!(oracle.read_seq(key.clone()).await.unwrap(), Some(next));
                let block = oracle.get_seq(SeqRequest::single(key, 1).unwrap()).await.unwrap();
                assert_eq!(block.blocks[0].start, next);
            }
            let holder = LeaseHolder::new("writer-1").unwrap();
            let lease = oracle.acquire_lease(holder, 1, std::time::Duration::from_secs(300));
            assert_eq!(lease.await.unwrap().bound_ms, bound_ms, "the live lease, unchanged");
            oracle.shutdown().await.unwrap();
        }
    });
}

for_each_driver!(a_state_of_before_goes_on_where_it_was);

/// With names, under version 4 of the rules.
#[cfg(feature = "file")]
#[test]
fn a_state_with_names_goes_on_where_it_was() {
    let directory = state_of_before("file-names");
    let config = format!("file:{}", directory.path().display());
    let key = |key: &str| SeqKey::new(key).unwrap();
    let named = |name: &str, entry: &str, count| {
        SeqRequest::named(vec![(key(entry), count)], RequestName::new(name).unwrap()).unwrap()
    };
    block_on(async {
        for round in 0..2 {
            let oracle = oracle(&config).await.unwrap();
            let granted = oracle.get_ts(1).await.unwrap();
            assert!(granted.range.first() > Timestamp::from_u64(470_818_938_385_596_416));
            assert_eq!(granted.epoch, Epoch(2 + round));
            for (request, start) in [
                (named("payment-4711", "invoices", 1), 0),
                (named("payment-4712", "invoices", 3), 1),
                // Of a sequence that was deleted since.
                (named("tested", "tests", 1), 1),
            ] {
                assert_eq!(oracle.get_seq(request).await.unwrap().blocks[0].start, start);
            }
            let another = oracle.get_seq(named("payment-4711", "invoices", 2)).await;
            assert!(another.unwrap_err().to_string().contains("used for another request"));
            for (name, next) in [
                ("orders", Some(65)),
                ("vouchers", Some(1_000)),
                ("invoices", Some(4)),
                ("tests", None),
            ] {
                assert_eq!(oracle.read_seq(key(name)).await.unwrap(), next, "{name}");
            }
            oracle.shutdown().await.unwrap();
        }
    });
}
