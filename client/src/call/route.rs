use std::sync::atomic::{AtomicUsize, Ordering};

use crate::peers::{Address, Leader};

/// The most addresses beyond the configured ones that one round tries. Nodes that point at each
/// other, or at always other addresses, must not keep a call from pausing.
const MAX_HINTS_A_ROUND: usize = 4;

/// The configured endpoints, and the one at which calls without a known leader start.
pub(super) struct Endpoints {
    addresses: Vec<Address>,
    start: AtomicUsize,
}

impl Endpoints {
    pub(super) fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, start: AtomicUsize::new(0) }
    }

    pub(super) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Lets later calls start at another endpoint, so that one that does not answer does not cost each of them a
    /// timeout.
    pub(super) fn avoid(&self, address: &Address) {
        let len = self.addresses.len();
        let start = self.start.load(Ordering::Relaxed);
        if self.addresses[start % len] == *address {
            // Losing the race to another call that avoids the same endpoint is as good.
            let _ = self.start.compare_exchange(
                start,
                (start + 1) % len,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

/// The addresses that one call asks: the leader if it is known, then those that come from hints, then the
/// configured endpoints in turn. No address twice before a pause.
pub(super) struct Route<'a> {
    endpoints: &'a Endpoints,
    leader: &'a Leader,
    /// Asked before the configured endpoints.
    preferred: Option<Address>,
    tried: Vec<Address>,
    hints: usize,
    /// Position among the endpoints. It carries on over pauses.
    position: usize,
}

impl<'a> Route<'a> {
    pub(super) fn new(endpoints: &'a Endpoints, leader: &'a Leader) -> Self {
        Self {
            endpoints,
            leader,
            preferred: leader.address(),
            tried: Vec::new(),
            hints: 0,
            position: endpoints.start.load(Ordering::Relaxed),
        }
    }

    /// The next address, or nothing once all have been tried: time to pause, then
    /// [`start_round`](Self::start_round).
    pub(super) fn next(&mut self) -> Option<Address> {
        let tried = &self.tried;
        let preferred = self.preferred.take_if(|address| !tried.contains(address));
        let address = preferred.or_else(|| self.next_endpoint())?;
        self.tried.push(address.clone());
        Some(address)
    }

    /// Notes that this address was asked already.
    pub(super) fn was_asked(&mut self, address: &Address) {
        self.tried.push(address.clone());
    }

    /// A node answered that `address` leads. It is asked next, unless it was asked already: then it is
    /// asked first after the pause.
    pub(super) fn hint(&mut self, address: Address) {
        if self.hints < MAX_HINTS_A_ROUND || self.tried.contains(&address) {
            self.hints += 1;
            self.preferred = Some(address);
        }
    }

    /// All addresses may be asked again.
    pub(super) fn start_round(&mut self) {
        self.tried.clear();
        self.hints = 0;
        if let Some(leader) = self.leader.address() {
            self.preferred = Some(leader);
        }
    }

    fn next_endpoint(&mut self) -> Option<Address> {
        let all = &self.endpoints.addresses;
        for _ in 0..all.len() {
            let address = &all[self.position % all.len()];
            self.position = (self.position + 1) % all.len();
            if !self.tried.contains(address) {
                return Some(address.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tsoracle_types::Epoch;

    use super::*;
    use crate::peers::Scheme;

    fn address(text: &str) -> Address {
        Address::parse(text, Scheme::Plaintext).unwrap()
    }

    fn endpoints(texts: &[&str]) -> Endpoints {
        Endpoints::new(texts.iter().map(|text| address(text)).collect())
    }

    fn rest_of_round(route: &mut Route<'_>) -> Vec<String> {
        std::iter::from_fn(|| route.next()).map(|address| address.to_string()).collect()
    }

    #[test]
    fn everyone_is_asked_once_a_round_the_leader_first() {
        let (endpoints, leader) = (endpoints(&["a:1", "b:1", "c:1"]), Leader::default());
        leader.served(&address("b:1"), Epoch(1));
        let mut route = Route::new(&endpoints, &leader);
        assert_eq!(rest_of_round(&mut route), ["b:1", "a:1", "c:1"]);
        leader.failed(&address("b:1"));
        route.start_round();
        assert_eq!(rest_of_round(&mut route), ["a:1", "b:1", "c:1"]);
    }

    #[test]
    fn a_hint_comes_next_and_one_to_an_asked_address_after_the_pause() {
        let (endpoints, leader) = (endpoints(&["a:1", "b:1"]), Leader::default());
        let mut route = Route::new(&endpoints, &leader);
        assert_eq!(route.next(), Some(address("a:1")));
        route.hint(address("x:1"));
        assert_eq!(route.next(), Some(address("x:1")));
        route.hint(address("a:1"));
        assert_eq!(rest_of_round(&mut route), ["b:1"]);
        route.start_round();
        assert_eq!(rest_of_round(&mut route), ["a:1", "b:1"]);
    }

    #[test]
    fn hints_to_ever_new_addresses_end_in_a_pause() {
        let (endpoints, leader) = (endpoints(&["a:1"]), Leader::default());
        let mut route = Route::new(&endpoints, &leader);
        let mut asked = 0;
        while route.next().is_some() {
            asked += 1;
            route.hint(address(&format!("x{asked}:1")));
        }
        assert_eq!(asked, 1 + MAX_HINTS_A_ROUND);
    }

    #[test]
    fn a_silent_endpoint_is_not_where_later_calls_start() {
        let (endpoints, leader) = (endpoints(&["a:1", "b:1"]), Leader::default());
        endpoints.avoid(&address("b:1"));
        assert_eq!(Route::new(&endpoints, &leader).next(), Some(address("a:1")));
        endpoints.avoid(&address("a:1"));
        assert_eq!(Route::new(&endpoints, &leader).next(), Some(address("b:1")));
    }
}
