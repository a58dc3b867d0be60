use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tsoracle_core::{
    BackupHeader, BackupWriter, ConsensusDriver as _, Effect, Entry, Epoch, KeyRange, LeaseHolder,
    LocalDriver, ManualClock, MemoryStore, NodeId, Oracle, OracleOptions, Random, Reads, RequestId,
    RequestName, Result, SeqKey, SeqRequest, SeqStore as _, Session, Version, new_node,
};
use tsoracle_proto::v1;
use tsoracle_replica::{LogEntry, message_parts};

/// What files in the corpora are called that hold what this release encodes.
pub const RELEASED: &str =
    concat!("real-", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"), "-");

/// Real encodings for each target, by its name: all can be read, and are the same each time.
///
/// # Errors
/// None, unless something is broken.
pub async fn seeds() -> Result<Vec<(&'static str, Vec<Vec<u8>>)>> {
    let version = Version { era: 1, number: 7, name: u128::MAX / 7 };
    let state = state().await?;
    Ok(vec![
        ("address", texts(&["node-1:7000", "https://[::1]:50551/", "http://example.org", "[::1]"])),
        ("backup", vec![backup(&state)?]),
        ("config_string", texts(&CONFIG_STRINGS)),
        ("config_table", texts(&CONFIG_TABLES)),
        ("effect", vec![Effect::default().encode()?, effect(version, &state)?.encode()?]),
        ("frame", tsoracle_replica::fuzz::frames()?),
        ("history_lines", texts(&HISTORIES)),
        ("identity", tsoracle_replica::fuzz::identities()?),
        ("log_entry", vec![log_entry(version, &state)?, log_entry(version, &state[..2])?]),
        ("message_parts", vec![parts(b"a message")?, parts(b"")?]),
        ("metadata", hints()),
        ("omnipaxos_message", tsoracle_omnipaxos::fuzz::messages()?),
        ("openraft_message", tsoracle_openraft::fuzz::messages()?),
        ("openraft_stored", tsoracle_openraft::fuzz::values()?),
        ("record", state.iter().map(record).collect()),
        ("request", requests()),
        ("snapshot", tsoracle_replica::fuzz::snapshots()?),
        ("store", tsoracle_store::fuzz::stores()),
        ("transfer", vec![[&7_u64.to_be_bytes()[..], &1_u64.to_be_bytes(), b"chunk"].concat()]),
        ("version", vec![version.encode().into(), Version::EMPTY.encode().into()]),
    ])
}

const CONFIG_STRINGS: [&str; 4] = [
    "file:./data?journal_mb=8",
    "openraft:./n1?node=1&peers=1=h1:1/h1:2,2=h2:1/h2:2,3=[::1]:1/[::1]:2&insecure_peers=true",
    "omnipaxos:a%20b?node=2&peers=2=localhost:1/localhost:2&heartbeat=10s&election=1m&join=true",
    "file",
];

const CONFIG_TABLES: [&str; 2] = [
    "driver = \"file\"\npath = \"./data\"\njournal_mb = 8\n",
    "driver = \"openraft\"\nnode = 1\npeers = \"1=localhost:1/localhost:2\"\nelection = \"2s\"\njoin = true",
];

const HISTORIES: [&str; 2] = [
    concat!(
        r#"{"caller":"a","start_ns":10,"end_ns":20,"get_ts":{"count":2,"answered":{"physical_ms":5,"#,
        r#""logical":0,"count":2,"epoch":[0,1]}}}"#,
        "\n\n",
        r#"{"caller":"a","start_ns":60,"end_ns":70,"read_seq":{"key":"k","answered":{"next":4}}}"#,
    ),
    concat!(
        r#"{"caller":"b","start_ns":12,"end_ns":31,"get_seq":{"ask":[{"key":"k","count":3}],"#,
        r#""answered":{"blocks":[{"key":"k","start":0,"count":3}],"epoch":[0,1]}}}"#,
        "\n",
        r#"{"caller":"b","start_ns":40,"end_ns":55,"get_seq":{"ask":[{"key":"k","count":1}],"#,
        r#""request_id":"7/2","uncertain":"UNAVAILABLE"}}"#,
        "\n",
        r#"{"caller":"c","start_ns":57,"end_ns":58,"get_ts":{"count":1,"refused":"INTERNAL"}}"#,
    ),
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A time in 2027.
const NOON_MS: u64 = 1_800_000_000_000;

/// All entries of a state in which everything was used, the same ones each time.
async fn state() -> Result<Vec<Entry>> {
    let mut store = MemoryStore::default();
    let node = new_node()?.into_iter().map(|(key, _)| (key, Some(vec![7; 16])));
    let mut first: Effect = node.collect();
    first.set_version(Version::EMPTY.next(7)?);
    store.commit(first)?;
    let driver = LocalDriver::open(store).await?;
    let drawn = AtomicU64::new(1);
    let options = OracleOptions {
        clock: Arc::new(ManualClock::new(NOON_MS)),
        random: Random::new(move || u128::from(drawn.fetch_add(1, Ordering::Relaxed)) << 64 | 7),
        ..OracleOptions::default()
    };
    let oracle = Oracle::start(Arc::clone(&driver) as _, options)?;
    oracle.get_ts(3).await?;
    let session = Session([7; 16]);
    for number in 1..4 {
        let entries = vec![(SeqKey::new("orders")?, 64), (SeqKey::new("invoices")?, 1)];
        let id = RequestId::new(session, number, 1)?;
        oracle.get_seq(SeqRequest::new(entries, Some(id))?).await?;
    }
    let named = vec![(SeqKey::new("orders")?, 64), (SeqKey::new("invoices")?, 1)];
    oracle.get_seq(SeqRequest::named(named, RequestName::new("order-17")?)?).await?;
    oracle.seed_seq(SeqKey::new("vouchers")?, 1_000).await?;
    oracle.acquire_lease(LeaseHolder::new("writer")?, 1, Duration::from_secs(30)).await?;
    let all = KeyRange { from: vec![], to: vec![u8::MAX], limit: usize::MAX };
    let mut read = driver.read(&Reads { keys: vec![], ranges: vec![all] }).await?;
    oracle.shutdown().await?;
    Ok(read.ranges.pop().unwrap_or_default())
}

fn backup(state: &[Entry]) -> Result<Vec<u8>> {
    let header = BackupHeader {
        product: "tsoracle 0".into(),
        source: "127.0.0.1:50551".into(),
        node: Some(NodeId(7)),
        version: Version { era: 1, number: 7, name: u128::MAX / 7 },
        epoch: Epoch(9),
        rules: 4,
        taken_ms: NOON_MS,
    };
    let mut writer = BackupWriter::new(vec![], &header)?;
    // The version and the node are left out.
    let kept = state.iter().filter(|(key, _)| !matches!(key.first(), Some(b'v' | b'n' | b'c')));
    for entry in kept {
        writer.put(entry)?;
    }
    Ok(writer.finish()?.0)
}

fn record((key, value): &Entry) -> Vec<u8> {
    [&[key.len() as u8][..], key, value].concat()
}

fn effect(base: Version, state: &[Entry]) -> Result<Effect> {
    let mut effect: Effect =
        state.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    effect.delete("sgone");
    effect.set_version(base.next(u128::MAX / 3)?);
    Ok(effect)
}

fn log_entry(base: Version, state: &[Entry]) -> Result<Vec<u8>> {
    LogEntry::new(base, effect(base, state)?)?.encode()
}

fn parts(message: &[u8]) -> Result<Vec<u8>> {
    let session = message_parts::Session { start: 7, number: 1 };
    let mut all = vec![];
    for part in message_parts::split(message, session, 1)? {
        all.extend_from_slice(&(part.len() as u16).to_le_bytes());
        all.extend_from_slice(&part);
    }
    Ok(all)
}

fn epoch() -> Option<v1::EpochWire> {
    Some(v1::EpochWire { hi: 1, lo: 9 })
}

/// As they travel: binary metadata is base64.
fn hints() -> Vec<Vec<u8>> {
    let hint =
        v1::LeaderHint { leader_endpoint: Some("node-2:7000".into()), leader_epoch: epoch() };
    let value = tonic::metadata::BinaryMetadataValue::from_bytes(&hint.encode_to_vec());
    vec![value.as_encoded_bytes().to_vec()]
}

fn requests() -> Vec<Vec<u8>> {
    let request_id = Some(v1::RequestId {
        session: vec![7; 16].into(),
        number: 300,
        first_incomplete: 299,
        retry: true,
        ..Default::default()
    });
    let single =
        v1::GetSeqRequest { key: "orders".into(), count: 64, request_id: request_id.clone() };
    let entries = vec![v1::SeqRequestEntry { key: "orders".into(), count: 64 }];
    let run = v1::SeqRun {
        session: vec![7; 16].into(),
        first_number: 300,
        first_incomplete: 299,
        keys: b"ordersinvoices".to_vec().into(),
        key_bytes: vec![6, 8],
        counts: vec![64, 1],
    };
    let failure = v1::SeqFailure { code: 9, message: "no leader".into(), ..Default::default() };
    let failed =
        v1::SeqOutcome { outcome: Some(v1::seq_outcome::Outcome::Failed(failure.clone())) };
    let outcome = v1::SeqRunOutcome {
        starts: vec![0, 64],
        epoch: epoch(),
        failures: vec![v1::SeqRunFailure { index: 1, failure: Some(failure) }],
    };
    let encoded = [
        v1::GetTsRequest { count: 2 }.encode_to_vec(),
        single.encode_to_vec(),
        v1::GetSeqBatchRequest { entries, request_id }.encode_to_vec(),
        v1::StreamSeqRequest { requests: vec![single], run: Some(run) }.encode_to_vec(),
        v1::StreamSeqResponse { outcomes: vec![failed], run: Some(outcome) }.encode_to_vec(),
    ];
    (0..).zip(encoded).map(|(kind, body): (u8, _)| [&[kind][..], &body].concat()).collect()
}
