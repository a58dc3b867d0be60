use std::sync::{Mutex, MutexGuard, PoisonError};

use tsoracle_types::Epoch;

use tsoracle_proto::Address;

/// The peer that served last, and the highest epoch that any peer served in.
///
/// Only an answer changes it, never a hint, and never to a lower epoch: a node that fell behind can
/// misdirect a call once, but cannot make others follow it.
#[derive(Debug, Default)]
pub(crate) struct Leader {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    address: Option<Address>,
    epoch: Epoch,
}

impl Leader {
    /// The address to ask first.
    pub(crate) fn address(&self) -> Option<Address> {
        self.lock().address.clone()
    }

    /// `address` served in `epoch`. Whether no peer did in a higher one.
    pub(crate) fn served(&self, address: &Address, epoch: Epoch) -> bool {
        let mut state = self.lock();
        if epoch < state.epoch {
            return false;
        }
        state.epoch = epoch;
        if state.address.as_ref() != Some(address) {
            state.address = Some(address.clone());
        }
        true
    }

    /// `address` did not serve: it is not asked first any more.
    pub(crate) fn failed(&self, address: &Address) {
        let mut state = self.lock();
        if state.address.as_ref() == Some(address) {
            state.address = None;
        }
    }

    /// Whether a hint that names a leader of `epoch` may be followed. One that names no epoch may:
    /// it is only tried, and is believed once it serves.
    pub(crate) fn admits(&self, epoch: Option<Epoch>) -> bool {
        epoch.is_none_or(|epoch| epoch >= self.lock().epoch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every write is complete in itself, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Scheme;

    fn address(text: &str) -> Address {
        Address::parse(text, Scheme::Plaintext).unwrap()
    }

    #[test]
    fn it_moves_forward_only() {
        let leader = Leader::default();
        leader.served(&address("a:1"), Epoch(5));
        leader.served(&address("b:1"), Epoch(4));
        assert_eq!(leader.address(), Some(address("a:1")));
        leader.served(&address("b:1"), Epoch(6));
        assert_eq!(leader.address(), Some(address("b:1")));
    }

    #[test]
    fn hints_below_an_epoch_that_served_are_not_admitted() {
        let leader = Leader::default();
        assert!(leader.admits(Some(Epoch(0))));
        leader.served(&address("a:1"), Epoch(5));
        leader.failed(&address("a:1"));
        assert!(!leader.admits(Some(Epoch(4))));
        assert!(leader.admits(Some(Epoch(5))));
        assert!(leader.admits(None));
    }

    #[test]
    fn only_the_leader_itself_can_lose_its_place() {
        let leader = Leader::default();
        leader.served(&address("a:1"), Epoch(5));
        leader.failed(&address("b:1"));
        assert_eq!(leader.address(), Some(address("a:1")));
        leader.failed(&address("a:1"));
        assert_eq!(leader.address(), None);
    }
}
