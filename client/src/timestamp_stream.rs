use std::time::Duration;

use tsoracle_types::{BootTime, Timestamp, TimestampIter};

use crate::client::{Client, check_ts_count};
use crate::error::Result;

/// How old timestamps may become before they are discarded, unless set otherwise.
const MAX_AGE: Duration = Duration::from_millis(100);

/// Timestamps from ranges: one request gets many, which are handed out one by one.
///
/// Each is unique, and greater than the ones before it from the same stream. But **a timestamp may be
/// older than the call that takes it**: it may be smaller than one that another caller has got
/// meanwhile. So it is for unique numbers that rise and are close to the time, such as row ids
/// or log positions of one writer. Where a timestamp has to be greater than every one that was
/// answered before, as for a snapshot or a commit, use [`Client::get_ts`], or call
/// [`discard`](Self::discard) at the point after which the order matters.
///
/// Nothing is fetched in advance: a range is requested by the call that finds none left.
/// The rest of it is discarded once it is older than [`max_age`](Self::with_max_age), 100 ms by
/// default, counted from before it was requested.
///
/// ```no_run
/// # async fn example(client: tsoracle_client::Client) -> tsoracle_client::Result<()> {
/// let mut ids = client.timestamp_stream(1_000)?;
/// for _ in 0..1_000_000 {
///     let id = ids.next().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TimestampStream {
    client: Client,
    size: u32,
    max_age: Duration,
    range: Option<TimestampIter>,
    requested: BootTime,
}

impl Client {
    /// Timestamps one by one out of ranges of `size`, 1 to 262,144, for callers that need them unique and
    /// rising, but **not** greater than all that were answered before: see [`TimestampStream`].
    ///
    /// # Errors
    /// `Invalid` if `size` is out of range. Nothing is requested yet.
    pub fn timestamp_stream(&self, size: u32) -> Result<TimestampStream> {
        check_ts_count(size)?;
        let (client, requested) = (self.clone(), self.boot_time());
        Ok(TimestampStream { client, size, max_age: MAX_AGE, range: None, requested })
    }
}

impl TimestampStream {
    /// How long after its request a range may be handed out. With zero, each call requests its own.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// The next timestamp: greater than those before it from this stream, and maybe older than this call.
    ///
    /// # Errors
    /// As [`Client::get_ts_batch`]; another call may be made.
    ///
    /// # Cancellation
    /// A dropped future takes no timestamp, and none is handed out twice.
    pub async fn next(&mut self) -> Result<Timestamp> {
        let now = self.client.boot_time();
        if now.since(self.requested) >= self.max_age {
            self.range = None;
        }
        if let Some(timestamp) = self.range.as_mut().and_then(Iterator::next) {
            return Ok(timestamp);
        }
        let range = self.client.get_ts_batch(self.size).await?;
        let mut rest = range.into_iter();
        self.requested = now;
        let first = rest.next();
        self.range = Some(rest);
        // A range has at least one.
        Ok(first.unwrap_or(range.first()))
    }

    /// Discards the rest of the range: the next timestamp is greater than every one that any caller
    /// got before this call.
    pub fn discard(&mut self) {
        self.range = None;
    }
}
