//! What is counted, for Prometheus, over plain HTTP.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tsoracle_core::{Clock as _, SystemClock};

use crate::{
    failure::Failure,
    recorder::{self, Scrape},
};

/// The most connections at once; one beyond it is closed. They are of what is kept free of clients.
const MOST: usize = 32;

/// How long a connection may last. Whoever scrapes begins another one.
const LASTS: Duration = Duration::from_secs(60);

/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(5);

/// How long a request may be where hyper does not read it.
const MOST_BYTES: u64 = 16 << 10;

/// How long the listener is left alone when it fails, as it does without descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// How often what was measured lately is taken together.
const UPKEEP: Duration = Duration::from_secs(5);

/// Has all that is counted from now on be served, for as long as what is returned is polled.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) fn serve(address: SocketAddr) -> Result<impl Future<Output = ()>, Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot serve metrics on {address}: {error:#}"))
    };
    let listener = std::net::TcpListener::bind(address).map_err(|error| cannot(&error))?;
    listener.set_nonblocking(true).map_err(|error| cannot(&error))?;
    let listener = TcpListener::from_std(listener).map_err(|error| cannot(&error))?;
    let handle = recorder::install()?;
    tracing::info!("serving metrics on http://{address}/metrics");
    Ok(answer(listener, handle))
}

async fn answer(listener: TcpListener, handle: Scrape) {
    let rendered = handle.clone();
    let routes = Router::new().route("/metrics", get(async move || rendered.render()));
    let mut connections = JoinSet::new();
    let mut upkeep = SystemClock.now().boot + UPKEEP;
    let mut fails = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = SystemClock.sleep_until(upkeep) => {
                handle.run_upkeep();
                upkeep = SystemClock.now().boot + UPKEEP;
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                fails = false;
                if connections.len() < MOST {
                    let served = serve_one(stream, routes.clone(), handle.clone());
                    connections.spawn(timeout(LASTS, served));
                }
            }
            Err(error) => {
                // Logged once for as long as it lasts.
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(%error, "cannot accept connections for metrics");
                }
                SystemClock.sleep(PAUSE).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, routes: Router, handle: Scrape) {
    // Before 1970 hyper panics: it looks at the date even where none is to be written.
    let served = match SystemClock.now().wall_ms {
        0 => answer_plainly(stream, &handle.render()).await,
        _ => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(REQUEST);
            let service = TowerToHyperService::new(routes);
            let served = builder.serve_connection(TokioIo::new(stream), service).await;
            served.map_err(io::Error::other)
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics has ended");
    }
}

/// Answers whatever is asked with what is counted, and hangs up.
async fn answer_plainly(stream: TcpStream, counted: &str) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = (&mut stream).take(MOST_BYTES).lines();
    while timeout(REQUEST, lines.next_line()).await??.is_some_and(|line| !line.is_empty()) {}
    let length = counted.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{counted}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
