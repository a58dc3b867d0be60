use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tsoracle_proto::metadata::{self, SESSIONS};
use tsoracle_types::{Epoch, on_one_line};

use crate::address::{Address, Scheme};
use crate::batched::{sequences, timestamps};
use crate::leader::Leader;
use crate::suspicion::look_around;
use crate::tls::TlsOptions;

/// The most connections to addresses that came from hints. A cluster has one leader; the rest is
/// room for changes of leadership, and what exceeds it was an address nobody needs any more.
const MAX_HINTED: usize = 8;

/// How often a connection is probed. Together with [`PROBE_TIMEOUT`], how long a peer that vanished
/// without a word can go unnoticed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a probe may stay unanswered.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections of a client, one per address, dialled on first use.
#[derive(Debug)]
pub(crate) struct Pool {
    dialer: Dialer,
    /// Never evicted to make room.
    configured: Vec<Address>,
    /// Who leads, to be told by those who answer on streams.
    leader: Arc<Leader>,
    /// The callers of timestamps.
    queues: Arc<timestamps::Queues>,
    peers: Mutex<Peers>,
    /// This pool itself, for its peers.
    itself: Weak<Self>,
}

#[derive(Debug, Default)]
struct Peers {
    by_address: HashMap<Address, Entry>,
    /// Counts uses, to tell which one lies furthest back.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    last_use: u64,
}

impl Pool {
    pub(crate) fn new(dialer: Dialer, configured: &[Address]) -> Arc<Self> {
        let configured = configured.to_vec();
        Arc::new_cyclic(|itself| Self {
            dialer,
            configured,
            leader: Arc::default(),
            queues: Arc::default(),
            peers: Mutex::default(),
            itself: itself.clone(),
        })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.dialer.scheme()
    }

    pub(crate) fn leader(&self) -> &Arc<Leader> {
        &self.leader
    }

    pub(crate) fn queues(&self) -> &timestamps::Queues {
        &self.queues
    }

    pub(crate) fn configured(&self) -> &[Address] {
        &self.configured
    }

    /// The peer at `address`; connecting to it has begun. Must be called within a runtime.
    pub(crate) fn peer(&self, address: &Address) -> Arc<Peer> {
        let mut peers = self.lock();
        peers.uses += 1;
        let now = peers.uses;
        if let Some(entry) = peers.by_address.get_mut(address) {
            entry.last_use = now;
            return entry.peer.clone();
        }
        if !self.configured.contains(address) {
            self.make_room(&mut peers);
        }
        let queues = self.queues.clone();
        let peer = Arc::new(self.dialer.dial(address, self.learner(address), queues));
        let entry = Entry { peer: peer.clone(), last_use: now };
        peers.by_address.insert(address.clone(), entry);
        peer
    }

    /// Forgets a connection that failed, so that the next use dials again and resolves the name
    /// again. Calls that still wait on it are not disturbed.
    pub(crate) fn evict(&self, peer: &Arc<Peer>) {
        let mut peers = self.lock();
        let is_current =
            peers.by_address.get(&peer.address).is_some_and(|entry| Arc::ptr_eq(&entry.peer, peer));
        if is_current {
            peers.by_address.remove(&peer.address);
        }
    }

    fn learner(&self, address: &Address) -> Learner {
        let (address, leader, pool) = (address.clone(), self.leader.clone(), self.itself.clone());
        Learner { address, leader, pool, facts: Arc::default() }
    }

    fn make_room(&self, peers: &mut Peers) {
        let is_hinted = |address: &Address| !self.configured.contains(address);
        let hinted = peers.by_address.iter().filter(|(address, _)| is_hinted(address));
        if hinted.clone().count() < MAX_HINTED {
            return;
        }
        let oldest = hinted.min_by_key(|(_, entry)| entry.last_use).map(|(address, _)| address);
        if let Some(oldest) = oldest.cloned() {
            peers.by_address.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        // The map is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One address, and the connection to it.
pub(crate) struct Peer {
    address: Address,
    channel: Shared<BoxFuture<'static, Result<Channel, DialError>>>,
    learner: Learner,
    pub(crate) timestamps: timestamps::Lane,
    pub(crate) sequences: sequences::Lane,
}

/// What a peer has told of itself, for whoever hears it.
#[derive(Clone, Debug)]
pub(crate) struct Learner {
    address: Address,
    leader: Arc<Leader>,
    pool: Weak<Pool>,
    facts: Arc<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    honours_request_ids: AtomicBool,
    ignores_request_ids: AtomicBool,
    lacks_streams: AtomicBool,
    /// Others are being asked whether they lead.
    is_suspected: AtomicBool,
    /// Counts leaders that were found while it was silent.
    superseded: watch::Sender<u64>,
}

impl Learner {
    /// For tests that look at no peer.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        let address = Address::parse("nobody:1", Scheme::Plaintext).unwrap();
        Self { address, leader: Arc::default(), pool: Weak::new(), facts: Arc::default() }
    }

    /// An answer, or a failure, came with these headers.
    pub(crate) fn heard(&self, headers: &MetadataMap) {
        if metadata::has_flag(headers, SESSIONS) {
            self.facts.honours_request_ids.store(true, Ordering::Relaxed);
        }
    }

    /// It served in `epoch`.
    pub(crate) fn served(&self, epoch: Epoch) {
        self.leader.served(&self.address, epoch);
    }

    /// It is silent. Others are asked whether they lead, once for everyone who waits.
    pub(crate) fn suspect(&self) {
        if self.facts.is_suspected.swap(true, Ordering::Relaxed) {
            return;
        }
        let learner = self.clone();
        tokio::spawn(async move {
            look_around(&learner).await;
            learner.facts.is_suspected.store(false, Ordering::Relaxed);
        });
    }

    /// The nodes besides this one.
    pub(crate) fn others(&self) -> Vec<Arc<Peer>> {
        let Some(pool) = self.pool.upgrade() else { return vec![] };
        let others = pool.configured.iter().filter(|&address| *address != self.address);
        others.map(|address| pool.peer(address)).collect()
    }

    /// `peer` leads in `epoch`. Whether that ends the wait for this one.
    pub(crate) fn is_superseded_by(&self, peer: &Peer, epoch: Epoch) -> bool {
        let is_latest = self.leader.served(&peer.address, epoch);
        if is_latest {
            self.facts.superseded.send_modify(|leaders| *leaders += 1);
        }
        is_latest
    }

    /// Returns once another node leads, as far as somebody has found out from now on.
    pub(crate) fn superseded(&self) -> impl Future<Output = ()> + use<> {
        let mut leaders = self.facts.superseded.subscribe();
        // The sender lives for as long as this learner.
        let learner = self.clone();
        async move {
            let _ = leaders.changed().await;
            drop(learner);
        }
    }

    /// It said that it does not serve streams.
    pub(crate) fn has_no_streams(&self) {
        self.facts.lacks_streams.store(true, Ordering::Relaxed);
    }
}

impl Peer {
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Waits until the connection stands. All callers share one dial, and its failure.
    pub(crate) async fn channel(&self) -> Result<Channel, DialError> {
        self.channel.clone().await
    }

    /// The connection, if it stands already.
    pub(crate) fn channel_now(&self) -> Option<&Channel> {
        self.channel.peek()?.as_ref().ok()
    }

    pub(crate) fn learner(&self) -> &Learner {
        &self.learner
    }

    /// Whether the server honours request ids, if its answers have told.
    pub(crate) fn honours_request_ids(&self) -> Option<bool> {
        let facts = &self.learner.facts;
        if facts.honours_request_ids.load(Ordering::Relaxed) {
            return Some(true);
        }
        facts.ignores_request_ids.load(Ordering::Relaxed).then_some(false)
    }

    /// A successful answer lacked the header. Not a failure: that may come from a proxy.
    pub(crate) fn set_ignores_request_ids(&self) {
        self.learner.facts.ignores_request_ids.store(true, Ordering::Relaxed);
    }

    /// Whether the server may serve streams: as long as it has not said otherwise.
    pub(crate) fn may_have_streams(&self) -> bool {
        !self.learner.facts.lacks_streams.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why no connection came about. Nothing was sent, for certain.
#[derive(Clone, Debug)]
pub(crate) struct DialError(Arc<str>);

impl DialError {
    fn new(cause: impl Into<Arc<str>>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for DialError {}

/// Makes connections, all in one way.
#[derive(Debug)]
pub(crate) struct Dialer {
    tls: Option<TlsOptions>,
    timeout: Duration,
}

impl Dialer {
    pub(crate) fn new(tls: Option<TlsOptions>, timeout: Duration) -> Self {
        Self { tls, timeout }
    }

    pub(crate) fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Tls } else { Scheme::Plaintext }
    }

    /// What to dial, with everything checked that can be without dialling.
    pub(crate) fn endpoint(&self, address: &Address) -> Result<Endpoint, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("{}://{address}", self.scheme().as_str()))?
            .tcp_nodelay(true)
            .connect_timeout(self.timeout)
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .keep_alive_timeout(PROBE_TIMEOUT)
            .keep_alive_while_idle(true);
        match &self.tls {
            None => Ok(endpoint),
            Some(tls) => endpoint.tls_config(tls.to_tonic(self.timeout)),
        }
    }

    /// Dials in a task of its own: a caller that gives up leaves the connection to the next one.
    fn dial(&self, address: &Address, learner: Learner, queues: Arc<timestamps::Queues>) -> Peer {
        let endpoint = self.endpoint(address);
        let timeout = self.timeout;
        let dial = async move {
            let endpoint = endpoint.map_err(|error| DialError::new(on_one_line(&error)))?;
            match tokio::time::timeout(timeout, endpoint.connect()).await {
                Ok(Ok(channel)) => Ok(channel),
                Ok(Err(error)) => Err(DialError::new(on_one_line(&error))),
                Err(_) => Err(DialError::new(format!("no connection within {timeout:?}"))),
            }
        };
        let task = tokio::spawn(dial);
        let channel = async move {
            task.await.unwrap_or_else(|_| Err(DialError::new("the runtime is shutting down")))
        };
        Peer {
            address: address.clone(),
            channel: channel.boxed().shared(),
            learner,
            timestamps: timestamps::Lane::new(queues),
            sequences: sequences::Lane::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text, Scheme::Plaintext).unwrap()
    }

    fn pool(configured: &[Address]) -> Arc<Pool> {
        Pool::new(Dialer::new(None, Duration::from_secs(1)), configured)
    }

    #[tokio::test]
    async fn hinted_addresses_make_room_for_each_other_only() {
        let pool = pool(&[address("127.0.0.1:1"), address("127.0.0.1:2")]);
        let configured = pool.peer(&address("127.0.0.1:1"));
        for host in 1..100 {
            pool.peer(&address(&format!("127.0.1.{host}:1")));
            pool.peer(&address("127.0.1.1:1"));
            assert!(pool.lock().by_address.len() <= 1 + MAX_HINTED);
        }
        let peers = pool.lock();
        assert!(peers.by_address.contains_key(&address("127.0.1.1:1")), "used all the time");
        assert!(!peers.by_address.contains_key(&address("127.0.1.2:1")), "used long ago");
        drop(peers);
        assert!(Arc::ptr_eq(&configured, &pool.peer(&address("127.0.0.1:1"))));
    }

    #[tokio::test]
    async fn only_the_connection_that_failed_is_evicted() {
        let address = address("127.0.0.1:1");
        let pool = pool(std::slice::from_ref(&address));
        let first = pool.peer(&address);
        pool.evict(&first);
        let second = pool.peer(&address);
        assert!(!Arc::ptr_eq(&first, &second));
        pool.evict(&first);
        assert!(Arc::ptr_eq(&second, &pool.peer(&address)));
    }

    #[tokio::test]
    async fn a_refused_connection_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = address(&listener.local_addr().unwrap().to_string());
        drop(listener);
        let error = pool(&[]).peer(&closed).channel().await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
