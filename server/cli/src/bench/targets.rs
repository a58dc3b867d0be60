use std::{future::Future, sync::Arc};

use futures::FutureExt as _;
use tonic::{Code, Status};
use tsoracle_client::Client;
use tsoracle_proto::v1::{GetSeqRequest, GetTsRequest, tso_service_client::TsoServiceClient};

use super::{
    Op,
    load::{Caller, Measured, Refusal, Window, run},
};
use crate::{
    endpoints::{Channel, Endpoints, said},
    failure::Failure,
};

/// What is called, over connections that stand.
#[derive(Clone, Debug)]
pub enum Target {
    /// The plain protocol: one HTTP/2 request a call.
    Unary(Vec<TsoServiceClient<Channel>>),
    /// Our client, which puts callers together where the server lets it.
    Client(Vec<Client>),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub op: Op,
    pub batch: u32,
    pub keys: u64,
}

impl Target {
    /// Opens `connections` connections.
    pub async fn connect(
        endpoints: &Endpoints,
        connections: usize,
        unary: bool,
    ) -> Result<Self, Failure> {
        if unary {
            return leading(endpoints, connections).await.map(Self::Unary);
        }
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            clients.push(endpoints.connect().await?);
        }
        Ok(Self::Client(clients))
    }

    /// Puts `callers` to work, spread over the connections.
    pub async fn measure(
        &self,
        question: Question,
        callers: usize,
        window: Window,
        progress: bool,
    ) -> Measured {
        let Question { op, batch: count, keys } = question;
        // Every caller draws its own keys.
        let keys = |caller: usize| Keys { of: keys, state: caller as u64 };
        match self {
            Self::Unary(clients) => {
                let one = |caller: usize| Unary {
                    client: clients[caller % clients.len()].clone(),
                    op,
                    count,
                    keys: keys(caller),
                };
                run((0..callers).map(one).collect(), window, progress).await
            }
            Self::Client(clients) => {
                // A pointer, so that a call costs no more than the client itself takes.
                let clients: Vec<_> = clients.iter().cloned().map(Arc::new).collect();
                let client = |caller: usize| clients[caller % clients.len()].clone();
                match op {
                    Op::Ts => {
                        let one = |caller| ClientTs { client: client(caller), count };
                        run((0..callers).map(one).collect(), window, progress).await
                    }
                    Op::Seq => {
                        let one = |caller| ClientSeq {
                            client: client(caller),
                            count,
                            keys: keys(caller),
                        };
                        run((0..callers).map(one).collect(), window, progress).await
                    }
                }
            }
        }
    }

    /// Lets servers forget what they keep for these clients.
    pub async fn close(self) {
        if let Self::Client(clients) = self {
            for client in clients {
                client.close().await;
            }
        }
    }
}

/// Connects to the first of the servers that answers: unary calls follow no leader.
async fn leading(
    endpoints: &Endpoints,
    connections: usize,
) -> Result<Vec<TsoServiceClient<Channel>>, Failure> {
    let dialer = endpoints.dialer()?;
    let mut reason = String::new();
    for endpoint in endpoints.names() {
        let open = async || dialer.dial(endpoint).await.map(TsoServiceClient::new);
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            match open().await {
                Ok(client) => clients.push(client),
                Err(error) => {
                    reason = format!("cannot reach {endpoint}: {error:#}");
                    break;
                }
            }
        }
        if clients.len() < connections {
            continue;
        }
        let mut first = clients[0].clone();
        let asked = first.get_ts(GetTsRequest { count: 1 });
        match tokio::time::timeout(endpoints.timeout, asked).await {
            Ok(Ok(_)) => return Ok(clients),
            Ok(Err(status)) => {
                reason = format!("{endpoint} does not serve: {}", said(&status));
            }
            Err(_) => reason = format!("{endpoint} does not answer"),
        }
    }
    Err(Failure::failed(reason))
}

#[derive(Clone)]
struct Unary {
    client: TsoServiceClient<Channel>,
    op: Op,
    count: u32,
    keys: Keys,
}

impl Caller for Unary {
    async fn call(&mut self) -> Result<(), Refusal> {
        let count = self.count;
        let answered = match self.op {
            Op::Ts => self.client.get_ts(GetTsRequest { count }).await.map(drop),
            Op::Seq => {
                let request = GetSeqRequest { key: self.keys.draw(), count, request_id: None };
                self.client.get_seq(request).await.map(drop)
            }
        };
        answered.map_err(refused)
    }
}

#[derive(Clone)]
struct ClientTs {
    client: Arc<Client>,
    count: u32,
}

impl Caller for ClientTs {
    fn call(&mut self) -> impl Future<Output = Result<(), Refusal>> + Send {
        let answer = self.client.get_ts_batch(self.count);
        answer.map(|answer| answer.map(drop).map_err(failed))
    }
}

#[derive(Clone)]
struct ClientSeq {
    client: Arc<Client>,
    count: u32,
    keys: Keys,
}

impl Caller for ClientSeq {
    async fn call(&mut self) -> Result<(), Refusal> {
        let key = self.keys.draw();
        self.client.get_seq(key, self.count).await.map(drop).map_err(failed)
    }
}

/// Draws keys evenly, the same ones in each run.
#[derive(Clone)]
struct Keys {
    of: u64,
    state: u64,
}

impl Keys {
    /// By splitmix64, which is even enough and costs nothing.
    fn draw(&mut self) -> String {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        key((mixed ^ (mixed >> 31)) % self.of)
    }
}

/// The name of one of the keys that are drawn from.
pub fn key(number: u64) -> String {
    format!("bench-{number}")
}

fn refused(status: Status) -> Refusal {
    Refusal { kind: name(status.code()), message: status.message().into() }
}

fn failed(error: tsoracle_client::Error) -> Refusal {
    Refusal { kind: format!("{:?}", error.kind()), message: format!("{error:#}") }
}

/// A status code as protocols write it.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_drawn_from_all_and_no_others() {
        let mut keys = Keys { of: 8, state: 3 };
        let drawn: BTreeSet<_> = (0..200).map(|_| keys.draw()).collect();
        assert_eq!(drawn, (0..8).map(key).collect());
    }

    #[test]
    fn codes_have_their_names() {
        assert_eq!(name(Code::FailedPrecondition), "FAILED_PRECONDITION");
        assert_eq!(name(Code::Unavailable), "UNAVAILABLE");
    }
}
