//! What one client takes that asks for everything, and what others still get. Clients are told apart by their
//! addresses, of which the loopback device has many.

use std::net::{IpAddr, Ipv4Addr};

use futures::{StreamExt, future::join_all, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tsoracle_core::{OracleOptions, Phase, TIMESTAMPS_PER_MS, state};
use tsoracle_proto::metadata;
use tsoracle_proto::v1::{
    AcquireLeaseRequest, GetSeqRequest, GetTsRequest, RequestId, SeqFailure, StreamSeqRequest,
    seq_outcome::Outcome, tso_service_client::TsoServiceClient,
};
use tsoracle_server::{Limits, Server};

use crate::common::{
    Running,
    driver::{Manner, Scripted},
    memory,
};

type Client = TsoServiceClient<Channel>;

const GREEDY: u8 = 2;
const MODEST: u8 = 3;

fn host(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, number).into()
}

/// A client at an address of its own.
async fn client(server: &Running, number: u8) -> Client {
    let endpoint =
        Channel::from_shared(format!("http://{}", server.address)).expect("a valid address");
    let channel =
        endpoint.local_address(Some(host(number))).connect().await.expect("the server listens");
    TsoServiceClient::new(channel)
}

async fn serving(options: OracleOptions) -> Running {
    let server = Running::start(Server::builder().driver(memory().await).options(options)).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    server
}

fn capped(limits: state::Limits) -> OracleOptions {
    OracleOptions { limits, ..OracleOptions::default() }
}

fn seq(key: &str, session: Option<u128>) -> GetSeqRequest {
    let request_id = session.map(|session| RequestId {
        session: session.to_be_bytes().to_vec().into(),
        number: 1,
        first_incomplete: 1,
        retry: false,
        ..Default::default()
    });
    GetSeqRequest { key: key.into(), count: 1, request_id }
}

/// Sends all requests over one stream: how many were granted, and the last failure.
async fn flood(
    client: &mut Client,
    requests: impl Iterator<Item = GetSeqRequest>,
) -> (usize, Option<SeqFailure>) {
    let requests: Vec<_> = requests.collect();
    let messages: Vec<_> = requests
        .chunks(500)
        .map(|requests| StreamSeqRequest { requests: requests.to_vec(), run: None })
        .collect();
    let mut answers =
        client.stream_seq(stream::iter(messages)).await.expect("a stream").into_inner();
    let (mut granted, mut failed) = (0, None);
    while let Some(answer) = answers.next().await {
        for outcome in answer.expect("an answer").outcomes {
            match outcome.outcome.expect("an outcome") {
                Outcome::Granted(_) => granted += 1,
                Outcome::Failed(failure) => failed = Some(failure),
            }
        }
    }
    (granted, failed)
}

fn refused_for(failed: Option<SeqFailure>, what: &str) {
    let failed = failed.expect("something was refused");
    assert_eq!(failed.code, Code::ResourceExhausted as u32, "{failed:?}");
    assert!(failed.message.contains(&format!("this client's share of {what}")), "{failed:?}");
}

#[tokio::test]
async fn one_client_cannot_take_all_sessions() {
    let limits = state::Limits { sessions: 1_000, ..state::Limits::default() };
    let server = serving(capped(limits)).await;
    let (mut greedy, mut modest) = (client(&server, GREEDY).await, client(&server, MODEST).await);
    let requests = (1..=3_000).map(|session| seq("k", Some(session)));
    let (granted, failed) = flood(&mut greedy, requests).await;
    assert_eq!(granted, 750);
    refused_for(failed, "sessions");
    // What it has goes on.
    let mut again = seq("k", Some(1));
    again.request_id.as_mut().unwrap().number = 2;
    greedy.get_seq(again).await.unwrap();
    // Others get in, and the last of them up to the whole cap.
    let (granted, failed) = flood(&mut modest, (5_001..=5_100).map(|n| seq("k", Some(n)))).await;
    assert_eq!((granted, failed), (100, None));
    for (number, wanted) in (10..24).map(|number| (number, 10)).chain((24..34).map(|n| (n, 1))) {
        let mut other = client(&server, number).await;
        let first = 10_000 + u128::from(number) * 100;
        let requests = (first..first + wanted).map(|n| seq("k", Some(n)));
        assert_eq!(flood(&mut other, requests).await, (wanted as usize, None), "{number}");
    }
    let mut last = client(&server, 99).await;
    let status = last.get_seq(seq("k", Some(20_000))).await.unwrap_err();
    assert!(status.message().contains("the cap of 1000 sessions"), "{status}");
}

#[tokio::test]
async fn one_client_cannot_take_all_keys() {
    let limits = state::Limits { keys: 1_000, ..state::Limits::default() };
    let server = serving(capped(limits)).await;
    let (mut greedy, mut modest) = (client(&server, GREEDY).await, client(&server, MODEST).await);
    let (granted, failed) =
        flood(&mut greedy, (0..3_000).map(|n| seq(&format!("greedy{n}"), None))).await;
    assert_eq!(granted, 750);
    refused_for(failed, "sequences");
    greedy.get_seq(seq("greedy0", None)).await.unwrap();
    let requests = (0..100).map(|n| seq(&format!("modest{n}"), None));
    assert_eq!(flood(&mut modest, requests).await, (100, None));
}

#[tokio::test]
async fn one_client_cannot_take_all_names() {
    let limits = state::Limits { named: 1_000, ..state::Limits::default() };
    let server = serving(capped(limits)).await;
    let (mut greedy, mut modest) = (client(&server, GREEDY).await, client(&server, MODEST).await);
    let named = |name: String| GetSeqRequest {
        request_id: Some(RequestId { name, ..Default::default() }),
        ..seq("k", None)
    };
    let (granted, failed) =
        flood(&mut greedy, (0..3_000).map(|n| named(format!("greedy{n}")))).await;
    assert_eq!(granted, 750);
    refused_for(failed, "named requests");
    greedy.get_seq(named("greedy0".into())).await.unwrap();
    let requests = (0..100).map(|n| named(format!("modest{n}")));
    assert_eq!(flood(&mut modest, requests).await, (100, None));
}

#[tokio::test]
async fn one_client_cannot_take_all_leases() {
    let limits = state::Limits { leases: 100, ..state::Limits::default() };
    let server = serving(capped(limits)).await;
    let (mut greedy, mut modest) = (client(&server, GREEDY).await, client(&server, MODEST).await);
    let lease = |holder: String| AcquireLeaseRequest {
        holder: holder.into_bytes().into(),
        holder_epoch: 1,
        ttl_ms: 60_000,
    };
    let mut refused: Option<Status> = None;
    let mut held = 0;
    for n in 0..200 {
        match greedy.acquire_lease(lease(format!("greedy{n}"))).await {
            Ok(_) => held += 1,
            Err(status) => refused = Some(status),
        }
    }
    assert_eq!(held, 75);
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("this client's share of stamping leases"), "{refused:?}");
    for n in 0..10 {
        modest.acquire_lease(lease(format!("modest{n}"))).await.unwrap();
    }
}

#[tokio::test]
async fn one_stream_cannot_fill_the_queue() {
    let driver = Scripted::leader();
    let options = OracleOptions { max_waiting: 100, ..OracleOptions::default() };
    let builder = Server::builder().driver(driver.clone()).options(options);
    let server = Running::start(builder).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let (mut greedy, modest) = (client(&server, GREEDY).await, client(&server, MODEST).await);
    driver.behave(Manner::Hang);
    // Ten requests a message, and no more messages than a stream has under way at once.
    let message = StreamSeqRequest { requests: vec![seq("k", None); 10], run: None };
    let messages = stream::iter(vec![message; 15]);
    let mut answers = greedy.stream_seq(messages).await.unwrap().into_inner();
    while server.oracle.status().waiting < 70 {
        tokio::task::yield_now().await;
    }
    let waiting = (0..10).map(|_| {
        let mut modest = modest.clone();
        tokio::spawn(async move { modest.get_seq(seq("m", None)).await })
    });
    let waiting: Vec<_> = waiting.collect();
    while server.oracle.status().waiting < 80 && !waiting.iter().any(|call| call.is_finished()) {
        tokio::task::yield_now().await;
    }
    driver.behave(Manner::Commit);
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    let mut refused = None;
    let mut granted = 0;
    while let Some(answer) = answers.next().await {
        for outcome in answer.unwrap().outcomes {
            match outcome.outcome.unwrap() {
                Outcome::Granted(_) => granted += 1,
                Outcome::Failed(failure) => refused = Some(failure),
            }
        }
    }
    assert!(granted <= 80, "{granted}");
    refused_for(refused, "waiting requests");
}

#[tokio::test]
async fn answers_that_are_not_read_are_bounded_and_freed() {
    let limits = Limits { unread_answers: 60, ..Limits::default() };
    let server = Running::start(Server::builder().driver(memory().await).limits(limits)).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let narrow = || async {
        let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap();
        // What the server sends beyond this waits until it is read.
        let endpoint = endpoint.local_address(Some(host(GREEDY))).initial_stream_window_size(1);
        TsoServiceClient::new(endpoint.connect().await.unwrap())
    };
    let message = StreamSeqRequest { requests: vec![seq("k", None); 5], run: None };
    let mut greedy = narrow().await;
    for _ in 0..3 {
        let mut streams = vec![];
        for _ in 0..3 {
            let messages = stream::iter(vec![message.clone(); 30]);
            streams.push(greedy.stream_seq(messages).await.unwrap().into_inner());
        }
        let mut modest = client(&server, MODEST).await;
        for _ in 0..20 {
            let requests = (0..5).map(|_| seq("m", None));
            assert_eq!(flood(&mut modest, requests).await, (5, None));
        }
        let mut ended = 0;
        for mut answers in streams {
            let last = loop {
                match answers.next().await {
                    Some(Ok(_)) => {}
                    last => break last,
                }
            };
            if let Some(Err(status)) = last {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("share of unread answers"), "{status}");
                ended += 1;
            }
        }
        assert!(ended > 0);
        // What was not read goes with the connection.
        let mut unread = vec![];
        for _ in 0..3 {
            let messages = stream::iter(vec![message.clone(); 30]);
            unread.push(greedy.stream_seq(messages).await.unwrap().into_inner());
        }
        greedy = narrow().await;
        drop(unread);
        let mut again = client(&server, GREEDY).await;
        loop {
            // Until the server has noticed.
            let messages = stream::iter([message.clone()]);
            let mut answers = again.stream_seq(messages).await.unwrap().into_inner();
            if answers.next().await.unwrap().is_ok() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_milliseconds_starve_no_other_client() {
    let server = serving(OracleOptions::default()).await;
    let (greedy, mut modest) = (client(&server, GREEDY).await, client(&server, MODEST).await);
    let flood: Vec<_> = (0..500)
        .map(|_| {
            let mut greedy = greedy.clone();
            tokio::spawn(async move {
                loop {
                    // Some are refused, since they wait too long.
                    let _ = greedy.get_ts(GetTsRequest { count: TIMESTAMPS_PER_MS }).await;
                }
            })
        })
        .collect();
    // Until time has run as far ahead as it may for large counts.
    while server.oracle.status().waiting < 100 {
        tokio::task::yield_now().await;
    }
    for count in [1, 1_000, TIMESTAMPS_PER_MS] {
        for _ in 0..100 {
            modest.get_ts(GetTsRequest { count }).await.unwrap();
        }
        let calls = (0..10).map(|_| {
            let mut modest = modest.clone();
            async move { modest.get_ts(GetTsRequest { count }).await }
        });
        assert!(join_all(calls).await.iter().all(Result::is_ok));
    }
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn one_client_cannot_have_all_calls_under_way() {
    let limits = Limits { calls: 4, ..Limits::default() };
    let server = Running::start(Server::builder().driver(memory().await).limits(limits)).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let (mut greedy, mut modest) = (client(&server, GREEDY).await, client(&server, MODEST).await);
    let mut lasting = vec![];
    for _ in 0..2 {
        lasting.push(greedy.stream_ts(stream::pending()).await.unwrap());
    }
    // Those that no service of ours answers count as well.
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = channel.local_address(Some(host(GREEDY))).connect().await.unwrap();
    let watched = HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap();
    let refused = [
        greedy.get_ts(GetTsRequest { count: 1 }).await.unwrap_err(),
        greedy.get_seq(seq("k", None)).await.unwrap_err(),
        greedy.stream_seq(stream::pending()).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let share = "this client's share of calls under way is used up: it has 3 of the 4";
        assert!(status.message().contains(share), "{status}");
        assert!(metadata::has_flag(status.metadata(), metadata::SESSIONS), "{status:?}");
    }
    // One after the other, each of which gives its place back.
    for start in 0..3 {
        let granted = modest.get_seq(seq("k", None)).await.unwrap().into_inner();
        assert_eq!(granted.start, start, "nothing that was refused was done");
        modest.get_ts(GetTsRequest { count: 1 }).await.unwrap();
    }
    drop((lasting, watched));
    // Once the server has noticed, and more than once.
    for _ in 0..4 {
        while greedy.get_ts(GetTsRequest { count: 1 }).await.is_err() {}
    }
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() {
    let limits = Limits { connections: 8, ..Limits::default() };
    let server = Running::start(Server::builder().driver(memory().await).limits(limits)).await;
    let connect = |number| {
        let address = server.address;
        async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((host(number), 0).into()).unwrap();
            let mut stream = socket.connect(address).await.unwrap();
            // What every client of HTTP/2 begins with, which a server answers at once.
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
            let served = stream.read_u8().await.is_ok();
            (stream, served)
        }
    };
    let mut held = vec![];
    for expected in [true, true, true, true, true, true, false, false] {
        let (stream, served) = connect(GREEDY).await;
        assert_eq!(served, expected, "connection {}", held.len());
        held.push(stream);
    }
    let (one, served) = connect(MODEST).await;
    assert!(served);
    let (other, served) = connect(9).await;
    assert!(served);
    drop((held, one, other));
}
