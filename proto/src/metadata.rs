//! What travels beside the messages: trailers of refusals, and the header of every answer.

use prost::Message as _;
use tonic::metadata::{BinaryMetadataValue, MetadataMap, MetadataValue};

use crate::v1::LeaderHint;

/// Binary trailer of a `FAILED_PRECONDITION`: this node does not lead, and the encoded
/// [`LeaderHint`] says where the leader is, as far as the node knows.
pub const LEADER_HINT: &str = "tsoracle-leader-hint-bin";

/// Trailer of an `UNAVAILABLE`, with the value `1`: nothing was committed, for certain. Without it
/// the caller cannot know, since proxies answer `UNAVAILABLE` too.
pub const UNCOMMITTED: &str = "tsoracle-uncommitted";

/// Trailer of a `FAILED_PRECONDITION`, with the value `1`: a request marked as a retry named a
/// session that the server does not know, and was not carried out.
pub const SESSION_UNKNOWN: &str = "tsoracle-session-unknown";

/// Metadata of every answer of a server that honours request ids, failures included, with the
/// value `1`. Without it a client cannot tell such a server from one that ignores the field, on
/// which sending a sequence request again would spend a second block.
pub const SESSIONS: &str = "tsoracle-sessions";

/// Header of the answers of a `StreamSeq` whose server takes [`SeqRun`](crate::v1::SeqRun)s, with the value
/// `1`. It holds for this stream alone: another one may be served by another server.
pub const SEQ_RUNS: &str = "tsoracle-seq-runs";

/// Sets one of the flags [`UNCOMMITTED`], [`SESSION_UNKNOWN`], [`SESSIONS`] and [`SEQ_RUNS`].
pub fn insert_flag(metadata: &mut MetadataMap, flag: &'static str) {
    metadata.insert(flag, MetadataValue::from_static("1"));
}

/// Whether a flag is set.
#[must_use]
pub fn has_flag(metadata: &MetadataMap, flag: &'static str) -> bool {
    metadata.get(flag).is_some_and(|value| value.as_bytes() == b"1")
}

/// Adds the trailer [`LEADER_HINT`]. An empty hint is sent as well: the trailer's presence alone
/// says that the node does not lead.
pub fn insert_leader_hint(metadata: &mut MetadataMap, hint: &LeaderHint) {
    metadata.insert_bin(LEADER_HINT, BinaryMetadataValue::from_bytes(&hint.encode_to_vec()));
}

/// Reads the trailer [`LEADER_HINT`]. `None` means that there is none, which says something else
/// than an empty one. One that cannot be decoded counts as empty: its presence alone says that the
/// node does not lead.
#[must_use]
pub fn leader_hint(metadata: &MetadataMap) -> Option<LeaderHint> {
    let bytes = metadata.get_bin(LEADER_HINT)?.to_bytes();
    Some(bytes.ok().and_then(|bytes| LeaderHint::decode(bytes).ok()).unwrap_or_default())
}
