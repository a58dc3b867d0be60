//! Decoders that are not public, for the fuzz targets. Each says whether the bytes could be read.

use std::sync::LazyLock;

use tsoracle_core::{Result, VERSION, Version};

pub use crate::transport::fuzz::{frame, frames};
use crate::{
    Cluster, Config, Identity, identity,
    snapshot::{self, Chunk, decode, encode, read_chunk},
    stored,
    transfer::Part,
};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let config = Config { node: 1, peers: "1=localhost:1/localhost:2".into(), ..Config::default() };
    config.check().expect("the options are right")
});

/// Reads a node's identity.
pub fn identity(data: &[u8]) -> bool {
    let Ok(identity) = identity::read(data, &CLUSTER) else { return false };
    let again = stored::encode(identity::FORMAT, &identity)
        .and_then(|encoded| identity::read(&encoded, &CLUSTER))
        .expect("what was encoded can be read");
    assert_eq!(again, identity);
    true
}

/// An identity as it is stored.
pub fn identities() -> Result<Vec<Vec<u8>>> {
    Ok(vec![stored::encode(identity::FORMAT, Identity::fixed(3, 3, None).stored())?])
}

/// Reads the file of a snapshot, as it is and with checksums that are right.
pub fn snapshot(mut data: &[u8]) -> bool {
    let mut chunks = vec![];
    while let Ok(Some(chunk)) = read_chunk(&mut data) {
        chunks.push(chunk);
    }
    let _ = snapshot::verify(chunks.iter().cloned().map(Ok));
    for chunk in chunks.iter_mut().filter(|chunk| chunk.len() >= 4) {
        let checksum = crc32c::crc32c(&chunk[4..]).to_le_bytes();
        chunk[..4].copy_from_slice(&checksum);
        if let Ok(read) = decode(chunk) {
            let encoded = encode(&read).expect("what was read can be encoded");
            let again = decode(&encoded).and_then(|again| encode(&again));
            assert_eq!(again.expect("what was encoded can be read"), encoded);
        }
    }
    snapshot::verify(chunks.into_iter().map(Ok)).is_ok()
}

/// Snapshots as they are in files.
pub fn snapshots() -> Result<Vec<Vec<u8>>> {
    let entries = |from: u8| (from..from + 3).map(|key| (vec![b's', key], vec![1, key])).collect();
    let version = Version { era: 1, number: 7, name: 9 }.encode().to_vec();
    let begin = || Chunk::Begin { magic: snapshot::MAGIC.into(), header: vec![0; 8] };
    let states = [
        vec![begin(), Chunk::End { entries: 0 }],
        vec![
            begin(),
            Chunk::Entries(entries(1)),
            Chunk::Entries(entries(7)),
            Chunk::Entries(vec![(VERSION.to_vec(), version)]),
            Chunk::End { entries: 7 },
        ],
    ];
    let file = |chunks: &Vec<Chunk>| {
        let mut file = vec![];
        for chunk in chunks {
            let chunk = encode(chunk)?;
            file.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
            file.extend_from_slice(&chunk);
        }
        Ok(file)
    };
    states.iter().map(file).collect()
}

/// Reads a part of a state that another node sends.
pub fn transfer(data: &[u8]) -> bool {
    let Some(part) = Part::decode(data) else { return false };
    assert_eq!(part.encode(), data);
    true
}
