use std::sync::atomic::{AtomicUsize, Ordering};

use crate::address::Address;
use crate::leader::Leader;

/// The most addresses beyond the configured ones that one round tries. Nodes that point at each
/// other, or at ever new addresses, must not keep a call from pausing.
const MAX_HINTS_A_ROUND: usize = 4;

/// The configured endpoints, and which of them calls without a known leader start at.
#[derive(Debug)]
pub(crate) struct Endpoints {
    addresses: Vec<Address>,
    start: AtomicUsize,
}

impl Endpoints {
    pub(crate) fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, start: AtomicUsize::new(0) }
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Lets later calls start elsewhere, so that one silent endpoint does not cost each of them a
    /// timeout.
    pub(crate) fn avoid(&self, address: &Address) {
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

/// Whom one call asks next: the leader as far as known, then whoever is hinted at, then the
/// configured endpoints in turn. No address twice before a pause.
#[derive(Debug)]
pub(crate) struct Route<'a> {
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
    pub(crate) fn new(endpoints: &'a Endpoints, leader: &'a Leader) -> Self {
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
    pub(crate) fn next(&mut self) -> Option<Address> {
        let tried = &self.tried;
        let preferred = self.preferred.take_if(|address| !tried.contains(address));
        let address = preferred.or_else(|| self.next_endpoint())?;
        self.tried.push(address.clone());
        Some(address)
    }

    /// This address was asked already.
    pub(crate) fn was_asked(&mut self, address: &Address) {
        self.tried.push(address.clone());
    }

    /// A node said that `address` leads. It is asked next, unless it was asked already: then it is
    /// asked first after the pause.
    pub(crate) fn hint(&mut self, address: Address) {
        if self.hints < MAX_HINTS_A_ROUND || self.tried.contains(&address) {
            self.hints += 1;
            self.preferred = Some(address);
        }
    }

    /// Everyone may be asked again.
    pub(crate) fn start_round(&mut self) {
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
    use crate::address::Scheme;

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
