//! What the manager of services, such as systemd, is told of this server, where one wants to know: when it is ready, what it
//! does, that it is alive, and that it stops.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use sd_notify::NotifyState;
use tsoracle_core::{Clock as _, Oracle, Phase, SystemClock};

use crate::failure::Failure;

/// Where the manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// How many notices wait to be sent. What does not fit is lost: the manager must not hold the server up.
const MOST: usize = 16;

/// How often it is told that the state is still being opened, which may take long.
const OPENING: Duration = Duration::from_secs(5);

/// How long it waits then, from each time on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that the manager is told.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// The server has not settled yet, and wants more time for that.
    Opening(String),
    Ready,
    /// In words, for people.
    Status(String),
    Reloading,
    Stopping,
    Alive,
}

/// The manager, if there is one.
#[derive(Clone, Debug)]
pub(crate) struct ServiceManager {
    notices: Option<SyncSender<Notice>>,
    /// How often it wants to know that the server is alive.
    watchdog: Option<Duration>,
    is_ready: Arc<AtomicBool>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub(crate) fn from_environment() -> Result<Self, Failure> {
        let is_ready = Arc::default();
        if std::env::var_os(SOCKET).is_none_or(|path| path.is_empty()) {
            return Ok(Self { notices: None, watchdog: None, is_ready });
        }
        let (notices, received) = sync_channel(MOST);
        let thread = thread::Builder::new().name("tsoracle-notify".into());
        let started = thread.spawn(move || send(&received));
        started.map_err(|error| Failure::failed(format!("cannot start threads: {error:#}")))?;
        // Half of it, so that one that comes late does no harm.
        let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Ok(Self { notices: Some(notices), watchdog, is_ready })
    }

    /// Whether there is still anything that passes notices on.
    fn tell(&self, notice: Notice) -> bool {
        let Some(notices) = &self.notices else { return true };
        !matches!(notices.try_send(notice), Err(TrySendError::Disconnected(_)))
    }

    /// The server serves, follows, or waits for others with nothing more to do by itself.
    pub(crate) fn ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
        self.tell(Notice::Ready);
    }

    pub(crate) fn stopping(&self) {
        self.tell(Notice::Stopping);
    }

    /// Files are read again, for as long as `reading` takes. Before the server is ready, nobody waits for that.
    pub(crate) async fn reloading(&self, reading: impl Future) {
        let is_ready = self.is_ready.load(Ordering::Relaxed);
        if is_ready {
            self.tell(Notice::Reloading);
        }
        let _ = reading.await;
        if is_ready {
            self.tell(Notice::Ready);
        }
    }

    /// Asks for patience while the state is opened. Never returns.
    pub(crate) async fn opening(&self, driver: &str) -> Infallible {
        loop {
            self.tell(Notice::Opening(format!("opening {driver}")));
            SystemClock.sleep(OPENING).await;
        }
    }

    /// Says what the server does, and that it is alive as long as its engine is. Returns only if nothing passes notices
    /// on any more. To be polled by the task that serves clients: where that is blocked, nothing says that the server is
    /// alive.
    pub(crate) async fn follow(&self, oracle: Oracle) {
        tokio::select! {
            () = self.tell_what_it_does(&oracle) => {}
            () = self.tell_that_it_lives(&oracle) => {}
        }
    }

    async fn tell_what_it_does(&self, oracle: &Oracle) {
        let mut phase = oracle.phase();
        let mut last = None;
        loop {
            let status = in_words(&phase.borrow_and_update());
            if last.as_ref() != Some(&status) {
                if !self.tell(Notice::Status(status.clone())) {
                    return;
                }
                last = Some(status);
            }
            if phase.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    async fn tell_that_it_lives(&self, oracle: &Oracle) {
        let Some(interval) = self.watchdog else { return pending().await };
        while oracle.is_responsive().await {
            if !self.tell(Notice::Alive) {
                return;
            }
            SystemClock.sleep(interval).await;
        }
        // The server ends by itself.
        pending().await
    }
}

/// What a node does, in a few words.
pub(crate) fn in_words(phase: &Phase) -> String {
    match phase {
        Phase::Serving { epoch } => format!("leading, epoch {epoch}"),
        Phase::Lapsed { epoch } => format!("cannot renew the lease, epoch {epoch}"),
        Phase::Following(Some(leader)) => format!("following {}", leader.endpoint),
        Phase::Following(None) => "following".into(),
        Phase::Electing => "no leader yet".into(),
        Phase::TakingOver { trouble: Some(trouble), .. } => format!("taking over: {trouble}"),
        Phase::TakingOver { trouble: None, .. } => "taking over".into(),
        Phase::Failed(reason) => format!("failed: {reason}"),
        _ => "stopping".into(),
    }
}

/// Sends what there is to tell, in order, for as long as the server runs.
fn send(notices: &Receiver<Notice>) {
    for notice in notices {
        let text;
        let states = match &notice {
            Notice::Opening(what) => {
                let patience = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
                vec![NotifyState::ExtendTimeoutUsec(patience), NotifyState::Status(what)]
            }
            Notice::Ready => vec![NotifyState::Ready],
            Notice::Status(status) => {
                // A line is a field of its own.
                text = status.replace(['\n', '\r'], " ");
                vec![NotifyState::Status(&text)]
            }
            Notice::Reloading => match NotifyState::monotonic_usec_now() {
                Ok(now) => vec![NotifyState::Reloading, now],
                Err(_) => continue,
            },
            Notice::Stopping => vec![NotifyState::Stopping],
            Notice::Alive => vec![NotifyState::Watchdog],
        };
        if let Err(error) = sd_notify::notify(&states) {
            tracing::debug!(?notice, error = %format_args!("{error:#}"), "the service manager is not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc::RecvTimeoutError};

    use async_trait::async_trait;
    use tokio::sync::watch;
    use tsoracle_core::{
        BootTime, CommitLimits, ConsensusDriver, Effect, Leadership, LocalDriver, Membership,
        MemoryStore, NodeId, OracleOptions, Outcome, Reads, Result, Snapshot, Version,
    };

    use super::*;

    /// Blocks the thread of whoever reads, from one wait of another thread until the next.
    #[derive(Debug)]
    struct Blocking(Arc<dyn ConsensusDriver>, Arc<Barrier>);

    #[async_trait]
    impl ConsensusDriver for Blocking {
        fn node(&self) -> NodeId {
            self.0.node()
        }

        fn leadership(&self) -> watch::Receiver<Leadership> {
            self.0.leadership()
        }

        async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
            self.1.wait();
            self.1.wait();
            self.0.read(wanted).await
        }

        async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
            self.0.commit(base, effect).await
        }

        fn seen(&self, version: &Version) -> Option<BootTime> {
            self.0.seen(version)
        }

        async fn resign(&self, claim: u64) {
            self.0.resign(claim).await;
        }

        fn limits(&self) -> CommitLimits {
            self.0.limits()
        }

        fn membership(&self) -> Option<Arc<dyn Membership>> {
            self.0.membership()
        }

        async fn shutdown(&self) -> Result<()> {
            self.0.shutdown().await
        }
    }

    /// What is told from now on, with a sign of life each few milliseconds.
    fn listening() -> (ServiceManager, Receiver<Notice>) {
        let (notices, received) = sync_channel(1_000);
        let watchdog = Some(Duration::from_millis(5));
        (ServiceManager { notices: Some(notices), watchdog, is_ready: Arc::default() }, received)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn a_server_whose_engine_is_blocked_is_not_said_to_be_alive() {
        let barrier = Arc::new(Barrier::new(2));
        let driver = LocalDriver::open(MemoryStore::default()).await.unwrap();
        let driver = Arc::new(Blocking(driver, barrier.clone()));
        let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
        // From here on the engine is blocked, in reading what it takes over.
        tokio::task::block_in_place(|| barrier.wait());
        let (manager, notices) = listening();
        tokio::spawn(async move { manager.follow(oracle).await });
        tokio::task::block_in_place(|| {
            let wait = |limit| notices.recv_timeout(Duration::from_millis(limit));
            assert_eq!(wait(60_000), Ok(Notice::Status("taking over".into())));
            assert_eq!(wait(200), Err(RecvTimeoutError::Timeout));
            barrier.wait();
            // It may lead by then, which is told as well.
            while wait(60_000).expect("it is alive again") != Notice::Alive {}
        });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_says_what_it_does_and_that_it_lives_until_its_oracle_ends() {
        let driver = LocalDriver::open(MemoryStore::default()).await.unwrap();
        let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
        let (manager, notices) = listening();
        let followed = oracle.clone();
        tokio::spawn(async move { manager.follow(followed).await });
        let until = |wanted: Notice| {
            let told = || notices.recv_timeout(Duration::from_secs(60)).unwrap();
            tokio::task::block_in_place(|| while told() != wanted {});
        };
        until(Notice::Status("leading, epoch 1".into()));
        until(Notice::Alive);
        until(Notice::Alive);
        oracle.shutdown().await.unwrap();
        until(Notice::Status("stopping".into()));
    }

    #[tokio::test]
    async fn that_nothing_passes_notices_on_any_more_is_noticed() {
        let driver = LocalDriver::open(MemoryStore::default()).await.unwrap();
        let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
        let (manager, notices) = listening();
        drop(notices);
        manager.follow(oracle).await;
    }

    #[test]
    fn a_manager_that_does_not_listen_holds_nothing_up() {
        let (notices, _unread) = sync_channel(1);
        let manager =
            ServiceManager { notices: Some(notices), watchdog: None, is_ready: Arc::default() };
        for _ in 0..100 {
            manager.ready();
        }
    }
}
