use bytes::Bytes;
use futures::future::{FutureExt as _, ready};
use prost::Message as _;
use tsoracle_core::{NodeId, Result};

use super::{
    KnownId, PeerIds, Sender,
    disowned::Disowned,
    frame::Envelope,
    proto::{Failure, Frame, PeerId},
};

/// Node `node` of a cluster, which knows node 1 alone.
fn envelope(node: u32) -> Envelope {
    let own = Sender { node, id: NodeId(node.into()) };
    let known = [1, 2].map(|node| (node, KnownId { id: NodeId(node.into()), is_removed: false }));
    Envelope {
        cluster: "tsoracle".into(),
        node,
        id: own.id,
        ids: PeerIds::new(own, known.into(), Box::new(|_| ready(Ok(())).boxed())),
        disowned: Disowned::default(),
    }
}

/// Reads a frame of a peer.
pub fn frame(data: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(data) else { return false };
    let again = Frame::decode(&frame.encode_to_vec()[..]).expect("what was encoded can be read");
    assert_eq!(again, frame);
    envelope(2).open(frame).is_ok()
}

/// Frames as nodes send them.
pub fn frames() -> Result<Vec<Vec<u8>>> {
    let message = envelope(1).wrap(2, 7, Bytes::from_static(b"a message"))?;
    let message = Frame { clock_ms: 1_800_000_000_000, ..message };
    let failure = Failure { reason: "it stops".into(), is_lasting: true };
    let known = vec![PeerId { node: 3, id: Bytes::from_static(&[7; 16]) }];
    let frames = [
        Frame { call: 9, failure: Some(failure), body: Bytes::new(), ..message.clone() },
        Frame { kind: 0, body: Bytes::new(), known, ..message.clone() },
        message,
    ];
    Ok(frames.iter().map(Frame::encode_to_vec).collect())
}
