//! Whether a leader's service still answers.

use std::{
    future::pending,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tsoracle_core::{Clock, News, SystemClock};

use crate::etcd::Holder;

/// What opens an HTTP/2 connection, with empty settings. A server answers with settings of its own,
/// and one that speaks TLS with an alert. The kernel of a process that stands still answers neither.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How often a leader is asked.
const INTERVAL: Duration = Duration::from_millis(150);

/// Watches over one leader at a time.
pub(crate) struct Probe {
    max_silence: Duration,
    leader: watch::Sender<Option<Holder>>,
    /// The election key, by its creation, whose leader does not answer any more.
    dead: AtomicI64,
}

impl Probe {
    pub(crate) fn new(max_silence: Duration) -> Self {
        Self { max_silence, leader: watch::Sender::default(), dead: AtomicI64::new(0) }
    }

    /// Asks the service of this leader from now on.
    pub(crate) fn watch_over(&self, leader: &Holder) {
        self.leader.send_if_modified(|known| {
            let is_known = known.as_ref().is_some_and(|known| known.created == leader.created);
            *known = Some(leader.clone());
            !is_known
        });
    }

    /// Asks no service from now on.
    pub(crate) fn stop(&self) {
        self.leader.send_replace(None);
    }

    pub(crate) fn is_dead(&self, created: i64) -> bool {
        self.dead.load(Ordering::Acquire) == created
    }

    /// Asks the leader's service, and has the election looked at when it does not answer any more.
    pub(crate) async fn run(&self, news: &News) {
        let mut changes = self.leader.subscribe();
        loop {
            let leader = changes.borrow_and_update().clone();
            let watching = async {
                if let Some(leader) = leader.filter(|leader| !leader.endpoint.is_empty()) {
                    silence(&leader.endpoint, self.max_silence).await;
                    self.dead.store(leader.created, Ordering::Release);
                    news.look();
                }
                pending().await
            };
            tokio::select! {
                () = watching => {}
                _ = changes.changed() => {}
            }
        }
    }
}

/// Asks a leader's service again and again, and returns once it has answered and then left every
/// question unanswered for `max_silence`. One that never answered is left to etcd, which ends its lease:
/// its address may be wrong, and then deposing it would not help.
async fn silence(endpoint: &str, max_silence: Duration) {
    let mut answered = None;
    loop {
        let until = answered.unwrap_or(SystemClock.now().boot) + max_silence;
        let left = until.since(SystemClock.now().boot);
        match timeout(left, answers(endpoint)).await {
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
