//! One node, and messages of another that is damaged, hostile, or of a release to come.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use openraft::{
    CommittedLeaderId, EntryPayload, Membership, RaftMetrics, StoredMembership,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use serde::Serialize;
use tempfile::TempDir;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, Clock, ConsensusDriver as _, Effect, Error, ErrorKind, NodeId, Now, Random, Reads,
    Report, Result, SystemClock, Unreached, VERSION, Version,
};
use tsoracle_replica::{
    Calls, Cluster, ClusterId, Config, Formed, LogEntry, Replica, StoreThread, Tasks,
    leaps::{MAX_LEAP, REACHED, Reached},
    transfer::{self, CHUNK},
    transport::{Connections, Handler, Sender},
};
use tsoracle_store::{Store, Table};

use crate::{
    driver::{OpenraftDriver, Outside, start},
    store,
    types::{Applied, Entry, Id, Meta, Payload, TypeConfig, Vote, encode},
    wire::{APPEND, CAMPAIGN, INSTALL, Install, PRE_VOTE, REMOVED, VOTE, pack, unpack},
};

/// What the test does as the other nodes.
type Answers = dyn Fn(u32, u32) -> Result<Bytes> + Send + Sync;

/// Connections to nodes that the test plays.
struct Played {
    handler: Mutex<Option<Arc<dyn Handler>>>,
    answers: Mutex<Arc<Answers>>,
    failure: watch::Sender<Option<Error>>,
    formed: watch::Sender<Option<Formed>>,
}

impl std::fmt::Debug for Played {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Played")
    }
}

#[async_trait]
impl Connections for Played {
    fn serve(&self, handler: Arc<dyn Handler>) {
        *self.handler.lock().unwrap() = Some(handler);
    }

    fn set_peer(&self, _: u32, _: &str) -> Result<()> {
        Ok(())
    }

    fn failure(&self) -> watch::Receiver<Option<Error>> {
        self.failure.subscribe()
    }

    fn formed(&self) -> watch::Receiver<Option<Formed>> {
        self.formed.subscribe()
    }

    fn waits_for(&self) -> Option<String> {
        None
    }

    fn set_members(&self, _: BTreeSet<u32>, _: BTreeSet<u32>) {}

    async fn invite(&self, _: u32) -> Result<bool> {
        Ok(false)
    }

    async fn forget(&self, _: u32) -> Result<()> {
        Ok(())
    }

    fn drop_peer(&self, _: u32) {}

    fn was_removed(&self, _: u32) -> bool {
        false
    }

    fn report(&self) -> Report {
        Report::default()
    }

    fn unreached(&self) -> BTreeMap<u32, Unreached> {
        BTreeMap::new()
    }

    fn peer_clocks(&self, _: BootTime) -> Vec<u64> {
        vec![]
    }

    fn local_addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    async fn shutdown(&self) {
        self.handler.lock().unwrap().take();
    }
}

#[async_trait]
impl Calls for Played {
    async fn call(&self, to: u32, kind: u32, _: Bytes, _: Duration) -> Result<Bytes> {
        let answers = self.answers.lock().unwrap().clone();
        answers(to, kind)
    }
}

fn down() -> Result<Bytes> {
    Err(Error::new(ErrorKind::Unavailable, "it is down"))
}

/// Node 1 of three, of which the test plays the others.
struct Node {
    directory: TempDir,
    played: Arc<Played>,
    driver: OpenraftDriver,
}

fn cluster(path: &Path) -> Cluster {
    let peers = "1=127.0.0.1:1/h:1,2=127.0.0.1:2/h:2,3=127.0.0.1:3/h:3".into();
    Config { path: path.into(), node: 1, peers, ..Config::default() }.check().unwrap()
}

impl Node {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(directory: TempDir) -> Self {
        Self::start_by(Arc::new(SystemClock), directory).await
    }

    async fn start_by(clock: Arc<dyn Clock>, directory: TempDir) -> Self {
        let (cluster, now) = (cluster(directory.path()), clock.now().boot);
        let opened = cluster.clone();
        let opening = StoreThread::start(clock.clone(), move || store::open(&opened, now));
        let (store, (_, found)) = opening.await.unwrap();
        let formed = Formed { id: ClusterId(1), is_provisional: false, nodes: BTreeMap::new() };
        let played = Arc::new(Played {
            handler: Mutex::default(),
            answers: Mutex::new(Arc::new(|_, _| down())),
            failure: watch::Sender::new(None),
            formed: watch::Sender::new(Some(formed)),
        });
        let outside = Outside {
            id: NodeId(1),
            tasks: Tasks::here(),
            clock,
            random: Random::default(),
            transport: played.clone(),
        };
        let driver = start(cluster, store, found, outside, |parts| parts).await.unwrap();
        Self { directory, played, driver }
    }

    /// Stops it, and starts it over what it has stored.
    async fn start_again(self) -> Self {
        self.driver.shutdown().await.unwrap();
        Self::start_in(self.directory).await
    }

    fn answer(&self, answers: impl Fn(u32, u32) -> Result<Bytes> + Send + Sync + 'static) {
        *self.played.answers.lock().unwrap() = Arc::new(answers);
    }

    /// A call of node 2.
    async fn hear(&self, kind: u32, message: &impl Serialize) -> Result<Bytes> {
        self.hear_bytes(kind, pack(message).unwrap()).await
    }

    async fn hear_bytes(&self, kind: u32, body: Bytes) -> Result<Bytes> {
        let handler = self.played.handler.lock().unwrap().clone().unwrap();
        handler.call(Sender { node: 2, id: NodeId(2) }, kind, body).await
    }

    /// Node 2 leads, in term 5, and has this entry committed, which is the next one.
    async fn commits(&self, index: u64, payload: EntryPayload<TypeConfig>) {
        let mut rpc = append(5, vec![Entry { log_id: id(5, index), payload }]);
        rpc.prev_log_id = index.checked_sub(1).map(before);
        rpc.leader_commit = Some(id(5, index));
        let answer = self.hear(APPEND, &rpc).await.unwrap();
        let answer: AppendEntriesResponse<u64> = unpack(&answer).unwrap();
        assert_eq!(answer, AppendEntriesResponse::Success);
        let metrics = self.driver.shared.raft.wait(Some(Duration::from_secs(60)));
        metrics.applied_index_at_least(Some(index), "it is applied").await.unwrap();
    }

    /// Node 2 leads, and the node follows it.
    async fn follows(&self) {
        let rpc = append(5, vec![Entry { log_id: before(0), payload: members() }]);
        self.hear(APPEND, &rpc).await.unwrap();
        self.commits(1, EntryPayload::Blank).await;
    }

    fn term(&self) -> u64 {
        self.driver.shared.metrics().vote.leader_id.term
    }

    async fn version(&self) -> Version {
        self.driver.read(&Reads::default()).await.unwrap().version
    }
}

fn leader(term: u64) -> CommittedLeaderId<u64> {
    CommittedLeaderId::new(term, 2)
}

fn id(term: u64, index: u64) -> Id {
    Id::new(leader(term), index)
}

/// The entry of that index: the first one is the same in every log.
fn before(index: u64) -> Id {
    if index == 0 { Id::default() } else { id(5, index) }
}

fn members() -> EntryPayload<TypeConfig> {
    let members = cluster(Path::new("")).members.into_iter();
    let members: std::collections::BTreeMap<_, _> =
        members.map(|(node, at)| (u64::from(node), at)).collect();
    EntryPayload::Membership(Membership::new(vec![members.keys().copied().collect()], members))
}

fn append(term: u64, entries: Vec<Entry>) -> AppendEntriesRequest<TypeConfig> {
    let vote = Vote::new_committed(term, 2);
    AppendEntriesRequest { vote, prev_log_id: None, entries, leader_commit: None }
}

fn commit(base: Version, next: Version) -> Vec<u8> {
    let mut effect = Effect::default();
    effect.set_version(next);
    LogEntry::new(base, effect).unwrap().encode().unwrap()
}

fn normal(payload: impl Into<Bytes>) -> EntryPayload<TypeConfig> {
    EntryPayload::Normal(Payload(payload.into()))
}

/// As [`append`], of a leader of term 5 that goes on behind entry 1.
fn goes_on(entries: Vec<Entry>) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest { prev_log_id: Some(id(5, 1)), ..append(5, entries) }
}

#[tokio::test]
async fn a_number_that_leaps_is_refused_in_whatever_it_comes() {
    let node = Node::start().await;
    node.follows().await;
    let blank = |log_id| Entry { log_id, payload: EntryPayload::Blank };
    for term in [5 + MAX_LEAP + 1, u64::MAX] {
        node.hear(APPEND, &append(term, vec![])).await.unwrap_err();
        let vote = Vote::new(term, 2);
        let last_log_id = Some(id(5, 1));
        node.hear(VOTE, &VoteRequest { vote, last_log_id }).await.unwrap_err();
        let prev_log_id = Some(id(term, 1));
        node.hear(APPEND, &AppendEntriesRequest { prev_log_id, ..goes_on(vec![]) })
            .await
            .unwrap_err();
        node.hear(APPEND, &goes_on(vec![blank(id(term, 2))])).await.unwrap_err();
        let leader_commit = Some(id(term, 1));
        node.hear(APPEND, &AppendEntriesRequest { leader_commit, ..goes_on(vec![]) })
            .await
            .unwrap_err();
        let answer = node.hear(PRE_VOTE, &Some(id(term, 1))).await.unwrap();
        assert!(!unpack::<bool>(&answer).unwrap());
    }
    let last = id(5, u64::MAX);
    for rpc in [
        AppendEntriesRequest { prev_log_id: Some(last), ..goes_on(vec![]) },
        AppendEntriesRequest { prev_log_id: Some(last), ..goes_on(vec![blank(last)]) },
        AppendEntriesRequest { leader_commit: Some(last), ..goes_on(vec![]) },
        goes_on(vec![blank(last)]),
        goes_on(vec![blank(id(5, 2)), blank(id(5, 4))]),
        goes_on(vec![blank(id(5, 2)), blank(id(4, 3))]),
        // What is agreed on here has another id.
        AppendEntriesRequest { prev_log_id: Some(id(4, 1)), ..goes_on(vec![]) },
    ] {
        node.hear(APPEND, &rpc).await.unwrap_err();
    }
    let vote = VoteRequest { vote: Vote::new(6, 2), last_log_id: Some(last) };
    node.hear(VOTE, &vote).await.unwrap_err();
    // For another node, or as if it had been elected.
    let last_log_id = Some(id(5, 1));
    for vote in [Vote::new(6, 3), Vote::new(6, 1), Vote::new_committed(6, 2)] {
        node.hear(VOTE, &VoteRequest { vote, last_log_id }).await.unwrap_err();
        let rpc = AppendEntriesRequest { vote, ..goes_on(vec![]) };
        if vote != Vote::new_committed(6, 2) {
            node.hear(APPEND, &rpc).await.unwrap_err();
        }
    }
    assert_eq!(node.term(), 5);
    let node = node.start_again().await;
    assert_eq!(node.term(), 5);
    node.commits(2, EntryPayload::Blank).await;
}

#[tokio::test]
async fn a_term_that_leaps_is_taken_once_a_majority_confirms_it() {
    let node = Node::start().await;
    node.follows().await;
    let far = 5 + 3 * MAX_LEAP;
    let confirms = |to, kind| match (to, kind) {
        (2 | 3, REACHED) => Ok(Reached { term: 5 + 3 * MAX_LEAP, index: 2 }.encode()),
        _ => down(),
    };
    node.answer(move |to, kind| if to == 2 { confirms(to, kind) } else { down() });
    node.hear(APPEND, &append(far, vec![])).await.unwrap_err();
    assert_eq!(node.term(), 5);
    node.answer(confirms);
    // It does not ask again at once.
    while node.hear(APPEND, &append(far, vec![])).await.is_err() {
        SystemClock.sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(node.term(), far);
}

#[tokio::test]
async fn an_entry_that_cannot_be_applied_is_refused_before_it_is_stored() {
    let node = Node::start().await;
    node.follows().await;
    let base = node.version().await;
    let sound = base.next(7).unwrap();
    let (leap, era) = (Version { number: u64::MAX, ..sound }, Version { era: u64::MAX, ..sound });
    let mut many = Effect::default();
    (0..70_000_u32).for_each(|key| many.delete(key.to_be_bytes()));
    many.set_version(sound);
    let mut large = Effect::default();
    large.put(b"key", vec![0; 2 << 20]);
    large.set_version(sound);
    let mut long = Effect::default();
    long.put([255; 1_024], b"");
    long.set_version(sound);
    let entry = |effect| LogEntry::new(base, effect).unwrap().encode().unwrap();
    let mut longer = commit(base, sound);
    longer.push(0);
    let members = |members: &[(u64, &str)], voters: &[u64]| {
        let at = |peer: &&str| tsoracle_replica::Addresses {
            peer: (*peer).to_owned(),
            service: "h:1".into(),
        };
        let nodes: std::collections::BTreeMap<_, _> =
            members.iter().map(|(node, peer)| (*node, at(peer))).collect();
        // As it comes over the network, where nothing was checked.
        let voters = vec![voters.iter().copied().collect::<std::collections::BTreeSet<u64>>()];
        unpack::<Membership<u64, _>>(&pack(&(voters, nodes)).unwrap()).unwrap()
    };
    for payload in [
        normal(vec![]),
        normal(&b"garbage"[..]),
        normal([&[9][..], &commit(base, sound)[1..]].concat()),
        normal(longer),
        normal(commit(base, leap)),
        normal(commit(base, era)),
        normal(entry(many)),
        normal(entry(large)),
        normal(entry(long)),
        EntryPayload::Membership(members(&[(1, "h:1")], &[])),
        EntryPayload::Membership(members(&[(1, "h:1")], &[1, 9])),
        EntryPayload::Membership(members(&[(1, "h:1"), (0, "h:2")], &[1])),
        EntryPayload::Membership(members(&[(1, "h:1"), (1 << 40, "h:2")], &[1])),
        EntryPayload::Membership(members(&[(1, "h:1"), (2, "nowhere")], &[1])),
    ] {
        // Behind a sound one, and three at once.
        let at = |index, payload| Entry { log_id: id(5, index), payload };
        let entries = vec![
            at(2, EntryPayload::Blank),
            at(3, payload.clone()),
            at(4, payload.clone()),
            at(5, payload),
        ];
        let rpc = AppendEntriesRequest { leader_commit: Some(id(5, 5)), ..goes_on(entries) };
        node.hear(APPEND, &rpc).await.unwrap_err();
    }
    node.commits(2, normal(commit(base, sound))).await;
    let node = node.start_again().await;
    node.commits(3, EntryPayload::Blank).await;
    assert_eq!(node.version().await, sound);
}

#[tokio::test]
async fn answers_are_believed_no_more_than_questions() {
    let node = Node::start().await;
    node.follows().await;
    let far = |committed| Vote { committed, ..Vote::new(u64::MAX, 3) };
    let own = |committed| Vote { committed, ..Vote::new(9, 1) };
    node.answer(move |to, kind| match kind {
        VOTE => {
            let vote = if to == 2 { far(false) } else { own(true) };
            let last_log_id = Some(id(u64::MAX, u64::MAX));
            pack(&VoteResponse { vote, vote_granted: to == 2, last_log_id })
        }
        _ => down(),
    });
    node.driver.shared.raft.trigger().elect().await.unwrap();
    SystemClock.sleep(Duration::from_millis(300)).await;
    assert_eq!(node.term(), 6);
    // Elected, it is told of later leaders.
    node.answer(move |to, kind| match kind {
        VOTE => pack(&VoteResponse {
            vote: Vote::new(7, 1),
            vote_granted: true,
            last_log_id: Some(id(5, 1)),
        }),
        APPEND => pack(&match to {
            2 => AppendEntriesResponse::HigherVote(far(true)),
            _ => AppendEntriesResponse::PartialSuccess(Some(id(u64::MAX, u64::MAX))),
        }),
        _ => down(),
    });
    node.driver.shared.raft.trigger().elect().await.unwrap();
    let metrics = node.driver.shared.raft.wait(Some(Duration::from_secs(60)));
    metrics.current_leader(1, "it is elected").await.unwrap();
    SystemClock.sleep(Duration::from_millis(300)).await;
    let metrics = node.driver.shared.metrics();
    assert!(metrics.running_state.is_ok(), "{:?}", metrics.running_state);
    assert_eq!((metrics.vote.leader_id.term, metrics.current_leader), (7, Some(1)));
    assert_eq!(metrics.last_applied, Some(id(5, 1)));
}

#[tokio::test]
async fn only_its_leader_has_a_node_campaign_or_tells_it_that_it_was_removed() {
    let node = Node::start().await;
    node.follows().await;
    let handler = node.played.handler.lock().unwrap().clone().unwrap();
    let three = Sender { node: 3, id: NodeId(3) };
    let of = |term| pack(&Vote::new_committed(term, 2)).unwrap();
    for (kind, body) in [(CAMPAIGN, Bytes::new()), (REMOVED, of(5)), (REMOVED, of(9))] {
        let error = handler.call(three, kind, body).await.unwrap_err();
        assert!(error.to_string().contains("another node leads"), "{error}");
    }
    // What it said before it was elected is over.
    node.hear_bytes(REMOVED, of(4)).await.unwrap_err();
    assert_eq!((node.term(), *node.driver.shared.removed.borrow()), (5, false));
    node.hear_bytes(CAMPAIGN, Bytes::new()).await.unwrap();
    let metrics = node.driver.shared.raft.wait(Some(Duration::from_secs(60)));
    let campaigns = |metrics: &RaftMetrics<u64, _>| metrics.vote.leader_id.term > 5;
    metrics.metrics(campaigns, "it campaigns").await.unwrap();
}

#[tokio::test]
async fn a_state_that_is_not_what_it_is_named_is_not_installed() {
    let node = Node::start().await;
    node.follows().await;
    let found = |last: Id| {
        let EntryPayload::Membership(members) = members() else { unreachable!() };
        Applied {
            log_id: Some(last),
            membership: StoredMembership::new(Some(Id::default()), members),
        }
    };
    // Another node's state, and what node 2 says of it.
    let state = |applied: &Applied, version: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let mut replica = Replica::open(store, SystemClock.now().boot).unwrap();
        replica.set_applied(encode(applied).unwrap());
        let mut effect = Effect::default();
        effect.put(VERSION, version);
        replica.write([(Table::new("state"), effect)]).unwrap();
        replica.snapshot().unwrap().collect::<Result<Vec<_>>>().unwrap()
    };
    let send = async |number: u64, chunks: Vec<Vec<u8>>, meta: Meta| {
        for call in transfer::calls(number, chunks.into_iter().map(Ok)) {
            node.hear_bytes(CHUNK, call.unwrap().into()).await?;
        }
        let vote = Vote::new_committed(5, 2);
        node.hear(INSTALL, &Install { vote, meta, transfer: number }).await
    };
    let sound = Version { era: 0, number: 9, name: 9 };
    let near = found(id(5, 90));
    // Both other nodes say that the log is not nearly there.
    node.answer(|_, kind| match kind {
        REACHED => Ok(Reached { term: 5, index: 100 }.encode()),
        _ => down(),
    });
    let other = found(id(5, 91)).into_meta();
    send(1, state(&near, &sound.encode()), other).await.unwrap_err();
    send(2, state(&near, b"no version"), near.clone().into_meta()).await.unwrap_err();
    let last = Version { number: u64::MAX, ..sound };
    send(3, state(&near, &last.encode()), near.clone().into_meta()).await.unwrap_err();
    for (number, index) in [(4, 1 << 30), (5, u64::MAX)] {
        let far = found(id(5, index));
        send(number, state(&far, &sound.encode()), far.into_meta()).await.unwrap_err();
    }
    let members: Membership<u64, tsoracle_replica::Addresses> = Membership::default();
    let empty = Applied { membership: StoredMembership::new(None, members), ..near.clone() };
    send(6, state(&empty, &sound.encode()), empty.into_meta()).await.unwrap_err();
    assert_eq!(node.version().await, Version::EMPTY);
    send(7, state(&near, &sound.encode()), near.clone().into_meta()).await.unwrap();
    assert_eq!(node.version().await, sound);
    let node = node.start_again().await;
    assert_eq!(node.version().await, sound);
}

/// A clock by which no task can sleep any more once it is broken.
#[derive(Debug, Default)]
struct Breakable(AtomicBool);

#[async_trait]
impl Clock for Breakable {
    fn now(&self) -> Now {
        SystemClock.now()
    }

    async fn sleep_until(&self, boot: BootTime) {
        assert!(!self.0.load(Ordering::Relaxed), "the clock is broken");
        SystemClock.sleep_until(boot).await;
    }
}

/// Otherwise its process would be alive, and the cluster without a leader as soon as it needs this node.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_of_which_a_task_has_panicked_ends_and_names_it() {
    let clock = Arc::new(Breakable::default());
    let node = Node::start_by(clock.clone(), tempfile::tempdir().unwrap()).await;
    let mut leadership = node.driver.leadership();
    clock.0.store(true, Ordering::Relaxed);
    while leadership.changed().await.is_ok() {}
    let error = node.driver.read(&Reads::default()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
    // Both wait by that clock.
    let words = |task| format!("the task for {task} has panicked");
    let named = ["elections", "leadership"].map(words);
    assert!(named.iter().any(|words| error.to_string().contains(words)), "{error}");
}
