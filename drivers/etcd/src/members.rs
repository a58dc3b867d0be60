use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{Channel, Client, ConnectOptions};
use tokio::{sync::watch, time::timeout};
use tsoracle_core::{
    BootTime, Clock, Error, ErrorKind, Finding, Reload, Report, Result, SystemClock,
};
use tsoracle_tls::Watched;

use crate::{
    config::{Config, Endpoints},
    errors::{Meaning, meaning},
};

/// How many attempts a call is worth before it fails.
const ATTEMPTS: u32 = 6;

/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(25);

/// How often the members in reserve are asked, and how many attempts' time one may take.
const STAND_BY: Duration = Duration::from_secs(1);
const ROUND_TRIPS: u32 = 4;

/// For how long etcd answers nothing before that is worth a word.
const SILENT: Duration = Duration::from_secs(2);

/// An etcd cluster, behind as many members as are known of it.
///
/// One member is asked at a time. One that does not answer in time, or answers that it cannot, is left
/// for the next.
pub(crate) struct Members {
    names: Vec<String>,
    endpoints: Watched<Endpoints>,
    clients: Mutex<Clients>,
    current: watch::Sender<usize>,
    options: ConnectOptions,
    timeout: Duration,
    /// Since when nothing was answered, and the last reason, if that is so.
    silent: Mutex<Option<(BootTime, String)>>,
}

/// The clients of some endpoints, one for each that was asked.
struct Clients {
    of: Arc<Endpoints>,
    all: Vec<Option<Client>>,
}

impl Clients {
    fn new(of: Arc<Endpoints>) -> Self {
        Self { all: vec![None; of.len()], of }
    }
}

impl Members {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let endpoints = config.endpoints()?;
        let members = endpoints.current();
        let mut options =
            ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
        if let Some((user, password)) = config.user()? {
            options = options.with_user(user, password);
        }
        Ok(Self {
            names: members.iter().map(|(name, _)| name.clone()).collect(),
            clients: Clients::new(members).into(),
            endpoints,
            current: watch::Sender::new(0),
            options,
            timeout: config.timeout,
            silent: Mutex::default(),
        })
    }

    /// Reads the certificates again when they change, or `reload` asks for it, from now on.
    pub(crate) fn keep_up(&self, reload: Reload) -> impl Future<Output = ()> + Send + use<> {
        self.endpoints.keep_up(reload)
    }

    /// The certificates with what is wrong with them, and whether etcd answers.
    pub(crate) fn report(&self, now: BootTime) -> Report {
        let mut report = self.endpoints.report();
        let silent = lock(&self.silent).clone();
        if let Some((since, reason)) = silent.filter(|(since, _)| now.since(*since) >= SILENT) {
            let what = format!("etcd does not answer: {reason}");
            let remedy = "look whether a majority of etcd's members runs and is reached from here (etcdctl endpoint health)";
            report.findings.push(Finding::new("etcd_silent", what, remedy).since(since));
        }
        report
    }

    /// Notes whether etcd has answered.
    fn note<T>(&self, outcome: &Result<T>) {
        let mut silent = lock(&self.silent);
        match outcome {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Uncertain) => {
                let since =
                    silent.as_ref().map_or_else(|| SystemClock.now().boot, |(since, _)| *since);
                *silent = Some((since, format!("{error:#}")));
            }
            _ => *silent = None,
        }
    }

    /// Sees whenever a member is left for the next one, if there is another, from now on.
    pub(crate) fn left(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// Asks the members in reserve now and then, for as long as it is polled: a connection to each stands by, since
    /// behind a slow link beginning one takes longer than an attempt may.
    pub(crate) async fn stay_connected(&self) {
        loop {
            for at in (0..self.names.len()).filter(|at| *at != *self.current.borrow()) {
                let asking = async { self.client(at).await?.status().await };
                // Whatever it says, or whether it does, is seen when it is needed.
                drop(timeout(self.timeout * ROUND_TRIPS, asking).await);
            }
            SystemClock.sleep(STAND_BY).await;
        }
    }

    /// When a call that begins now is given up.
    pub(crate) fn deadline(&self) -> BootTime {
        SystemClock.now().boot + self.timeout * ATTEMPTS
    }

    /// Asks the current member once. One that does not answer is left for the next one.
    ///
    /// # Errors
    /// `Unavailable` if nothing can have been done, `Uncertain` if something may have been; `Config`
    /// if etcd does not let this user in, or refuses the request.
    pub(crate) async fn attempt<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let at = *self.current.borrow();
        let mut is_sent = false;
        let asking = async {
            let client = self.client(at).await;
            let client = client.map_err(|error| self.failed(at, error, ErrorKind::Unavailable))?;
            is_sent = true;
            call(client).await.map_err(|error| self.failed(at, error, ErrorKind::Uncertain))
        };
        let silent = match timeout(self.timeout, asking).await {
            Ok(outcome) => {
                self.note(&outcome);
                return outcome;
            }
            Err(_) if is_sent => ErrorKind::Uncertain,
            Err(_) => ErrorKind::Unavailable,
        };
        self.leave(at);
        let (member, limit) = (&self.names[at], self.timeout);
        let failed =
            Err(Error::new(silent, format!("etcd at {member} did not answer within {limit:?}")));
        self.note(&failed);
        failed
    }

    /// The client of one member, which is let in already.
    async fn client(&self, at: usize) -> Result<Client, etcd_client::Error> {
        let endpoints = self.endpoints.current();
        {
            let mut clients = self.clients();
            if !Arc::ptr_eq(&clients.of, &endpoints) {
                // Calls under way end on the connections that they began on.
                *clients = Clients::new(endpoints.clone());
            }
            if let Some(client) = &clients.all[at] {
                return Ok(client.clone());
            }
        }
        let channel = Channel::Tonic(endpoints[at].1.connect_lazy());
        let client = Client::from_channel(channel, Some(self.options.clone())).await?;
        let mut clients = self.clients();
        if Arc::ptr_eq(&clients.of, &endpoints) {
            clients.all[at] = Some(client.clone());
        }
        Ok(client)
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        lock(&self.clients)
    }

    /// Asks another member from now on.
    fn leave(&self, at: usize) {
        self.current.send_if_modified(|current| {
            // Another call may have gone on already.
            let leaves = *current == at;
            if leaves {
                *current = (at + 1) % self.names.len();
            }
            leaves
        });
    }

    /// What an error means. `unknown` is what it is if it does not say that nothing was done.
    fn failed(&self, at: usize, error: etcd_client::Error, unknown: ErrorKind) -> Error {
        let meaning = match &error {
            etcd_client::Error::GRpcStatus(status) => meaning(status),
            _ => Meaning::Unknown,
        };
        match meaning {
            // A client that was let in once has to authenticate again.
            Meaning::NotLetIn | Meaning::Refused => self.clients().all[at] = None,
            Meaning::NotDone | Meaning::Unknown => self.leave(at),
        }
        Error::new(meaning.kind(unknown), format!("etcd at {}", self.names[at])).with_source(error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pauses before another attempt at what may be done twice.
///
/// # Errors
/// The one given, if another attempt is of no use, or it is too late for one.
pub(crate) async fn pause_before_retry(error: Error, deadline: BootTime) -> Result<()> {
    if matches!(error.kind(), ErrorKind::Uncertain | ErrorKind::Unavailable) {
        SystemClock.sleep(PAUSE).await;
        if SystemClock.now().boot < deadline {
            return Ok(());
        }
    }
    Err(error)
}
