use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tsoracle_core::Result;

/// How peers are asked, whatever carries that to them.
#[async_trait]
pub trait Calls: fmt::Debug + Send + Sync + 'static {
    /// Asks `to`, and waits for its answer, for `deadline` at most.
    ///
    /// # Errors
    /// `Unavailable` if there was none; the call may have been heard all the same. `Config` if one
    /// side refuses the other: another cluster or format, or a node that was wiped. `Invalid` if the
    /// body is too large.
    async fn call(&self, to: u32, kind: u32, body: Bytes, deadline: Duration) -> Result<Bytes>;
}
