use std::{
    future::{Future, pending},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};
use tsoracle_core::{Error, ErrorKind, Oracle, Phase, Refusals, Result, Room, endless};

use crate::{
    Listener, Place, Server, connection::Connection, health::Health, listener::Stream, peer::Peer,
};

/// A server whose socket is open; clients can connect, and are answered once it serves.
#[derive(Debug)]
pub struct BoundServer {
    server: Server,
    listener: Listener,
}

/// How long to leave the listener alone when it fails, as it does without file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long calls under way may take once the oracle has failed: they are answered at once.
const FAILED_DRAIN: Duration = Duration::from_millis(500);

impl BoundServer {
    pub(crate) fn new(server: Server, listener: Listener) -> Self {
        Self { server, listener }
    }

    /// Where it really listens.
    pub fn place(&self) -> &Place {
        self.listener.place()
    }

    /// The oracle that is served.
    pub fn oracle(&self) -> &Oracle {
        self.server.oracle()
    }

    /// Serves until the oracle fails.
    ///
    /// # Errors
    /// As [`serve_with_shutdown`](Self::serve_with_shutdown).
    pub async fn serve(self) -> Result<()> {
        self.serve_with_shutdown(pending()).await
    }

    /// Serves until `shutdown` completes, or the oracle fails.
    ///
    /// Then health turns to `NOT_SERVING`, the socket closes, clients are sent away, and calls under
    /// way end, for [`drain_time`](crate::Limits::drain_time) at most; meanwhile an oracle that was
    /// started for this server releases its lease. Dropping the future closes everything at once.
    ///
    /// # Errors
    /// `Fatal`, with the reason, if the oracle failed; `Unavailable` if it could not stop in time.
    pub async fn serve_with_shutdown(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self { server, listener } = self;
        let health = Health::new().await;
        let routes = server.all_routes(&health)?;
        let connection = Connection {
            routes,
            tls: server.tls.clone(),
            limits: server.limits.clone(),
            access: server.access.clone(),
            oracle: server.oracle.clone(),
            refusals: Refusals::default(),
            room: Arc::new(server.room_for_calls()),
            meters: server.meters.clone(),
            pages: server.pages.clone(),
        };
        let stopping = server.stopping.subscribe();
        let mut connections = Connections {
            connection: Arc::new(connection),
            oracle: server.oracle.clone(),
            room: Arc::new(server.room()),
            full: false,
            stopping,
            tasks: JoinSet::new(),
        };
        // If it ended, health would say for ever what was true once. Once the oracle is gone, its owner has stopped it.
        let following = async {
            health.follow(server.oracle.phase()).await;
            pending().await
        };
        let failed = tokio::select! {
            reason = failure(&server.oracle) => Some(reason),
            error = endless("health", following) => Some(error.to_string()),
            () = shutdown => None,
            error = endless("connections", accept(&listener, &server, &mut connections)) => {
                Some(error.to_string())
            }
            error = endless("certificates", server.certificates()) => Some(error.to_string()),
        };
        health.stop().await;
        drop(listener);
        server.stopping.send_replace(true);
        let drain_time = match &failed {
            Some(_) => FAILED_DRAIN.min(server.limits.drain_time),
            None => server.limits.drain_time,
        };
        let (stopped, ()) = tokio::join!(
            async {
                match server.owns_oracle {
                    true => server.oracle.shutdown().await,
                    false => Ok(()),
                }
            },
            connections.drain(drain_time),
        );
        match failed {
            Some(reason) => Err(Error::new(ErrorKind::Fatal, reason)),
            None => stopped,
        }
    }
}

/// Those who are connected.
struct Connections {
    connection: Arc<Connection>,
    oracle: Oracle,
    room: Arc<Room>,
    full: bool,
    stopping: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn add(&mut self, stream: Stream, peer: Peer) {
        let caller = self.oracle.caller(peer.caller_id());
        let place = match self.room.enter(Some(&caller), 1) {
            Ok(place) => place,
            Err(reason) => {
                // Logged once for as long as it lasts, since a client that causes it may go on.
                if !self.full {
                    tracing::warn!(%peer, %reason, "too many connections; more are closed");
                }
                self.full = true;
                return;
            }
        };
        self.full &= self.room.is_scarce();
        let (connection, stopping) = (self.connection.clone(), self.stopping.clone());
        self.tasks.spawn(async move {
            connection.serve(stream, peer, stopping).await;
            drop(place);
        });
    }

    /// Waits until all have gone, and after `limit` closes those that have not.
    async fn drain(mut self, limit: Duration) {
        let gone = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "closing connections that do not end");
            self.tasks.shutdown().await;
        }
    }
}

async fn accept(listener: &Listener, server: &Server, connections: &mut Connections) {
    let mut fails = false;
    loop {
        tokio::select! {
            Some(_) = connections.tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    fails = false;
                    connections.add(stream, peer);
                }
                Err(error) => {
                    // Logged once for as long as it lasts.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(error = %format_args!("{error:#}"), "cannot accept connections");
                    }
                    server.clock.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Why the oracle will not serve again, once it will not.
async fn failure(oracle: &Oracle) -> String {
    let mut phase = oracle.phase();
    loop {
        if let Phase::Failed(reason) = &*phase.borrow_and_update() {
            return reason.to_string();
        }
        if phase.changed().await.is_err() {
            // The oracle was stopped by its owner.
            return pending().await;
        }
    }
}
