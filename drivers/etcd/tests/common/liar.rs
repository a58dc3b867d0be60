//! A proxy to etcd that passes everything on, and answers some transactions with an error after etcd has made them.

use std::{
    convert::Infallible,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

/// What is in a transaction that the proxy is to lie about.
pub(crate) const MARK: &str = "lied about";

/// A proxy, which runs as long as the test.
pub(crate) struct Liar {
    pub(crate) port: u16,
    lies: Arc<Mutex<Lies>>,
}

#[derive(Default)]
struct Lies {
    answer: Option<(Code, String)>,
    /// How many are left.
    count: usize,
}

impl Liar {
    /// A proxy to the member at a port.
    pub(crate) async fn before(member: u16) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{member}")).unwrap();
        let (channel, lies) = (endpoint.connect_lazy(), Arc::<Mutex<Lies>>::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Server::builder()
            .add_service(Forward::<Kv>::new(&channel, &lies))
            .add_service(Forward::<Lease>::new(&channel, &lies))
            .add_service(Forward::<Watch>::new(&channel, &lies))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(served);
        Self { port, lies }
    }

    /// Answers the next transactions with the mark in this way.
    pub(crate) fn lie(&self, code: Code, text: &str, count: usize) {
        *self.lies.lock().unwrap() = Lies { answer: Some((code, text.into())), count };
    }
}

/// Passes on the calls of one service of etcd's.
struct Forward<N> {
    channel: Channel,
    lies: Arc<Mutex<Lies>>,
    name: PhantomData<fn() -> N>,
}

macro_rules! services {
    ($($kind:ident = $name:literal),+) => {
        $(
            struct $kind;
            impl NamedService for Forward<$kind> {
                const NAME: &'static str = $name;
            }
        )+
    };
}

services!(Kv = "etcdserverpb.KV", Lease = "etcdserverpb.Lease", Watch = "etcdserverpb.Watch");

impl<N> Forward<N> {
    fn new(channel: &Channel, lies: &Arc<Mutex<Lies>>) -> Self {
        Self { channel: channel.clone(), lies: lies.clone(), name: PhantomData }
    }
}

impl<N> Clone for Forward<N> {
    fn clone(&self) -> Self {
        Self::new(&self.channel, &self.lies)
    }
}

impl<N: 'static> Service<http::Request<Body>> for Forward<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (channel, lies) = (self.channel.clone(), self.lies.clone());
        Box::pin(async move { Ok(forward(channel, &lies, request).await) })
    }
}

async fn forward(
    mut channel: Channel,
    lies: &Mutex<Lies>,
    request: http::Request<Body>,
) -> http::Response<Body> {
    let (head, body) = request.into_parts();
    let mut is_marked = false;
    let body = match head.uri.path().ends_with("/Txn") {
        true => {
            let bytes = body.collect().await.unwrap().to_bytes();
            is_marked = bytes.windows(MARK.len()).any(|part| part == MARK.as_bytes());
            Body::new(Full::new(bytes))
        }
        // A stream ends when either end does.
        false => body,
    };
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answered = match channel.call(http::Request::from_parts(head, body)).await {
        Ok(answer) => answer,
        Err(error) => return Status::unavailable(error.to_string()).into_http(),
    };
    let mut lies = lies.lock().unwrap();
    match &lies.answer {
        Some((code, text)) if is_marked && lies.count > 0 => {
            let lie = Status::new(*code, text).into_http();
            lies.count -= 1;
            lie
        }
        _ => answered,
    }
}
