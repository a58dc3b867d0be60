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

struct Entry {
    address: IpAddr,
    /// Which node it is, once it has begun a session.
    node: Option<u32>,
    /// Ends the connection.
    end: Option<AbortHandle>,
}

/// A place, for as long as it lives.
pub(super) struct Place {
    callers: Arc<Callers>,
    pub(super) number: u64,
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
        let entry = Entry { address: address.to_canonical(), node: None, end: None };
        entered.all.insert(number, entry);
        let stranger = |entry: &Entry| entry.node.is_none();
        let near = |entry: &Entry| stranger(entry) && entry.address == address.to_canonical();
        entered.bound(self.of_one_address, &near);
        entered.bound(self.strangers, &stranger);
        Place { callers: self.clone(), number }
    }

    /// How to end that connection.
    pub(super) fn is_served(&self, number: u64, end: AbortHandle) {
        if let Some(entry) = lock(&self.entered).all.get_mut(&number) {
            entry.end = Some(end);
        }
    }

    /// That connection is a node's, which has begun a session.
    pub(super) fn admit(&self, number: u64, node: u32) {
        let mut entered = lock(&self.entered);
        if let Some(entry) = entered.all.get_mut(&number) {
            entry.node = Some(node);
        }
        entered.bound(OF_ONE_NODE, &|entry: &Entry| entry.node == Some(node));
        entered.bound(OF_ALL_NODES, &|entry: &Entry| entry.node.is_some());
    }

    pub(super) fn is_admitted(&self, number: u64) -> bool {
        lock(&self.entered).all.get(&number).is_some_and(|entry| entry.node.is_some())
    }
}

impl Entered {
    /// Ends the oldest one of a kind, if there are more than `most` of it.
    fn bound(&mut self, most: usize, kind: &dyn Fn(&Entry) -> bool) {
        let mut of_kind =
            self.all.iter().filter(|(_, entry)| kind(entry)).map(|(number, _)| *number);
        let oldest = of_kind.next();
        if of_kind.count() + 1 > most
            && let Some(ended) = oldest.and_then(|oldest| self.all.remove(&oldest))
            && let Some(end) = ended.end
        {
            end.abort();
        }
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
        // From elsewhere, also as it is written in another way.
        places.push(callers.enter(address(2)));
        places.push(callers.enter("::ffff:10.0.0.2".parse().unwrap()));
        assert_eq!(there(&callers), [2, 3, 4, 5]);
        places.push(callers.enter(address(2)));
        assert_eq!(there(&callers), [2, 3, 5, 6]);
        places.push(callers.enter(address(3)));
        assert_eq!(there(&callers), [3, 5, 6, 7]);
        // A node is none of them.
        callers.admit(3, 9);
        places.push(callers.enter(address(1)));
        assert_eq!(there(&callers), [3, 5, 6, 7, 8]);
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
