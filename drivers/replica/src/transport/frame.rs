use bytes::Bytes;
use tsoracle_core::{Clock as _, Error, ErrorKind, NodeId, Result, SystemClock, shortened};

use super::{
    PeerIds, Sender,
    disowned::Disowned,
    proto::{Frame, Introduction},
};
use crate::leaps::REACHED;

/// The format of the frames and their bodies.
pub const VERSION: u32 = 4;

/// The largest body of a message.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// The largest message: a body, and what is around it.
pub(super) const MAX_FRAME_BYTES: usize = MAX_BODY_BYTES + 1_024;

/// The kind by which a process shows that it is there: asked for in a call, or in an answer to none. No call of a
/// driver is of it, nor one for how far a node has come, or for a chunk of a state.
pub(super) const PRESENT: u32 = REACHED - 1;

/// How much of a stream, and of a connection, may be under way: a large frame must not wait for the
/// window to open up.
pub(super) const WINDOWS: (u32, u32) = (8 << 20, 16 << 20);

/// What this node writes on its messages, and looks for on those of others.
pub(super) struct Envelope {
    pub(super) cluster: String,
    pub(super) node: u32,
    pub(super) id: NodeId,
    /// By which id each peer is known.
    pub(super) ids: PeerIds,
    pub(super) disowned: Disowned,
}

impl Envelope {
    pub(super) fn wrap(&self, to: u32, kind: u32, body: Bytes) -> Result<Frame> {
        if body.len() > MAX_BODY_BYTES {
            let context = format!(
                "a message of {} bytes to peer {to} is too large; {MAX_BODY_BYTES} is the most",
                body.len()
            );
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let expected = self.ids.get(to);
        let expected = expected.map(|id| Bytes::copy_from_slice(&id.0.to_be_bytes()));
        Ok(Frame {
            expected: expected.unwrap_or_default(),
            version: VERSION,
            cluster: self.cluster.clone(),
            from: self.node,
            to,
            kind,
            body,
            identity: Bytes::copy_from_slice(&self.id.0.to_be_bytes()),
            clock_ms: SystemClock.now().wall_ms,
            ..Frame::default()
        })
    }

    /// The first frame of a session, in either direction.
    pub(super) fn introduce(&self, to: u32, introduction: Introduction) -> Result<Frame> {
        Ok(Frame { introduction: Some(introduction), ..self.wrap(to, 0, Bytes::new())? })
    }

    /// Whether the sender of that frame knows the directory of this node.
    pub(super) fn is_known_by(&self, frame: &Frame) -> bool {
        frame.expected[..] == self.id.0.to_be_bytes()
    }

    /// Who sent the frame and what is in it, or why it is refused.
    pub(super) fn open(&self, frame: Frame) -> Result<(Sender, Bytes), String> {
        let Frame { version, cluster, from, to, .. } = &frame;
        if *version != VERSION {
            return Err(format!(
                "node {from} speaks format {version}, node {} speaks {VERSION}; run releases that \
                 go together",
                self.node
            ));
        }
        if *cluster != self.cluster {
            let cluster = shortened(cluster);
            return Err(format!(
                "node {from} belongs to the cluster {cluster:?}, node {} to {:?}; check `peers` \
                 and `cluster` of both",
                self.node, self.cluster
            ));
        }
        if *to != self.node {
            return Err(format!(
                "node {from} takes this for node {to}, but it is node {}; the peer lists differ",
                self.node
            ));
        }
        if *from == self.node || *from == 0 {
            return Err(format!("another node calls itself {from}; each needs an id of its own"));
        }
        let Ok(identity) = <[u8; 16]>::try_from(&frame.identity[..]) else {
            return Err(format!("node {from} has an identity that is not 16 bytes long"));
        };
        let id = NodeId(u128::from_be_bytes(identity));
        if !frame.expected.is_empty() && frame.expected[..] != self.id.0.to_be_bytes() {
            let reason = format!(
                "node {} is known to node {from} with another directory, which held a log: it was \
                 wiped or replaced; remove it from the cluster, and add it again under a new id",
                self.node
            );
            // From another directory than the member's own it is the word of a stray node.
            if self.ids.get(*from).is_none_or(|known| known == id) {
                self.disowned.vote(*from, &reason);
            }
            return Err(reason);
        }
        Ok((Sender { node: *from, id }, frame.body))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::peer_ids::{KnownId, remember},
        *,
    };

    fn envelope(cluster: &str, node: u32, known: &[(u32, u128)]) -> Envelope {
        let known =
            known.iter().map(|(node, id)| (*node, KnownId { id: NodeId(*id), is_removed: false }));
        Envelope {
            cluster: cluster.into(),
            node,
            id: NodeId(node.into()),
            ids: PeerIds::new(
                Sender { node, id: NodeId(node.into()) },
                known.collect(),
                remember(),
            ),
            disowned: Disowned::default(),
        }
    }

    #[test]
    fn a_frame_is_opened_only_by_whom_it_is_for() {
        let (one, two) = (envelope("a", 1, &[]), envelope("a", 2, &[]));
        let frame = one.wrap(2, 7, Bytes::from_static(b"body")).unwrap();
        let (sender, body) = two.open(frame.clone()).unwrap();
        assert_eq!(sender, Sender { node: 1, id: NodeId(1) });
        assert_eq!(&body[..], b"body");
        let refused = |frame: Frame, text: &str| {
            let reason = two.open(frame).unwrap_err();
            assert!(reason.contains(text), "{reason}");
        };
        refused(Frame { version: 9, ..frame.clone() }, "speaks format 9");
        refused(Frame { cluster: "b".into(), ..frame.clone() }, "the cluster \"b\"");
        refused(Frame { to: 3, ..frame.clone() }, "takes this for node 3");
        refused(Frame { from: 2, ..frame.clone() }, "calls itself 2");
        refused(Frame { identity: Bytes::new(), ..frame }, "16 bytes");
        assert!(two.disowned.failure().borrow().is_none());
        let one = envelope("a", 1, &[(2, 2)]);
        two.open(one.wrap(2, 7, Bytes::new()).unwrap()).unwrap();
        let one = envelope("a", 1, &[(2, 9)]);
        refused(one.wrap(2, 7, Bytes::new()).unwrap(), "was wiped");
        assert!(two.disowned.failure().borrow().is_none(), "node 1 is not a member");
        two.disowned.note_member(1);
        two.open(one.wrap(2, 7, Bytes::new()).unwrap()).unwrap_err();
        assert!(two.disowned.failure().borrow().is_some());
    }

    #[test]
    fn a_stray_node_ends_no_other_one() {
        let two = envelope("a", 2, &[(1, 1)]);
        two.disowned.note_member(1);
        let stray = Envelope { id: NodeId(77), ..envelope("a", 1, &[(2, 9)]) };
        let reason = two.open(stray.wrap(2, 7, Bytes::new()).unwrap()).unwrap_err();
        assert!(reason.contains("was wiped"), "{reason}");
        assert!(two.disowned.failure().borrow().is_none());
    }

    #[test]
    fn a_body_beyond_the_bound_is_not_sent() {
        let body = Bytes::from(vec![0; MAX_BODY_BYTES + 1]);
        let error = envelope("a", 1, &[]).wrap(2, 0, body).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Invalid);
    }
}
