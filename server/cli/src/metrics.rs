//! What is counted, for Prometheus, over plain HTTP.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tsoracle_core::{Clock as _, SystemClock};

use crate::failure::Failure;

/// The most connections at once; one beyond it is closed. They are of what is kept free of clients.
const MOST: usize = 32;

/// How long a connection may last. Whoever scrapes begins another one.
const LASTS: Duration = Duration::from_secs(60);

/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(5);

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
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| cannot(&error))?;
    tracing::info!("serving metrics on http://{address}/metrics");
    Ok(answer(listener, handle))
}

async fn answer(listener: TcpListener, handle: PrometheusHandle) {
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
                    connections.spawn(timeout(LASTS, serve_one(stream, routes.clone())));
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

async fn serve_one(stream: TcpStream, routes: Router) {
    let mut builder = http1::Builder::new();
    // Nobody needs the date, and to write one panics where the clock is before 1970.
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST).auto_date_header(false);
    let service = TowerToHyperService::new(routes);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for metrics has ended");
    }
}
