//! What a node tells over plain HTTP: probes for supervisors, metrics for Prometheus, and a status page for people.

mod hosts;
mod status;

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tsoracle_core::{BootTime, Clock as _, Oracle, Phase, SystemClock};
use tsoracle_server::{Pages, serve_probes};

pub(crate) use self::hosts::Hosts;
use crate::{failure::Failure, output, recorder::Scrape};

/// How many scrapes and looks at the status are answered a second at each address. Probes are not among them.
const A_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("it is not 0");

/// How long a probe waits until the lease of an idle leader is renewed, or cannot be.
const RENEWED: Duration = Duration::from_millis(500);

/// How often what was measured lately is taken together.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often it is looked what is wrong, so that it is known since when.
const LOOK: Duration = Duration::from_secs(1);

/// The page loads nothing from elsewhere, runs no code but its own, and is shown in no other page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("web/page.html");
const SCRIPT: &str = include_str!("web/page.js");
const STYLE: &str = include_str!("web/page.css");

/// What is there, for whoever asks for something else.
const AT_PROBES: &str = "there are /livez, /readyz and /metrics here, to GET";
const AT_PAGES: &str = "there are /, /status, /metrics, /livez and /readyz here, to GET";

/// What the pages show.
#[derive(Clone, Debug)]
pub(crate) struct Web(Arc<Shown>);

#[derive(Debug)]
struct Shown {
    driver: String,
    started: BootTime,
    scrape: Scrape,
    /// Once its state is open.
    oracle: OnceLock<(Oracle, Option<String>)>,
}

/// A look at this costs something, so that there are only so many.
#[derive(Clone, Debug)]
struct Costly {
    web: Web,
    rate: Arc<DefaultDirectRateLimiter>,
}

impl Web {
    /// Of a node that is about to open a driver.
    pub(crate) fn new(driver: &str, scrape: Scrape) -> Self {
        let started = SystemClock.now().boot;
        Self(Arc::new(Shown { driver: driver.into(), started, scrape, oracle: OnceLock::new() }))
    }

    /// This is the oracle, which clients reach there.
    pub(crate) fn show(&self, oracle: Oracle, endpoint: Option<String>) {
        // It is shown once.
        let _ = self.0.oracle.set((oracle, endpoint));
    }

    fn oracle(&self) -> Option<&Oracle> {
        self.0.oracle.get().map(|(oracle, _)| oracle)
    }

    /// Answers probes and Prometheus, for as long as what is returned is polled.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(crate) fn serve_probes(
        &self,
        address: SocketAddr,
    ) -> Result<impl Future<Output = ()> + use<>, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::failed(format!("cannot serve probes and metrics on {address}: {error:#}"))
        };
        let listener = std::net::TcpListener::bind(address).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(cannot)?;
        tracing::info!("serving metrics on http://{address}/metrics, and /livez and /readyz");
        let routes = finished(self.probes(), AT_PROBES);
        Ok(serve_probes(listener, routes))
    }

    /// Takes together what was measured lately, and looks what is wrong, now and then. Never returns.
    pub(crate) async fn keep_up(self) {
        let mut upkeep = SystemClock.now().boot + UPKEEP;
        loop {
            SystemClock.sleep(LOOK).await;
            self.oracle().map(Oracle::problems);
            if SystemClock.now().boot >= upkeep {
                self.0.scrape.run_upkeep();
                upkeep = SystemClock.now().boot + UPKEEP;
            }
        }
    }

    /// The status page and all else, for those who may see it.
    pub(crate) fn pages(&self, hosts: Hosts) -> Pages {
        let file = |kind: &'static str, text: &'static str| -> MethodRouter {
            get(async move || ([(header::CONTENT_TYPE, kind)], text))
        };
        let costly = Costly { web: self.clone(), rate: rate() };
        let routes = Router::new()
            .route("/", file("text/html; charset=utf-8", PAGE))
            .route("/page.js", file("text/javascript; charset=utf-8", SCRIPT))
            .route("/page.css", file("text/css; charset=utf-8", STYLE))
            .route("/status", get(status).with_state(costly))
            .layer(middleware::from_fn_with_state(hosts, hosts::check))
            .merge(self.probes());
        let open = ["/", "/page.js", "/page.css", "/livez", "/readyz"];
        Pages::new(finished(routes, AT_PAGES)).open_to_all(open)
    }

    fn probes(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .with_state(Costly { web: self.clone(), rate: rate() })
            .merge(
                Router::new()
                    .route("/livez", get(livez))
                    .route("/readyz", get(readyz))
                    .with_state(self.clone()),
            )
    }
}

fn rate() -> Arc<DefaultDirectRateLimiter> {
    Arc::new(RateLimiter::direct(Quota::per_second(A_SECOND)))
}

/// Says what there is to whoever asks for something else, and has nothing kept.
fn finished(routes: Router, there_is: &'static str) -> Router {
    let missing = async move || (StatusCode::NOT_FOUND, line(&format!("no such page; {there_is}")));
    let not_allowed = async move || {
        let text = line(&format!("that is nothing to do here; {there_is}"));
        (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], text)
    };
    routes
        .fallback(missing)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::map_response(with_headers))
}

async fn with_headers(mut response: Response) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn line(text: &str) -> String {
    format!("{}\n", output::printable(text).replace('\n', " "))
}

/// Refuses what is one too many.
fn refuse(rate: &DefaultDirectRateLimiter) -> Option<Response> {
    rate.check().err().map(|_| {
        let text = line(&format!(
            "more than {A_SECOND} of these a second are not answered; ask again later"
        ));
        (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], text).into_response()
    })
}

async fn metrics(State(Costly { web, rate }): State<Costly>) -> Response {
    if let Some(refused) = refuse(&rate) {
        return refused;
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, web.0.scrape.render()).into_response()
}

async fn status(State(Costly { web, rate }): State<Costly>) -> Response {
    if let Some(refused) = refuse(&rate) {
        return refused;
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    match output::json(&status::Status::of(&web.0)) {
        Ok(text) => (json, text).into_response(),
        Err(failure) => {
            (StatusCode::INTERNAL_SERVER_ERROR, line(&failure.to_string())).into_response()
        }
    }
}

/// Whether the process is sound: one that is not is restarted.
async fn livez(State(web): State<Web>) -> (StatusCode, String) {
    let phase = web.oracle().map(|oracle| oracle.phase().borrow().clone());
    match phase {
        None => (StatusCode::OK, line("starting: the state is being opened")),
        Some(Phase::Failed(reason)) => {
            let text = format!("this node has failed, and serves no more: {reason}");
            (StatusCode::SERVICE_UNAVAILABLE, line(&text))
        }
        Some(_) => (StatusCode::OK, line("alive")),
    }
}

/// Whether the node takes part: it leads, or follows a leader that it knows. What a rolling restart waits for.
async fn readyz(State(web): State<Web>) -> (StatusCode, String) {
    let not_ready = |text: &str| (StatusCode::SERVICE_UNAVAILABLE, line(text));
    let Some(oracle) = web.oracle() else {
        return not_ready("starting: the state is being opened");
    };
    let phase = oracle.phase().borrow().clone();
    match &phase {
        // Nothing else tells an idle leader that there is no majority any more.
        Phase::Serving { .. }
            if oracle.status().epoch.is_none() && !oracle.with_hold(RENEWED).serves().await =>
        {
            not_ready(&with_problems(
                oracle,
                "this node leads, and does not serve: it cannot renew its lease",
            ))
        }
        Phase::Serving { epoch } => (StatusCode::OK, line(&format!("leading, epoch {epoch}"))),
        Phase::Following(Some(leader)) => {
            (StatusCode::OK, line(&format!("following {}", leader.endpoint)))
        }
        other => not_ready(&with_problems(oracle, status::in_words(other).1)),
    }
}

/// Words about a node, and what is wrong with it.
fn with_problems(oracle: &Oracle, words: &str) -> String {
    let problems = oracle.problems();
    let problems: Vec<_> = problems.iter().map(|problem| &*problem.finding.what).collect();
    match problems.is_empty() {
        true => words.into(),
        false => format!("{words}: {}", problems.join("; ")),
    }
}

#[cfg(test)]
#[path = "web_test.rs"]
mod tests;
