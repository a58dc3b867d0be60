use std::time::Duration;

use tsoracle_core::{Error, ErrorKind, Result};

/// What one client, or all of them together, may take of the server.
///
/// How many requests may wait at once is the oracle's own bound:
/// [`OracleOptions::max_waiting`](tsoracle_core::OracleOptions::max_waiting).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest message that is read, in bytes: 1 MiB, and no more than that. A larger one is
    /// refused unread.
    pub message_bytes: usize,
    /// The most calls under way on one connection: 1,024. A client holds back those beyond it.
    pub concurrent_streams: u32,
    /// The most calls under way on all connections, of all clients in shares: 32,768, of some 11 KB each. One beyond
    /// it is refused.
    pub calls: usize,
    /// The most connections: 10,000. One beyond it is closed at once.
    pub connections: usize,
    /// The most requests of streams whose answers are not taken yet by the transport, of all clients in
    /// shares: 262,144. Beyond that a stream is ended.
    pub unread_answers: usize,
    /// The largest list of headers of a call, in bytes: 16 KiB. A larger one is refused unread.
    pub header_bytes: u32,
    /// How long a new connection may take until TLS and HTTP/2 are agreed on, each: 5 s.
    pub handshake_time: Duration,
    /// How long a call may take, whatever its own deadline says: 30 s.
    pub request_time: Duration,
    /// How often a silent connection is asked for a sign of life: every 20 s.
    pub keepalive_interval: Duration,
    /// How long that sign may take before the connection is closed: 10 s.
    pub keepalive_timeout: Duration,
    /// How long calls under way may take to end when the server stops: 5 s.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 1 << 20,
            concurrent_streams: 1_024,
            calls: 1 << 15,
            connections: 10_000,
            unread_answers: 1 << 18,
            header_bytes: 16 << 10,
            handshake_time: Duration::from_secs(5),
            request_time: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            drain_time: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// Checks that every limit leaves something to serve with.
    ///
    /// # Errors
    /// `Config`, naming the limit.
    pub fn validate(&self) -> Result<()> {
        let numbers = [
            ("message_bytes", self.message_bytes as u128),
            ("concurrent_streams", self.concurrent_streams.into()),
            ("calls", self.calls as u128),
            ("connections", self.connections as u128),
            ("unread_answers", self.unread_answers as u128),
            ("header_bytes", self.header_bytes.into()),
            ("handshake_time", self.handshake_time.as_millis()),
            ("request_time", self.request_time.as_millis()),
            ("keepalive_interval", self.keepalive_interval.as_millis()),
            ("keepalive_timeout", self.keepalive_timeout.as_millis()),
        ];
        match numbers.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => {
                Err(Error::new(ErrorKind::Config, format!("the limit {name} must not be 0")))
            }
            None => Ok(()),
        }
    }
}
