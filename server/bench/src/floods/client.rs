//! The client that asks for everything, and the one beside it. They are told apart by their addresses, of which
//! the loopback device has many.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::{
    StreamExt as _,
    future::{join_all, pending, ready},
    stream,
};
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tsoracle_core::{Clock as _, SystemClock, TIMESTAMPS_PER_MS};
use tsoracle_proto::v1::{
    AcquireLeaseRequest, GetSeqRequest, GetTsRequest, RequestId, StreamSeqRequest,
    tso_service_client::TsoServiceClient,
};

use super::kind::Kind;
use tsoracle::{
    bench::load::{Caller, Refusal},
    failure::Failure,
};

type Client = TsoServiceClient<Channel>;

/// How many requests there are in a message of a stream: as many as it may have.
const A_MESSAGE: u128 = 4_096;

/// How many requests of one session the client beside the flood makes.
const OF_A_SESSION: u64 = 50;

fn endpoint(address: &str, number: u8) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(Failure::failed)?;
    let own: IpAddr = Ipv4Addr::new(127, 0, 0, number).into();
    Ok(endpoint.tcp_nodelay(true).local_address(Some(own)))
}

async fn dialed(endpoint: &Endpoint) -> Result<Client, Failure> {
    let channel = endpoint.connect().await;
    Ok(TsoServiceClient::new(channel.map_err(|error| Failure::failed(format!("{error:#}")))?))
}

/// The client whose calls are measured.
#[derive(Clone)]
pub(super) struct Modest {
    client: Client,
    sequences: bool,
    calls: u64,
    /// Of this run: no two have the same sessions.
    run: u64,
}

impl Modest {
    pub(super) async fn connect(address: &str) -> Result<Self, Failure> {
        let client = dialed(&endpoint(address, 3)?).await?;
        Ok(Self { client, sequences: false, calls: 0, run: 0 })
    }

    /// The same, asking for blocks of a sequence, each a request of a session; or else for timestamps.
    pub(super) fn asking(&self, sequences: bool, run: u64) -> Self {
        Self { sequences, run, calls: 0, ..self.clone() }
    }
}

impl Caller for Modest {
    async fn call(&mut self) -> Result<(), Refusal> {
        let answered = if self.sequences {
            let session = u128::from(self.run + 1) << 64 | u128::from(self.calls / OF_A_SESSION);
            let number = self.calls % OF_A_SESSION + 1;
            self.calls += 1;
            let request_id = Some(in_session(session, number));
            let request = GetSeqRequest { key: "modest".into(), count: 1, request_id };
            self.client.get_seq(request).await.map(drop)
        } else {
            self.client.get_ts(GetTsRequest { count: 1 }).await.map(drop)
        };
        answered.map_err(|status| Refusal {
            kind: format!("{:?}", status.code()),
            message: status.message().into(),
        })
    }
}

fn in_session(session: u128, number: u64) -> RequestId {
    RequestId {
        session: session.to_be_bytes().to_vec().into(),
        number,
        first_incomplete: number,
        ..RequestId::default()
    }
}

/// Asks for everything of this kind until the process is ended.
pub(super) async fn flood(kind: Kind, address: &str) -> Result<(), Failure> {
    let endpoint = endpoint(address, 2)?;
    match kind {
        Kind::Sessions => fill(&endpoint, new_session).await,
        Kind::Names => fill(&endpoint, new_name).await,
        Kind::Keys => fill(&endpoint, new_key).await,
        Kind::Queue => fill(&endpoint, one_key).await,
        Kind::Leases => leases(&endpoint).await,
        Kind::Timestamps => timestamps(&endpoint).await,
        Kind::Unread => unread(&endpoint).await,
        Kind::Headers => headers(&endpoint).await,
    }
}

fn one_key(_: u128) -> GetSeqRequest {
    GetSeqRequest { key: "greedy".into(), count: 1, request_id: None }
}

fn new_session(number: u128) -> GetSeqRequest {
    GetSeqRequest { request_id: Some(in_session(number, 1)), ..one_key(number) }
}

fn new_name(number: u128) -> GetSeqRequest {
    let name = format!("name-{number}");
    GetSeqRequest {
        request_id: Some(RequestId { name, ..RequestId::default() }),
        ..one_key(number)
    }
}

fn new_key(number: u128) -> GetSeqRequest {
    GetSeqRequest { key: format!("key-{number}"), ..one_key(number) }
}

/// One stream, which sends as much as the server takes in.
async fn fill(endpoint: &Endpoint, request: fn(u128) -> GetSeqRequest) -> Result<(), Failure> {
    let mut client = dialed(endpoint).await?;
    let messages = stream::iter(0..).map(move |message: u128| {
        let numbers = message * A_MESSAGE..(message + 1) * A_MESSAGE;
        StreamSeqRequest { requests: numbers.map(request).collect(), run: None }
    });
    let answers = client.stream_seq(messages).await.map_err(refused)?;
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.next().await {
        answer.map_err(refused)?;
    }
    Err(Failure::failed("the server has ended the stream"))
}

async fn leases(endpoint: &Endpoint) -> Result<(), Failure> {
    let client = dialed(endpoint).await?;
    let callers = (0..64).map(|caller| {
        let mut client = client.clone();
        async move {
            for number in 0_u64.. {
                let holder = format!("{caller}-{number}").into_bytes().into();
                let request = AcquireLeaseRequest { holder, holder_epoch: 1, ttl_ms: 60_000 };
                // Most are refused.
                let _ = client.acquire_lease(request).await;
            }
        }
    });
    join_all(callers).await;
    Ok(())
}

async fn timestamps(endpoint: &Endpoint) -> Result<(), Failure> {
    let client = dialed(endpoint).await?;
    let callers = (0..500).map(|_| {
        let mut client = client.clone();
        async move {
            loop {
                // Some wait for too long, and are refused.
                let _ = client.get_ts(GetTsRequest { count: TIMESTAMPS_PER_MS }).await;
            }
        }
    });
    join_all(callers).await;
    Ok(())
}

/// How long an answer is left unread.
const UNREAD: Duration = Duration::from_secs(1);

/// Streams whose answers are not read, and new ones after a while.
async fn unread(endpoint: &Endpoint) -> Result<(), Failure> {
    let message = StreamSeqRequest { requests: vec![one_key(0); A_MESSAGE as usize], run: None };
    let endpoint = endpoint.clone().initial_stream_window_size(1);
    let mut streams = vec![];
    for _ in 0..4 {
        let client = dialed(&endpoint).await?;
        streams.extend((0..250).map(|_| (client.clone(), message.clone())));
    }
    let streams = streams.into_iter().map(|(mut client, message)| async move {
        loop {
            let messages = stream::iter(std::iter::repeat_n(message.clone(), 20));
            let unread = client.stream_seq(messages.chain(stream::pending())).await;
            SystemClock.sleep(UNREAD).await;
            drop(unread);
        }
    });
    join_all(streams).await;
    Ok(())
}

/// Calls with the largest headers, which never send anything else.
async fn headers(endpoint: &Endpoint) -> Result<(), Failure> {
    let text = "x".repeat(14_000);
    let value = MetadataValue::try_from(text).map_err(Failure::failed)?;
    let mut calls = vec![];
    for _ in 0..100 {
        // Some connections are refused.
        let Ok(client) = dialed(endpoint).await else { continue };
        calls.extend((0..1_000).map(|_| {
            let (mut client, value) = (client.clone(), value.clone());
            async move {
                loop {
                    let mut request = Request::new(stream::pending::<StreamSeqRequest>());
                    request.metadata_mut().insert("x-long", value.clone());
                    if let Ok(answers) = client.stream_seq(request).await {
                        // Until the server ends it.
                        answers.into_inner().for_each(|_| ready(())).await;
                    }
                }
            }
        }));
    }
    join_all(calls).await;
    pending().await
}

fn refused(status: Status) -> Failure {
    Failure::failed(format!("the server has refused a stream: {status}"))
}
