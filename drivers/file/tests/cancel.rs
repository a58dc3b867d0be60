//! Callers that give up before their request was submitted spend nothing, over a real store whose
//! commits stand still for as long as the test wants.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use tsoracle_core::{
    Effect, Entry, LocalDriver, Oracle, OracleOptions, RequestId, Result, SeqKey, SeqRequest,
    SeqStore,
};
use tsoracle_store::{Options, Store};

/// Lets commits pass, or holds them up.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    shut: bool,
    held_up: bool,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        while state.shut {
            state.held_up = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
        state.held_up = false;
    }

    fn set(&self, shut: bool) {
        self.state.lock().unwrap().shut = shut;
        self.changed.notify_all();
    }

    fn wait_until_held_up(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !state.held_up).unwrap());
    }
}

#[derive(Debug)]
struct Gated(Store, Arc<Gate>);

impl SeqStore for Gated {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        SeqStore::get(&self.0, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        SeqStore::scan(&self.0, from, to, limit)
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        self.1.pass();
        self.0.commit(effect)
    }
}

async fn start(directory: &Path, gate: &Arc<Gate>) -> Oracle {
    let store = Store::open(directory, Options::default()).unwrap();
    let driver = LocalDriver::open(Gated(store, gate.clone())).await.unwrap();
    Oracle::start(driver, OracleOptions::default()).unwrap()
}

fn orders() -> SeqKey {
    SeqKey::new("orders").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_withdrawn_before_it_was_submitted_spends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let oracle = start(directory.path(), &gate).await;
    let ask = |id: Option<RequestId>| {
        let oracle = oracle.clone();
        let request = SeqRequest::new(vec![(orders(), 10)], id).unwrap();
        tokio::spawn(async move { oracle.get_seq(request).await })
    };
    ask(None).await.unwrap().unwrap();
    for round in 0..20 {
        gate.set(true);
        let first = ask(None);
        let waiting = gate.clone();
        tokio::task::spawn_blocking(move || waiting.wait_until_held_up()).await.unwrap();
        // Whatever is asked from here on waits until the commit in flight has ended.
        let id = |turn: u32| RequestId::from_text(&format!("{round} {turn}"));
        let hasty: Vec<_> = (0..50).map(|turn| ask((turn % 2 == 0).then(|| id(turn)))).collect();
        let patient: Vec<_> = (50..60).map(|turn| ask(Some(id(turn)))).collect();
        while oracle.status().waiting < 61 {
            tokio::task::yield_now().await;
        }
        for caller in hasty {
            caller.abort();
            assert!(caller.await.unwrap_err().is_cancelled());
        }
        gate.set(false);
        first.await.unwrap().unwrap();
        for caller in patient {
            caller.await.unwrap().unwrap();
        }
        let next = oracle.read_seq(orders()).await.unwrap();
        assert_eq!(next, Some(10 + 110 * (round + 1)), "round {round}");
    }
    oracle.shutdown().await.unwrap();

    let oracle = start(directory.path(), &gate).await;
    let again = SeqRequest::new(vec![(orders(), 10)], Some(RequestId::from_text("0 0"))).unwrap();
    let block = oracle.get_seq(again).await.unwrap().blocks.remove(0);
    assert_eq!(block.start, 2_210, "a withdrawn request is executed when it is sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_withdrawn_after_it_was_submitted_is_spent_once() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let oracle = start(directory.path(), &gate).await;
    let request =
        || SeqRequest::new(vec![(orders(), 10)], Some(RequestId::from_text("once"))).unwrap();
    oracle.get_ts(1).await.unwrap();
    gate.set(true);
    let asking = tokio::spawn({
        let (oracle, request) = (oracle.clone(), request());
        async move { oracle.get_seq(request).await }
    });
    let waiting = gate.clone();
    tokio::task::spawn_blocking(move || waiting.wait_until_held_up()).await.unwrap();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    gate.set(false);
    let block = oracle.get_seq(request()).await.unwrap().blocks.remove(0);
    assert_eq!(block.range(), 0..10);
    assert_eq!(oracle.read_seq(orders()).await.unwrap(), Some(10));
    oracle.shutdown().await.unwrap();
    let oracle = start(directory.path(), &gate).await;
    let block = oracle.get_seq(request()).await.unwrap().blocks.remove(0);
    assert_eq!(block.range(), 0..10);
}
