//! Callers on several threads, and in several runtimes, that share a client.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tsoracle_client::Client;

use crate::client;
use crate::node::Node;

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

/// Runs that many callers at once.
async fn together<F: Future<Output = ()> + Send + 'static>(callers: impl Iterator<Item = F>) {
    let callers: Vec<_> = callers.map(tokio::spawn).collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

/// A node, with a runtime that it lives in.
fn serving() -> (Runtime, Node) {
    let serving = runtime(1);
    let node = serving.block_on(Node::serving());
    (serving, node)
}

/// What all callers have got so far.
#[derive(Default)]
struct Got {
    latest: AtomicU64,
    all: Mutex<BTreeSet<u64>>,
}

impl Got {
    /// Gets a timestamp, which must be greater than any that was there before, and no other caller's. If
    /// `gives_up`, the caller does so at once, which must not disturb others.
    async fn next(&self, client: &Client, gives_up: bool) {
        if gives_up {
            let _ = tokio::time::timeout(Duration::ZERO, client.get_ts()).await;
            return;
        }
        let before = self.latest.load(Ordering::SeqCst);
        let got = client.get_ts().await.unwrap().as_u64();
        assert!(got > before, "{got} was granted before it was asked for");
        self.latest.fetch_max(got, Ordering::SeqCst);
        assert!(self.all.lock().unwrap().insert(got), "{got} was given out twice");
    }
}

#[test]
fn callers_of_many_runtimes_share_a_stream() {
    let (_serving, node) = serving();
    let client = client([node.address()]);
    let got = std::sync::Arc::new(Got::default());
    thread::scope(|scope| {
        for threads in [1, 1, 2, 3] {
            let (client, got) = (&client, &got);
            scope.spawn(move || {
                let callers = (0..32_usize).map(|caller| {
                    let (client, got) = (client.clone(), got.clone());
                    async move {
                        for call in 0..200 {
                            got.next(&client, (caller + call) % 5 == 0).await;
                        }
                    }
                });
                runtime(threads).block_on(together(callers));
            });
        }
    });
    assert_eq!(got.all.lock().unwrap().len(), 4 * 32 * 160);
    assert!(node.seen().timestamps < 4 * 32 * 200 / 2, "they share batches");
}

#[test]
fn a_runtime_that_ends_takes_no_caller_of_another_one_along() {
    let (_serving, node) = serving();
    let client = client([node.address()]);
    let (first, second) = (runtime(1), runtime(1));
    // The connection and its streams live where they were needed first.
    first.block_on(async {
        client.get_ts().await.unwrap();
        client.get_seq("orders", 1).await.unwrap();
    });
    let calls = {
        let client = client.clone();
        second.spawn(async move {
            let mut last = client.get_ts().await.unwrap();
            let mut starts = vec![];
            for _ in 0..500 {
                let next = client.get_ts().await.unwrap();
                assert!(next > last);
                last = next;
                starts.push(client.get_seq("orders", 1).await.unwrap().start);
            }
            starts
        })
    };
    first.shutdown_background();
    let starts = second.block_on(calls).unwrap();
    assert!(starts.iter().copied().eq(1..=500), "exactly once, whatever became of the streams");
}

#[test]
fn sequences_of_many_runtimes_have_no_gap() {
    let (_serving, node) = serving();
    let client = client([node.address()]);
    let starts = Mutex::new(BTreeSet::new());
    let starts = std::sync::Arc::new(starts);
    thread::scope(|scope| {
        for threads in [1, 2] {
            let (client, starts) = (&client, &starts);
            scope.spawn(move || {
                let callers = (0..32).map(|_| {
                    let (client, starts) = (client.clone(), starts.clone());
                    async move {
                        for _ in 0..50 {
                            let start = client.get_seq("orders", 2).await.unwrap().start;
                            assert!(starts.lock().unwrap().insert(start));
                        }
                    }
                });
                runtime(threads).block_on(together(callers));
            });
        }
    });
    assert!(starts.lock().unwrap().iter().copied().eq((0..3_200).map(|n| 2 * n)));
    assert!(node.seen().in_runs > 0);
}
