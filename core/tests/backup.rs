//! Backups as files, and states that are restored from them.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::Shared;
use tsoracle_core::{
    Assembly, BackupHeader, BackupReader, BackupWriter, Clock as _, ConsensusDriver, Contents,
    Entry, ErrorKind, LeaseHolder, LocalDriver, Migration, Oracle, OracleOptions, Phase, Reject,
    RequestName, RestoreTerms, Restored, Result, SeqKey, SeqRequest, SeqStore as _, SystemClock,
    Version, restore,
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn driver(store: &Shared) -> Arc<dyn ConsensusDriver> {
    LocalDriver::open(store.clone()).await.unwrap()
}

async fn serve(store: &Shared) -> Oracle {
    let options = OracleOptions { lease: Duration::from_millis(500), ..OracleOptions::default() };
    let oracle = Oracle::start(driver(store).await, options).unwrap();
    let mut phase = oracle.phase();
    let serving = phase.wait_for(|phase| matches!(phase, Phase::Serving { .. }));
    tokio::time::timeout(PATIENCE, serving).await.expect("it serves").unwrap();
    oracle
}

fn key(name: &str) -> SeqKey {
    SeqKey::new(name).unwrap()
}

async fn seq(oracle: &Oracle, name: &str, count: u32) -> Result<u64> {
    let request = SeqRequest::single(key(name), count).unwrap();
    Ok(oracle.get_seq(request).await?.blocks[0].start)
}

fn is_closed<T: std::fmt::Debug>(answered: Result<T>) -> bool {
    let kind = answered.unwrap_err().kind().clone();
    matches!(kind, ErrorKind::Rejected(Reject::SequenceClosed { .. }))
}

const HEADER: fn(Version, u32) -> BackupHeader = |version, rules| BackupHeader {
    product: "tsoracle 0".into(),
    source: "here".into(),
    node: None,
    version,
    epoch: tsoracle_core::Epoch(7),
    rules,
    taken_ms: 1_800_000_000_000,
};

/// A backup of what an oracle holds.
async fn backup(oracle: &Oracle) -> Vec<u8> {
    let mut copy = oracle.copy_state().await.unwrap();
    let mut assembly = Assembly::new(tempfile::tempfile).unwrap();
    while let Some(part) = copy.next().await.unwrap() {
        assembly.add(part).unwrap();
    }
    let mut assembled = assembly.finish().unwrap();
    let header = HEADER(assembled.version, assembled.rules);
    let mut writer = BackupWriter::new(vec![], &header).unwrap();
    while let Some(entry) = assembled.next_entry().unwrap() {
        writer.put(&entry).unwrap();
    }
    writer.finish().unwrap().0
}

fn read<R: Read>(input: R) -> Result<(Vec<Entry>, Contents)> {
    let mut reader = BackupReader::new(input)?;
    let mut all = vec![];
    while let Some(entries) = reader.next_entries()? {
        all.extend(entries);
    }
    Ok((all, reader.contents().cloned().unwrap()))
}

/// An oracle with some of everything, and a backup of it.
async fn used() -> (Oracle, Vec<u8>) {
    let oracle = serve(&Shared::default()).await;
    for name in ["a", "b", "c"] {
        assert_eq!(seq(&oracle, name, 10).await.unwrap(), 0);
    }
    let named = SeqRequest::named(vec![(key("a"), 5)], RequestName::new("x").unwrap()).unwrap();
    assert_eq!(oracle.get_seq(named).await.unwrap().blocks[0].start, 10);
    let holder = LeaseHolder::new(*b"writer").unwrap();
    oracle.acquire_lease(holder, 1, Duration::from_secs(60)).await.unwrap();
    let bytes = backup(&oracle).await;
    (oracle, bytes)
}

fn terms(floors: &[(&str, u64)], accept_sequence_loss: bool) -> RestoreTerms {
    RestoreTerms {
        high_water_ms: SystemClock.now().wall_ms + 60_000,
        lease: Duration::from_millis(500),
        accept_sequence_loss,
        floors: floors.iter().map(|(name, floor)| (key(name), *floor)).collect(),
    }
}

async fn restored(bytes: &[u8], store: &Shared, terms: &RestoreTerms) -> Result<Restored> {
    let target = driver(store).await;
    let open = || BackupReader::new(bytes);
    let restored = restore(open, &target, &SystemClock, terms, |_| ()).await;
    target.shutdown().await.unwrap();
    restored
}

#[tokio::test]
async fn a_restored_state_goes_on_above_all_of_before() {
    let (oracle, bytes) = used().await;
    let last = oracle.get_ts(1).await.unwrap();
    let (store, terms) = (Shared::default(), terms(&[], false));
    let done = restored(&bytes, &store, &terms).await.unwrap();
    assert!(done.closed);
    let counts = (done.counts.sequences, done.counts.named_requests, done.counts.leases);
    assert_eq!(counts, (3, 1, 1));
    let again = serve(&store).await;
    let first = again.get_ts(1).await.unwrap();
    assert!(first.range.first() > last.range.last() && first.epoch > last.epoch);
    assert!(first.range.first().physical_ms() > terms.high_water_ms);
    // What was answered before is answered as before.
    let named = SeqRequest::named(vec![(key("a"), 5)], RequestName::new("x").unwrap()).unwrap();
    assert_eq!(again.get_seq(named).await.unwrap().blocks[0].start, 10);
    assert_eq!(again.read_seq(key("a")).await.unwrap(), Some(15));
    for name in ["a", "c", "never used"] {
        assert!(is_closed(seq(&again, name, 1).await), "{name}");
    }
    assert!(is_closed(again.seed_seq(key("never seeded"), 9).await));
    let both = [("a", 1), ("b", 1)].map(|(name, count)| (key(name), count));
    assert!(is_closed(again.get_seq(SeqRequest::new(both.into(), None).unwrap()).await));
    // Floors open, and raise.
    let floors = vec![(key("a"), 100), (key("b"), 3), (key("new"), 7)];
    for _ in 0..2 {
        let opened = again.open_seqs(floors.clone(), false).await.unwrap();
        assert_eq!(opened, (vec![100, 10, 7], true));
    }
    for (name, next) in [("a", 100), ("b", 10), ("new", 7)] {
        assert_eq!(seq(&again, name, 1).await.unwrap(), next, "{name}");
    }
    assert!(is_closed(seq(&again, "c", 1).await));
    // What is open is not raised by a floor that comes late, nor lowered.
    assert_eq!(again.open_seqs(vec![(key("a"), 50)], false).await.unwrap(), (vec![101], true));
    for _ in 0..2 {
        assert_eq!(again.open_seqs(vec![], true).await.unwrap(), (vec![], false));
    }
    assert_eq!(seq(&again, "c", 1).await.unwrap(), 10);
    assert_eq!(seq(&again, "never used", 1).await.unwrap(), 0);
    let late = again.open_seqs(vec![(key("c"), 1_000)], false).await.unwrap_err();
    assert_eq!(*late.kind(), ErrorKind::Rejected(Reject::NotRestored));
    assert_eq!(again.open_seqs(vec![(key("c"), 11)], false).await.unwrap(), (vec![11], false));
}

#[tokio::test]
async fn floors_and_accepted_losses_count_from_the_restore_on() {
    let (_, bytes) = used().await;
    let floors = [("0", 3), ("a", 100), ("b", 1), ("zz", 8)];
    for accepted in [false, true] {
        let store = Shared::default();
        let done = restored(&bytes, &store, &terms(&floors, accepted)).await.unwrap();
        assert_eq!((done.closed, done.counts.sequences), (!accepted, 5));
        let oracle = serve(&store).await;
        for (name, next) in [("0", 3), ("a", 100), ("b", 10), ("zz", 8)] {
            assert_eq!(seq(&oracle, name, 1).await.unwrap(), next, "{name}");
        }
        match accepted {
            true => assert_eq!(seq(&oracle, "c", 1).await.unwrap(), 10),
            false => assert!(is_closed(seq(&oracle, "c", 1).await)),
        }
        // Its own backup is whole, which compares counts; restored, what was opened before is closed again.
        let again = backup(&oracle).await;
        assert_eq!(read(&*again).unwrap().1.closed, !accepted);
        let store = Shared::default();
        restored(&again, &store, &terms(&[("c", 70)], false)).await.unwrap();
        let oracle = serve(&store).await;
        assert!(is_closed(seq(&oracle, "a", 1).await));
        assert_eq!(seq(&oracle, "c", 1).await.unwrap(), 70);
    }
}

#[tokio::test]
async fn a_state_in_use_is_left_as_it_is() {
    let (oracle, bytes) = used().await;
    oracle.shutdown().await.unwrap();
    let store = Shared::default();
    serve(&store).await.shutdown().await.unwrap();
    let before = store.0.lock().unwrap().clone();
    let error = restored(&bytes, &store, &terms(&[], true)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("holds state already"), "{error}");
    assert_eq!(*store.0.lock().unwrap(), before);
}

/// Fails after so many bytes, the second time it is opened.
struct Broken<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left);
        if most == 0 {
            return Err(io::Error::other("unplugged"));
        }
        let count = self.bytes.read(&mut buffer[..most])?;
        self.left -= count;
        Ok(count)
    }
}

#[tokio::test]
async fn a_restore_that_was_interrupted_is_never_served() {
    let (_, bytes) = used().await;
    let store = Shared::default();
    let target = driver(&store).await;
    let opened = Mutex::new(0);
    let open = || {
        let mut opened = opened.lock().unwrap();
        *opened += 1;
        let left = if *opened == 1 { usize::MAX } else { bytes.len() - 10 };
        BackupReader::new(Broken { bytes: &bytes, left })
    };
    let error = restore(open, &target, &SystemClock, &terms(&[], true), |_| ()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
    target.shutdown().await.unwrap();
    let oracle = Oracle::start(driver(&store).await, OracleOptions::default()).unwrap();
    let mut phase = oracle.phase();
    let troubled = phase.wait_for(|phase| match phase {
        Phase::TakingOver { trouble, .. } => trouble.is_some(),
        Phase::Serving { .. } => panic!("it serves what is not whole"),
        _ => false,
    });
    tokio::time::timeout(PATIENCE, troubled).await.expect("it says why").unwrap();
}

#[tokio::test]
async fn whatever_is_cut_off_or_altered_is_noticed() {
    let (_, bytes) = used().await;
    let (entries, contents) = read(&*bytes).unwrap();
    assert_eq!((entries.len() as u64, contents.counts.sequences), (contents.counts.entries, 3));
    for length in 0..bytes.len() {
        let error = read(&bytes[..length]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{length}: {error}");
        assert!(error.to_string().contains("cut short"), "{length}: {error}");
    }
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1 << (at % 8);
        let error = read(&*altered).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Config), "{at}: {error}");
        // Nothing of it gets anywhere.
        let store = Shared::default();
        let restored = restored(&altered, &store, &terms(&[], true)).await;
        assert!(restored.is_err(), "{at}");
        assert_eq!(store.get(b"r").unwrap(), None, "{at}: it was not begun");
    }
    let error = read(&*[&bytes[..], b"x"].concat()).unwrap_err();
    assert!(error.to_string().contains("follows its end"), "{error}");
    let error = read(&b"something else, and long enough"[..]).unwrap_err();
    assert!(error.to_string().contains("no backup"), "{error}");
}

/// Somebody who knows the format changes an entry, and its part's checksum with it.
#[tokio::test]
async fn a_part_that_was_altered_with_its_checksum_is_noticed() {
    let (_, mut bytes) = used().await;
    let header_length = u32::from_be_bytes(bytes[21..25].try_into().unwrap()) as usize;
    let part = 25 + header_length + 4;
    let length = u32::from_be_bytes(bytes[part + 1..part + 5].try_into().unwrap()) as usize;
    let end = part + 5 + length;
    // The next value of the first sequence, which stands behind its key.
    let at = part + bytes[part..end].windows(2).position(|key| key == b"sa").unwrap() + 2 + 5;
    bytes[at] += 1;
    let sum = crc32c::crc32c(&bytes[part..end]).to_be_bytes();
    bytes[end..end + 4].copy_from_slice(&sum);
    let error = read(&*bytes).unwrap_err();
    assert!(error.to_string().contains("altered after it was made"), "{error}");
}

#[tokio::test]
async fn backups_of_newer_releases_are_refused_as_such() {
    let (_, mut bytes) = used().await;
    bytes[19] += 1;
    let error = read(&*bytes).unwrap_err();
    assert!(error.to_string().contains("newer release"), "{error}");
    // One of the same format, of a state under rules that are not known, with entries of unknown kinds.
    let version = Version { era: 0, number: 9, name: 3 };
    let mut writer = BackupWriter::new(vec![], &HEADER(version, 1_000)).unwrap();
    writer.put(&(b"m".to_vec(), b"\x09?".to_vec())).unwrap();
    writer.put(&(b"~".to_vec(), b"?".to_vec())).unwrap();
    let (bytes, _) = writer.finish().unwrap();
    read(&*bytes).expect("its checksums are right");
    assert!(BackupReader::new(&*bytes).unwrap().header().is_newer());
    let store = Shared::default();
    let error = restored(&bytes, &store, &terms(&[], true)).await.unwrap_err();
    assert!(error.to_string().contains("newer release"), "{error}");
    assert_eq!(store.get(b"r").unwrap(), None);
}

#[tokio::test]
async fn a_backup_whose_counts_are_wrong_is_damaged() {
    let (_, bytes) = used().await;
    let (entries, _) = read(&*bytes).unwrap();
    let version = Version { era: 0, number: 9, name: 3 };
    let rewritten = |leave_out: &dyn Fn(&[u8]) -> bool| {
        let mut writer = BackupWriter::new(vec![], &HEADER(version, 4)).unwrap();
        for entry in entries.iter().filter(|(key, _)| !leave_out(key)) {
            writer.put(entry).unwrap();
        }
        writer.finish().map(|_| ())
    };
    rewritten(&|_| false).unwrap();
    for (what, key) in [
        ("sequences", &b"sa"[..]),
        ("named requests", b"q"),
        ("stamping leases", b"l"),
        ("who reigned", b"r"),
    ] {
        let error = rewritten(&|found| found.starts_with(key)).expect_err(what);
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    let mut writer = BackupWriter::new(vec![], &HEADER(version, 4)).unwrap();
    writer.put(&entries[1]).unwrap();
    assert_eq!(*writer.put(&entries[0]).unwrap_err().kind(), ErrorKind::Corrupt, "out of order");
}

/// Sequences are as closed elsewhere.
#[tokio::test]
async fn a_state_that_was_restored_is_migrated_as_it_is() {
    let (_, bytes) = used().await;
    let (store, target) = (Shared::default(), Shared::default());
    restored(&bytes, &store, &terms(&[("a", 100)], false)).await.unwrap();
    let (source, into) = (driver(&store).await, driver(&target).await);
    let migration = Migration::of(source, Arc::new(SystemClock)).await.unwrap();
    migration.begin(&into).await.unwrap();
    migration.copy(&into, |_| ()).await.unwrap();
    into.shutdown().await.unwrap();
    let oracle = serve(&target).await;
    assert_eq!(seq(&oracle, "a", 1).await.unwrap(), 100);
    assert!(is_closed(seq(&oracle, "b", 1).await));
}

/// An older release would grant from closed sequences, so that the state says that it must not lead.
#[tokio::test]
async fn rules_rise_only_where_sequences_are_closed() {
    let (_, bytes) = used().await;
    let floors = BTreeMap::new();
    for (accepted, rules) in [(true, 4), (false, 6)] {
        let store = Shared::default();
        let terms = RestoreTerms { floors: floors.clone(), ..terms(&[], accepted) };
        restored(&bytes, &store, &terms).await.unwrap();
        let meta = store.get(b"m").unwrap().unwrap();
        assert_eq!(meta[..2], [1, rules], "as it is stored");
    }
}
