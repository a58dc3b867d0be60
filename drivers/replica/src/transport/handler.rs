use async_trait::async_trait;
use bytes::Bytes;
use tsoracle_core::{NodeId, Result};

/// Who has sent a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// Its place in the cluster.
    pub node: u32,
    /// The id of its directory: another one under the same number is another, wiped node.
    pub id: NodeId,
}

/// How a driver answers its peers.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Whether to listen to `sender`, as far as the driver knows: by which id it is known is checked
    /// besides. Asked for every call, answer, and new session.
    ///
    /// # Errors
    /// The reason why not: `Config` if that will not change by itself. The other side gets it.
    fn admit(&self, sender: Sender) -> Result<()>;

    /// Answers a call. It runs in a task of its own, to its end, even if the caller gives up.
    ///
    /// # Errors
    /// The caller gets `Config` as such, anything else as `Unavailable`.
    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes>;

    /// Takes a message from `sender`. Nothing more of it is read before this is done.
    async fn received(&self, sender: Sender, body: Bytes);

    /// The session with `peer` stands, for the first time or again. What was sent since it broke, or
    /// shortly before, is lost.
    fn connected(&self, peer: u32);

    /// No session that `peer` has begun stands any more: what it was about to bring comes no more.
    fn disconnected(&self, _peer: u32) {}

    /// The peer address of `node`, if it is a member that the driver knows of besides those of the config.
    fn address(&self, _node: u32) -> Option<String> {
        None
    }
}
