//! Backups that are taken while 64 clients work and leaders are killed; and what is restored from one.

use std::{
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinSet};
use tsoracle_client::{Client, ErrorKind};
use tsoracle_core::{BootTime, Clock as _, SystemClock};
use tsoracle_history::{Ask, Block, Blocks, Call, Next, Operation, Outcome, Timestamps, check};

use crate::node::{Node, later, openraft_nodes, run, stdout, tsoracle, until};

const CLIENTS: usize = 64;
const KEYS: usize = 8;

/// How long a call may take: an election is among them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that was called, on one clock.
struct Load {
    client: Client,
    began: BootTime,
    ends: AtomicBool,
    calls: Mutex<Vec<Operation>>,
}

impl Load {
    fn new(endpoints: impl IntoIterator<Item = String>, began: BootTime) -> Arc<Self> {
        let builder = Client::builder().endpoints(endpoints).timeout(PATIENCE);
        let client = builder.build().unwrap();
        Arc::new(Self { client, began, ends: AtomicBool::new(false), calls: Mutex::default() })
    }

    fn now(&self) -> u64 {
        SystemClock.now().boot.since(self.began).as_nanos() as u64
    }

    fn note(&self, caller: usize, start_ns: u64, call: Call) {
        let operation =
            Operation { caller: caller.to_string().into(), start_ns, end_ns: self.now(), call };
        self.calls.lock().unwrap().push(operation);
    }

    async fn work(self: Arc<Self>, caller: usize) {
        let key = format!("key-{}", caller % KEYS);
        while !self.ends.load(Ordering::Relaxed) {
            let start = self.now();
            let outcome = match self.client.get_ts().await {
                Ok(timestamp) => Outcome::Answered(Timestamps {
                    physical_ms: timestamp.physical_ms(),
                    logical: timestamp.logical(),
                    count: 1,
                    epoch: None,
                }),
                Err(error) => failed(&error),
            };
            self.note(caller, start, Call::GetTs { count: 1, outcome });
            let start = self.now();
            let outcome = match self.client.get_seq(&key, 1).await {
                Ok(block) => {
                    let block = Block { key: key.as_str().into(), start: block.start, count: 1 };
                    Outcome::Answered(Blocks { blocks: vec![block], epoch: None })
                }
                Err(error) => failed(&error),
            };
            let ask = vec![Ask { key: key.as_str().into(), count: 1 }];
            self.note(caller, start, Call::GetSeq { ask, request_id: None, outcome });
        }
    }

    /// Where the keys begin.
    async fn look(&self) {
        for index in 0..KEYS {
            let (key, start) = (format!("key-{index}"), self.now());
            let next = self.client.read_seq(&key).await.unwrap();
            let outcome = Outcome::Answered(Next { next, epoch: None });
            self.note(0, start, Call::ReadSeq { key: key.into(), outcome });
        }
    }

    /// The highest value of each key that a call has got which was answered before.
    fn granted(&self, key: &str, before_ns: u64) -> Option<u64> {
        let calls = self.calls.lock().unwrap();
        let answered = calls.iter().filter(|call| call.end_ns < before_ns);
        let starts = answered.filter_map(|call| match &call.call {
            Call::GetSeq { outcome: Outcome::Answered(answer), .. } => {
                answer.blocks.iter().find(|block| *block.key == *key).map(|block| block.start)
            }
            _ => None,
        });
        starts.max()
    }

    fn last_timestamp(&self) -> (u64, u32) {
        let calls = self.calls.lock().unwrap();
        let granted = calls.iter().filter_map(|call| match &call.call {
            Call::GetTs { outcome: Outcome::Answered(answer), .. } => {
                Some((answer.physical_ms, answer.logical))
            }
            _ => None,
        });
        granted.max().expect("some were granted")
    }

    /// That all which callers saw keeps what is promised.
    fn check(&self) -> usize {
        let calls = self.calls.lock().unwrap();
        let report = check(&calls);
        let broken: Vec<_> = report.checks.iter().filter(|check| !check.held()).collect();
        assert!(broken.is_empty(), "{broken:?}");
        calls.len()
    }
}

fn failed<T>(error: &tsoracle_client::Error) -> Outcome<T> {
    match error.kind() {
        ErrorKind::Uncertain | ErrorKind::Timeout | ErrorKind::Unavailable => {
            Outcome::Uncertain(error.to_string().into())
        }
        _ => Outcome::Refused(error.to_string().into()),
    }
}

fn start(load: &Arc<Load>, runtime: &Runtime) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for caller in 0..CLIENTS {
        clients.spawn_on(load.clone().work(caller), runtime.handle());
    }
    clients
}

fn end(load: &Load, clients: JoinSet<()>, runtime: &Runtime) {
    load.ends.store(true, Ordering::Relaxed);
    runtime.block_on(clients.join_all());
}

/// Many sequences with long names, so that a copy takes a while.
fn fill(load: &Load, runtime: &Runtime) {
    runtime.block_on(async {
        for batch in 0..150 {
            let key = |index| (format!("{batch}-{index}-{}", "x".repeat(100)), 1);
            let keys: Vec<(String, u32)> = (0..128).map(key).collect();
            load.client.get_seq_batch(&keys).await.unwrap();
        }
    });
}

/// Which node leads.
fn leader(nodes: &[Option<Node>]) -> usize {
    let leads = |node: &Option<Node>| {
        node.as_ref().is_some_and(|node| {
            let said = node.ask(&["status", "--timeout", "2s"]);
            String::from_utf8_lossy(&said.stdout).contains("leading")
        })
    };
    let mut found = None;
    until("a node leads", || {
        found = nodes.iter().position(leads);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_backup_under_load_survives_the_leader() {
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    let runtime = Runtime::new().unwrap();
    // Each notes its line, so that it can be started again.
    let note = |id: usize, command: &mut std::process::Command| {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        fs::write(here.join(format!("line-{id}")), words.join("\n")).unwrap();
    };
    let nodes = openraft_nodes(here, str::to_owned, note);
    let endpoints: Vec<_> = nodes.iter().map(|node| node.address.clone()).collect();
    let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
    let began = SystemClock.now().boot;
    let load = Load::new(endpoints.clone(), began);
    fill(&load, &runtime);
    let clients = start(&load, &runtime);
    let mut taken = vec![];
    for round in 0..3_u64 {
        let victim = leader(&nodes);
        let (name, asked) = (format!("copy-{round}"), load.now());
        let all = endpoints.join(",");
        let mut backup = tsoracle(here, &["backup", &name, "--endpoint", &all]);
        let backup = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let part = here.join(format!("{name}.part"));
        until("a backup begins", || part.exists() || here.join(&name).exists());
        // Early, in the midst, and late.
        later(Duration::from_millis(round * 40));
        // A kill waits for nothing.
        nodes[victim].as_ref().unwrap().signal(Signal::KILL);
        nodes[victim] = None;
        let done = backup.wait_with_output().unwrap();
        match done.status.success() {
            true => taken.push((name, asked)),
            false => {
                let said = String::from_utf8(done.stderr).unwrap();
                assert!(said.contains("run it again") && said.lines().count() == 1, "{said}");
                assert!(!here.join(&name).exists() && !part.exists());
            }
        }
        nodes[victim] = Some(again(here, &endpoints, victim));
    }
    end(&load, clients, &runtime);
    assert!(load.check() > 1_000, "there was a load");
    // It succeeds by beginning again.
    let (copy, asked) = taken.last().expect("a backup succeeded");
    stdout(&run(here, &["backup", "verify", copy]));
    drop(nodes);
    stdout(&run(here, &["restore", copy, "file:./restored", "--accept-sequence-loss"]));
    let node = Node::start(here, &["file:./restored"]);
    for index in 0..KEYS {
        // Whatever was answered before the backup was asked for is in it.
        let key = format!("key-{index}");
        let next: u64 = stdout(&node.ask(&["seq-read", &key])).parse().unwrap();
        let granted = load.granted(&key, *asked).expect("it was used");
        let ever = load.granted(&key, u64::MAX).expect("it was used");
        assert!(granted < next && next <= ever + 1 + CLIENTS as u64, "{granted} {next} {ever}");
    }
    let after = Load::new([node.address.clone()], began);
    runtime.block_on(after.look());
    let clients = start(&after, &runtime);
    until("there is a load", || after.calls.lock().unwrap().len() > 2_000);
    end(&after, clients, &runtime);
    after.check();
    let calls = after.calls.lock().unwrap();
    let first = calls.iter().filter_map(|call| match &call.call {
        Call::GetTs { outcome: Outcome::Answered(answer), .. } => {
            Some((answer.physical_ms, answer.logical))
        }
        _ => None,
    });
    assert!(first.min().unwrap() > load.last_timestamp(), "time does not go back");
}

/// Starts the node of that index again, with what it was started with.
fn again(directory: &Path, endpoints: &[String], index: usize) -> Node {
    let line = fs::read_to_string(directory.join(format!("line-{}", index + 1))).unwrap();
    let words: Vec<_> = line.lines().collect();
    let node = Node::spawn(tsoracle(directory, &words));
    assert_eq!(node.address, endpoints[index]);
    node
}
