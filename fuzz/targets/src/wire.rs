use std::fmt::Debug;

use http::{HeaderMap, HeaderValue};
use prost::Message;
use tonic::metadata::MetadataMap;
use tsoracle_proto::{metadata, v1};

/// Reads trailers: the bytes as they are for each that has a meaning.
pub(crate) fn metadata(data: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(data) {
        for name in [metadata::LEADER_HINT, metadata::UNCOMMITTED, metadata::SESSIONS] {
            headers.insert(name, value.clone());
        }
    }
    let found = MetadataMap::from_headers(headers);
    assert_eq!(metadata::has_flag(&found, metadata::SESSIONS), data == b"1");
    let Some(hint) = metadata::leader_hint(&found) else { return false };
    let mut map = MetadataMap::new();
    metadata::insert_leader_hint(&mut map, &hint);
    assert_eq!(metadata::leader_hint(&map).as_ref(), Some(&hint));
    hint != v1::LeaderHint::default()
}

/// Reads a message of clients or servers: its kind in one byte, and the message.
pub(crate) fn request(data: &[u8]) -> bool {
    let Some((kind, body)) = data.split_first() else { return false };
    match kind {
        0 => read::<v1::GetTsRequest>(body),
        1 => read::<v1::GetSeqRequest>(body),
        2 => read::<v1::GetSeqBatchRequest>(body),
        3 => read::<v1::StreamSeqRequest>(body),
        4 => read::<v1::StreamSeqResponse>(body),
        5 => read::<v1::AcquireLeaseRequest>(body),
        6 => read::<v1::ListSeqsResponse>(body),
        7 => read::<v1::MembersResponse>(body),
        _ => false,
    }
}

fn read<M: Message + Default + PartialEq + Debug>(body: &[u8]) -> bool {
    let Ok(message) = M::decode(body) else { return false };
    let encoded = message.encode_to_vec();
    assert_eq!(M::decode(&encoded[..]).as_ref(), Ok(&message));
    true
}
