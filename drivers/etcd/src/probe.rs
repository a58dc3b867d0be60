//! Whether a leader's service still answers.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tsoracle_core::{Clock, SystemClock};

/// What opens an HTTP/2 connection, with empty settings. A server answers with settings of its own,
/// and one that speaks TLS with an alert. The kernel of a process that stands still answers neither.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How often a leader is asked.
const INTERVAL: Duration = Duration::from_millis(150);

/// Asks a leader's service again and again, and returns once it has answered and then left every
/// question unanswered for `max_silence`. One that never answered is left to etcd, which ends its lease:
/// its address may be wrong, and then deposing it would not help.
pub(crate) async fn watch_over(endpoint: String, max_silence: Duration) {
    let mut answered = None;
    loop {
        let until = answered.unwrap_or(SystemClock.now().boot) + max_silence;
        let left = until.since(SystemClock.now().boot);
        match timeout(left, answers(&endpoint)).await {
            Ok(true) => answered = Some(SystemClock.now().boot),
            _ if answered.is_some() && SystemClock.now().boot >= until => return,
            _ => {}
        }
        SystemClock.sleep(INTERVAL).await;
    }
}

async fn answers(endpoint: &str) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(endpoint).await?;
        stream.write_all(HELLO).await?;
        stream.read(&mut [0; 1]).await
    };
    // A connection that is closed at once was closed by something else than a service.
    asking.await.is_ok_and(|bytes| bytes > 0)
}
