use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::dialer::{Connection, Dialer};
use super::leader::Leader;
use super::state::{Connections, PeerState};
use tsoracle_proto::{Address, Scheme};

/// The most connections to addresses that came from hints. A cluster has one leader; the rest is
/// room for changes of leadership, and what exceeds it was an address that is not needed any more.
const MAX_HINTED: usize = 8;

/// The peers of a client, one per address, dialled on first use. Each has an `S` of its own, for what
/// the layers above keep with a connection.
pub(crate) struct Pool<S> {
    dialer: Dialer,
    /// Never evicted to make room.
    configured: Vec<Address>,
    leader: Arc<Leader>,
    new_streams: Box<dyn Fn() -> S + Send + Sync>,
    peers: Mutex<Peers<S>>,
    /// This pool, for the states of its peers.
    connections: Weak<dyn Connections>,
}

struct Peers<S> {
    by_address: HashMap<Address, Entry<S>>,
    /// Counts uses, to find the one that was used least recently.
    uses: u64,
}

struct Entry<S> {
    peer: Arc<Peer<S>>,
    last_use: u64,
}

/// One address, the connection to it, and what is kept with it.
pub(crate) struct Peer<S> {
    pub(crate) connection: Connection,
    pub(crate) state: Arc<PeerState>,
    pub(crate) streams: S,
}

impl<S> Peer<S> {
    pub(crate) fn address(&self) -> &Address {
        self.state.address()
    }
}

impl<S: Send + Sync + 'static> Pool<S> {
    pub(crate) fn new(
        dialer: Dialer,
        configured: &[Address],
        new_streams: impl Fn() -> S + Send + Sync + 'static,
    ) -> Arc<Self> {
        let configured = configured.to_vec();
        Arc::new_cyclic(|pool: &Weak<Self>| Self {
            dialer,
            configured,
            leader: Arc::default(),
            new_streams: Box::new(new_streams),
            peers: Mutex::new(Peers { by_address: HashMap::new(), uses: 0 }),
            connections: pool.clone(),
        })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.dialer.scheme()
    }

    pub(crate) fn may_prove_more(&self) -> bool {
        self.dialer.may_prove_more()
    }

    pub(crate) fn leader(&self) -> &Arc<Leader> {
        &self.leader
    }

    /// The peer at `address`; connecting to it has begun. Must be called within a runtime.
    pub(crate) fn peer(&self, address: &Address) -> Arc<Peer<S>> {
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
        let (leader, connections) = (self.leader.clone(), self.connections.clone());
        let peer = Arc::new(Peer {
            connection: self.dialer.dial(address),
            state: Arc::new(PeerState::new(address.clone(), leader, connections)),
            streams: (self.new_streams)(),
        });
        let entry = Entry { peer: peer.clone(), last_use: now };
        peers.by_address.insert(address.clone(), entry);
        peer
    }

    /// Forgets a connection that failed, so that the next use dials again and resolves the name
    /// again. Calls that still wait on it are not disturbed.
    pub(crate) fn evict(&self, peer: &Arc<Peer<S>>) {
        let mut peers = self.lock();
        let current = peers.by_address.get(peer.address());
        if current.is_some_and(|entry| Arc::ptr_eq(&entry.peer, peer)) {
            peers.by_address.remove(peer.address());
        }
    }

    fn make_room(&self, peers: &mut Peers<S>) {
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

    fn lock(&self) -> MutexGuard<'_, Peers<S>> {
        // The map is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Send + Sync + 'static> Connections for Pool<S> {
    fn others(&self, address: &Address) -> Vec<Connection> {
        let others = self.configured.iter().filter(|&other| other != address);
        others.map(|other| self.peer(other).connection.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text, Scheme::Plaintext).unwrap()
    }

    fn pool(configured: &[Address]) -> Arc<Pool<()>> {
        Pool::new(Dialer::new(None, None, Duration::from_secs(1)), configured, || ())
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
        let error = pool(&[]).peer(&closed).connection.channel().await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
