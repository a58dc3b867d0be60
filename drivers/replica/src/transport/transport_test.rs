use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tsoracle_core::NodeId;

use super::{
    proof_test::Authority,
    proto::{Frame, peer_client::PeerClient},
    *,
};
use crate::{Calls as _, ClusterId, Config, Formed};

/// What never happens is waited for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const ECHO: u32 = 1;
const HANG: u32 = 2;
/// A message at which the handler panics.
const DREADED: &[u8] = b"dreaded";
const PANIC: u32 = 3;

/// Echoes calls, and tells the test what it was told.
struct Told {
    events: mpsc::UnboundedSender<Event>,
    refuses: AtomicBool,
    calls: AtomicU32,
}

#[derive(PartialEq, Debug)]
pub(super) enum Event {
    Connected(u32),
    Disconnected(u32),
    Received(u32, Bytes),
}

#[async_trait]
impl Handler for Told {
    fn admit(&self, sender: Sender) -> Result<()> {
        match self.refuses.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Config, format!("node {} was wiped", sender.node))),
            false => Ok(()),
        }
    }

    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match kind {
            ECHO => Ok([&sender.node.to_be_bytes()[..], &body].concat().into()),
            HANG => std::future::pending().await,
            _ => panic!("the handler of a test"),
        }
    }

    async fn received(&self, sender: Sender, body: Bytes) {
        assert_ne!(&body[..], DREADED, "the handler of a test");
        let _ = self.events.send(Event::Received(sender.node, body));
    }

    fn connected(&self, peer: u32) {
        let _ = self.events.send(Event::Connected(peer));
    }

    fn disconnected(&self, peer: u32) {
        let _ = self.events.send(Event::Disconnected(peer));
    }
}

pub(super) struct Node {
    transport: Transport,
    ids: PeerIds,
    told: Arc<Told>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Node {
    pub(super) async fn start(node: u32, options: impl FnOnce(Config) -> Config) -> Self {
        Self::try_start(node, options).await.unwrap()
    }

    pub(super) async fn try_start(
        node: u32,
        options: impl FnOnce(Config) -> Config,
    ) -> Result<Self> {
        let peers = (1..4).map(|node| format!("{node}=127.0.0.1:{node}/h:{node}"));
        let config = Config {
            node,
            peers: peers.collect::<Vec<_>>().join(","),
            peer_listen: Some("127.0.0.1:0".into()),
            ..Config::default()
        };
        let mut cluster = options(config).check()?;
        cluster.members = BTreeMap::new();
        let formed = Formed { id: ClusterId(7), is_provisional: false, nodes: BTreeMap::new() };
        let identity = Identity::fixed(node, node.into(), Some(formed));
        let known = match node {
            1 => BTreeMap::from([(9, KnownId { id: NodeId(99), is_removed: false })]),
            _ => BTreeMap::new(),
        };
        let own = Sender { node, id: identity.id() };
        let ids = PeerIds::new(own, known, peer_ids::remember());
        let transport = Transport::open(&cluster, &identity, ids.clone()).await?;
        let (events, receiver) = mpsc::unbounded_channel();
        let (refuses, calls) = (AtomicBool::new(false), AtomicU32::new(0));
        let told = Arc::new(Told { events, refuses, calls });
        transport.serve(told.clone());
        Ok(Self { transport, ids, told, events: receiver })
    }

    pub(super) fn address(&self) -> String {
        self.transport.local_addr().to_string()
    }

    /// How many calls it has answered.
    pub(super) fn calls(&self) -> u32 {
        self.told.calls.load(Ordering::Relaxed)
    }

    pub(super) async fn shutdown(&self) {
        self.transport.shutdown().await;
    }

    pub(super) fn knows(&self, node: u32, other: &Self) {
        self.transport.set_peer(node, &other.address()).unwrap();
    }

    /// Calls again where one side had not known the other yet.
    pub(super) async fn call(&self, to: u32, kind: u32, deadline: Duration) -> Result<Bytes> {
        loop {
            match self.transport.call(to, kind, Bytes::from_static(b"hello"), deadline).await {
                Err(error) if error.to_string().contains("is not known yet") => {}
                answered => return answered,
            }
        }
    }

    pub(super) async fn any_event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap()
    }

    /// The next event, whichever sessions have ended meanwhile.
    async fn event(&mut self) -> Event {
        loop {
            match self.any_event().await {
                Event::Disconnected(_) => {}
                event => return event,
            }
        }
    }
}

async fn pair() -> (Node, Node) {
    let one = Node::start(1, |config| config).await;
    let two = Node::start(2, |config| config).await;
    one.knows(2, &two);
    two.knows(1, &one);
    one.call(2, ECHO, PATIENCE).await.unwrap();
    (one, two)
}

#[tokio::test]
async fn a_call_is_answered() {
    let (one, two) = pair().await;
    assert_eq!(&one.call(2, ECHO, PATIENCE).await.unwrap()[..], b"\0\0\0\x01hello");
    assert_eq!(&two.call(1, ECHO, PATIENCE).await.unwrap()[..], b"\0\0\0\x02hello");
    let error = one.call(3, ECHO, PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("address of peer 3"), "{error}");
    // Node 1 has told whom it knows.
    assert_eq!(two.ids.get(9), Some(NodeId(99)));
}

#[tokio::test]
async fn peers_tell_what_their_clocks_show_and_again_when_they_have_nothing_to_say() {
    let (one, two) = pair().await;
    let shows_the_time = |node: &Node| {
        let now = SystemClock.now();
        let clocks = node.transport.peer_clocks(now.boot);
        assert_eq!(clocks.len(), 1, "{clocks:?}");
        clocks[0].abs_diff(now.wall_ms) < 60_000
    };
    assert!(shows_the_time(&one) && shows_the_time(&two));
    // It has been told of a clock that was set since.
    two.transport.0.note_clock(1, 1_000);
    assert!(!shows_the_time(&two));
    let told = async {
        while !shows_the_time(&two) {
            SystemClock.sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, told).await.unwrap();
    two.transport.drop_peer(1);
    assert_eq!(two.transport.peer_clocks(SystemClock.now().boot), []);
}

#[tokio::test]
async fn a_call_ends_with_its_deadline_and_holds_up_no_other() {
    let (one, _two) = pair().await;
    let hanging: Vec<_> =
        (0..8).map(|_| (one.transport.clone(), Duration::from_millis(50))).collect();
    let hanging = hanging.into_iter().map(|(transport, deadline)| {
        tokio::spawn(async move { transport.call(2, HANG, Bytes::new(), deadline).await })
    });
    let hanging: Vec<_> = hanging.collect();
    one.call(2, ECHO, PATIENCE).await.unwrap();
    for call in hanging {
        let error = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up_with_the_deadline() {
    let one = Node::start(1, |config| config).await;
    // Connections are accepted by the kernel, and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.transport.set_peer(2, &silent.local_addr().unwrap().to_string()).unwrap();
    let call = one.call(2, ECHO, Duration::from_millis(50));
    let error = timeout(PATIENCE, call).await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn calls_that_wait_are_told_when_the_session_ends() {
    let (one, two) = pair().await;
    let transport = one.transport.clone();
    let hanging =
        tokio::spawn(async move { transport.call(2, HANG, Bytes::new(), PATIENCE * 2).await });
    while two.told.calls.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    two.transport.shutdown().await;
    let error = timeout(PATIENCE, hanging).await.unwrap().unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    // Nor is anybody kept waiting who asks afterwards.
    let error = timeout(PATIENCE, one.call(2, ECHO, PATIENCE * 2)).await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_handler_that_panics_ends_only_its_call() {
    let (one, _two) = pair().await;
    let error = one.call(2, PANIC, PATIENCE).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    one.call(2, ECHO, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_panics_keeps_no_later_process_out() {
    let (one, mut two) = pair().await;
    one.transport.send(2, Bytes::from_static(DREADED));
    while two.any_event().await != Event::Disconnected(1) {}
    one.shutdown().await;
    let another = Node::start(1, |config| config).await;
    another.knows(2, &two);
    another.call(2, ECHO, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_task_that_panics_ends_the_node() {
    let one = Node::start(1, |config| config).await;
    assert!(one.transport.failure().borrow().is_none());
    one.transport.0.spawn("sums", async { panic!("in a test") });
    let mut failure = one.transport.failure();
    let error = timeout(PATIENCE, failure.wait_for(Option::is_some)).await.unwrap().unwrap();
    let error = error.clone().unwrap();
    assert_eq!(*error.kind(), ErrorKind::Fatal);
    assert!(error.to_string().contains("the task for sums"), "{error}");
}

#[tokio::test]
async fn strangers_are_refused_and_learn_nothing_else() {
    let (one, two) = pair().await;
    let other = Node::start(1, |config| Config { cluster: "other".into(), ..config }).await;
    other.knows(2, &two);
    let error = other.call(2, ECHO, PATIENCE).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config);
    let learns_nothing = |text: &str| {
        assert!(text.contains("refused; the log of this node says why"), "{text}");
        assert!(!text.contains("tsoracle"), "{text}");
    };
    learns_nothing(&error.to_string());
    let error = other.call(2, ECHO, PATIENCE).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config);

    let url = format!("http://{}", two.address());
    let mut newer = PeerClient::connect(url).await.unwrap();
    let frame =
        Frame { version: 9, cluster: "tsoracle".into(), from: 1, to: 2, ..Frame::default() };
    let status = newer.session(futures::stream::iter([frame])).await.unwrap_err();
    learns_nothing(status.message());

    let error = one.call(2, ECHO, PATIENCE).await;
    error.unwrap();
    one.told.refuses.store(true, Ordering::Relaxed);
    let error = two.call(1, ECHO, PATIENCE).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config);
    learns_nothing(&error.to_string());
    // The answer is looked at just as well as the call.
    let error = one.call(2, ECHO, PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("node 2 was wiped"), "{error}");
}

#[tokio::test]
async fn garbage_on_the_port_is_survived() {
    let (one, two) = pair().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4_096], &[0xff; 65_536], b"PRI * HTTP/2.0"]
    {
        let mut stream = TcpStream::connect(two.address()).await.unwrap();
        // The other side may close while this is still being written.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let _ = timeout(PATIENCE, stream.read_to_end(&mut vec![])).await.unwrap();
        one.call(2, ECHO, PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_keeps_the_order_and_tells_when_it_stands_again() {
    let (mut one, mut two) = pair().await;
    assert_eq!(one.event().await, Event::Connected(2));
    let send = |node: &Node, count: u32| {
        (0..count).for_each(|n| node.transport.send(2, n.to_be_bytes().to_vec()));
    };
    send(&one, 500);
    for n in 0..500_u32 {
        assert_eq!(two.event().await, Event::Received(1, n.to_be_bytes().to_vec().into()));
    }
    let address = two.address();
    two.transport.shutdown().await;
    let mut again = loop {
        let listen = |config| Config { peer_listen: Some(address.clone()), ..config };
        match Node::try_start(2, listen).await {
            Ok(node) => break node,
            Err(error) => assert!(error.to_string().contains("cannot listen"), "{error}"),
        }
    };
    assert_eq!(one.event().await, Event::Connected(2));
    send(&one, 10);
    for n in 0..10_u32 {
        assert_eq!(again.event().await, Event::Received(1, n.to_be_bytes().to_vec().into()));
    }
    // At a new address just as well.
    let mut elsewhere = Node::start(2, |config| config).await;
    one.knows(2, &elsewhere);
    one.transport.send(2, Bytes::new());
    assert_eq!(one.event().await, Event::Connected(2));
    one.transport.send(2, &b"there"[..]);
    assert_eq!(elsewhere.event().await, Event::Received(1, Bytes::from_static(b"there")));
}

#[tokio::test]
async fn a_session_with_a_gap_in_it_is_begun_anew() {
    let (mut one, _two) = pair().await;
    one.transport.send(2, Bytes::new());
    assert_eq!(one.event().await, Event::Connected(2));
    // More than is queued, in one go: nothing can have been taken meanwhile.
    let large = Bytes::from(vec![0; MAX_BODY_BYTES]);
    (0..64).for_each(|_| one.transport.send(2, large.clone()));
    assert_eq!(one.event().await, Event::Connected(2));
}

#[tokio::test]
async fn with_tls_both_sides_must_show_a_certificate() {
    let (of_ours, of_others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = Authority::new().signs(of_ours.path(), "127.0.0.1");
    let others = Authority::new().signs(of_others.path(), "127.0.0.1");
    let one = Node::start(1, &ours).await;
    let two = Node::start(2, &ours).await;
    one.knows(2, &two);
    two.knows(1, &one);
    one.call(2, ECHO, PATIENCE).await.unwrap();
    let calls = two.told.calls.load(Ordering::Relaxed);
    for stranger in [Node::start(3, &others).await, Node::start(3, |config| config).await] {
        stranger.knows(2, &two);
        stranger.call(2, ECHO, PATIENCE).await.unwrap_err();
        one.knows(3, &stranger);
        one.call(3, ECHO, PATIENCE).await.unwrap_err();
        assert_eq!(stranger.told.calls.load(Ordering::Relaxed), 0);
    }
    assert_eq!(two.told.calls.load(Ordering::Relaxed), calls);

    let swapped = |config| {
        let config = ours(config);
        Config { peer_key: config.peer_ca.clone(), ..config }
    };
    let error = Node::try_start(3, swapped).await.map(|_| ()).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("peer_key"), "{error}");
}

/// Who it is was proven when the session began, and only then.
#[tokio::test]
async fn a_session_is_of_one_sender_to_its_end() {
    let (one, two) = pair().await;
    let third = Node::start(3, |config| config).await;
    for (node, other) in [(3, &third), (1, &one)] {
        two.knows(node, other);
        other.knows(2, &two);
        other.call(2, ECHO, PATIENCE).await.unwrap();
    }
    let frames = |node: &Node| {
        let call = node.transport.0.envelope.wrap(2, ECHO, Bytes::from_static(b"hello")).unwrap();
        [node.transport.0.hello(2).unwrap(), Frame { call: 1, ..call }]
    };
    let (calls, [hello, own], [_, others]) = (two.calls(), frames(&one), frames(&third));
    let answer = async |second: Frame| {
        let mut client = PeerClient::connect(format!("http://{}", two.address())).await.unwrap();
        let sent = futures::stream::iter([hello.clone(), second]);
        let sent = futures::StreamExt::chain(sent, futures::stream::pending());
        let mut answers = client.session(sent).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        loop {
            match timeout(PATIENCE, answers.message()).await.unwrap() {
                // Whether it is still there.
                Ok(Some(answer)) if answer.call == 0 => {}
                answer => return answer,
            }
        }
    };
    assert_eq!(&answer(own).await.unwrap().unwrap().body[..], b"\0\0\0\x01hello");
    assert_eq!(two.calls(), calls + 1);
    answer(others).await.unwrap_err();
    assert_eq!(two.calls(), calls + 1, "it was listened to");
}
