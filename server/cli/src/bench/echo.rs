use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::Read as _,
    path::Path,
    task::{Context, Poll},
};

use tokio::{net::TcpListener, sync::oneshot};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tsoracle_proto::v1::{GetTsRequest, GetTsResponse};

use super::process::Process;
use crate::{failure::Failure, output::print_line};

/// The hidden command that serves the echo.
pub const COMMAND: &str = "bench-echo";

/// What a unary call over this transport costs at least: whatever is asked is answered at once,
/// with a message of the size that GetTs answers with.
#[derive(Clone, Copy, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "tsoracle.v1.TsoService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async { Ok(Grpc::new(ProstCodec::default()).unary(Self, request).await) })
    }
}

impl UnaryService<GetTsRequest> for Echo {
    type Response = GetTsResponse;
    type Future = Ready<Result<Response<GetTsResponse>, Status>>;

    fn call(&mut self, request: Request<GetTsRequest>) -> Self::Future {
        ready(Ok(Response::new(GetTsResponse {
            physical_ms: 1_795_359_025_822,
            logical_start: 2,
            count: request.into_inner().count,
            epoch_hi: 0,
            epoch_lo: 1,
        })))
    }
}

/// Serves the echo on a free port of this machine until standard input ends, which it does at the
/// latest when the process that started it is gone.
pub async fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Failure::failed)?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    print_line(&format!("echo on {address}"))?;
    let (open, closed) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(open);
    });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::select! {
        served = Server::builder().add_service(Echo).serve_with_incoming(incoming) => {
            served.map_err(Failure::failed)
        }
        _ = closed => Ok(()),
    }
}

/// Starts the echo in a process of its own.
pub fn start() -> Result<Process, Failure> {
    Process::start(Path::new("."), &[COMMAND])
}
