use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use tokio::task::AbortHandle;

use super::lock;

/// Connections of one node, at most: it has one, and may have made another before the last one has ended.
const OF_ONE_NODE: usize = 4;

/// Connections of all nodes, at most.
const OF_ALL_NODES: usize = 512;

/// Those who are connected, and how many may be.
///
/// A new one always finds a place. So strangers that take all places, and stay silent, push each other out, while a
/// node, which says at once who it is, does not wait for them.
pub(super) struct Callers {
    /// Those that have not begun a session, at most: in all, and from one address.
    strangers: usize,
    of_one_address: usize,
    entered: Mutex<Entered>,
}

#[derive(Default)]
struct Entered {
    count: u64,
    /// By age.
    all: BTreeMap<u64, Entry>,
}

/// What is known of a caller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    Stranger,
    /// It has a certificate, or knows the secret.
    Proven,
    /// It has begun a session as that node.
    Node(u32),
}

struct Entry {
    address: IpAddr,
    is: Is,
    /// Ends the connection.
    end: Option<AbortHandle>,
}

/// A place, for as long as it lives.
pub(super) struct Place {
    callers: Arc<Callers>,
    pub(super) number: u64,
    /// From where the connection was that has ended for it.
    pub(super) in_place_of: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.callers.entered).all.remove(&self.number);
    }
}

impl Callers {
    pub(super) fn new(strangers: usize, of_one_address: usize) -> Self {
        Self { strangers, of_one_address, entered: Mutex::default() }
    }

    /// Gives a place to a connection from that address. If there are too many, the oldest one ends.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let mut entered = lock(&self.entered);
        entered.count += 1;
        let number = entered.count;
        let entry = Entry { address: address.to_canonical(), is: Is::Stranger, end: None };
        entered.all.insert(number, entry);
        let stranger = |entry: &Entry| entry.is == Is::Stranger;
        let near = |entry: &Entry| stranger(entry) && entry.address == address.to_canonical();
        let ended = entered.bound(self.of_one_address, &near);
        let in_place_of = entered.bound(self.strangers, &stranger).or(ended);
        Place { callers: self.clone(), number, in_place_of }
    }

    /// How to end that connection.
    pub(super) fn is_served(&self, number: u64, end: AbortHandle) {
        if let Some(entry) = lock(&self.entered).all.get_mut(&number) {
            entry.end = Some(end);
        }
    }

    /// That connection has proven who it is. Strangers do not take its place.
    pub(super) fn prove(&self, number: u64) {
        let mut entered = lock(&self.entered);
        entered.set(number, Is::Proven);
        entered.bound(self.strangers, &|entry: &Entry| entry.is == Is::Proven);
    }

    /// That connection is a node's, which has begun a session.
    pub(super) fn admit(&self, number: u64, node: u32) {
        let mut entered = lock(&self.entered);
        entered.set(number, Is::Node(node));
        entered.bound(OF_ONE_NODE, &|entry: &Entry| entry.is == Is::Node(node));
        entered.bound(OF_ALL_NODES, &|entry: &Entry| matches!(entry.is, Is::Node(_)));
    }

    pub(super) fn is_admitted(&self, number: u64) -> bool {
        let entered = lock(&self.entered);
        entered.all.get(&number).is_some_and(|entry| matches!(entry.is, Is::Node(_)))
    }
}

impl Entered {
    fn set(&mut self, number: u64, is: Is) {
        if let Some(entry) = self.all.get_mut(&number) {
            entry.is = is;
        }
    }

    /// Ends the oldest one of a kind, if there are more than `most` of it. From where that was.
    fn bound(&mut self, most: usize, kind: &dyn Fn(&Entry) -> bool) -> Option<IpAddr> {
        let mut of_kind =
            self.all.iter().filter(|(_, entry)| kind(entry)).map(|(number, _)| *number);
        let oldest = of_kind.next();
        if of_kind.count() < most {
            return None;
        }
        let ended = oldest.and_then(|oldest| self.all.remove(&oldest))?;
        if let Some(end) = ended.end {
            end.abort();
        }
        Some(ended.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(callers: &Callers) -> Vec<u64> {
        lock(&callers.entered).all.keys().copied().collect()
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_new_caller_finds_a_place_and_the_oldest_stranger_loses_its_own() {
        let callers = Arc::new(Callers::new(4, 2));
        let mut places: Vec<_> = (0..3).map(|_| callers.enter(address(1))).collect();
        assert_eq!(there(&callers), [2, 3]);
        let in_place_of: Vec<_> = places.iter().map(|place| place.in_place_of).collect();
        assert_eq!(in_place_of, [None, None, Some(address(1))]);
        // From elsewhere, also as it is written in another way.
        places.push(callers.enter(address(2)));
        places.push(callers.enter("::ffff:10.0.0.2".parse().unwrap()));
        assert_eq!(there(&callers), [2, 3, 4, 5]);
        places.push(callers.enter(address(2)));
        assert_eq!(there(&callers), [2, 3, 5, 6]);
        places.push(callers.enter(address(3)));
        assert_eq!(there(&callers), [3, 5, 6, 7]);
        // A node is none of them, nor is one that has proven that it may be one.
        callers.admit(3, 9);
        callers.prove(5);
        places.push(callers.enter(address(1)));
        places.push(callers.enter(address(4)));
        places.push(callers.enter(address(5)));
        assert_eq!(there(&callers), [3, 5, 7, 8, 9, 10]);
        assert!(callers.is_admitted(3) && !callers.is_admitted(5));
        drop(places);
        assert!(there(&callers).is_empty());
    }

    #[tokio::test]
    async fn a_node_has_few_connections_and_the_oldest_one_ends() {
        let callers = Arc::new(Callers::new(100, 100));
        let mut served = vec![];
        for number in 1..=6 {
            let place = callers.enter(address(1));
            let task = tokio::spawn(async move {
                let _place = place;
                std::future::pending::<()>().await;
            });
            callers.is_served(number, task.abort_handle());
            callers.admit(number, 9);
            served.push(task);
        }
        assert_eq!(there(&callers), [3, 4, 5, 6]);
        for task in served.drain(..2) {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert!(served.iter().all(|task| !task.is_finished()));
        served.iter().for_each(|task| task.abort());
    }
}
