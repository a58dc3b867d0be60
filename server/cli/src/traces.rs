//! Traces of requests, for a collector that speaks OTLP over gRPC.
//!
//! Nobody ever waits for the collector: spans that do not fit into the queue, and those that it does not take in time, are
//! lost and counted.

use std::{
    fs,
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Uri, uri::Scheme};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        Sampler, SdkTracerProvider, Span as SdkSpan, SpanData, SpanExporter as _, SpanProcessor,
    },
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::{Certificate, ClientTlsConfig};
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer as _, filter::filter_fn};
use tsoracle_core::{Clock as _, SPANS, SystemClock};

use crate::{failure::Failure, log::BoxedLayer};

/// How many spans wait for the collector at most: a megabyte or two.
const MOST: usize = 4_096;

/// How many of them go at once.
const BATCH: usize = 512;

/// How long spans gather before they go.
const GATHER: Duration = Duration::from_millis(200);

/// How long the collector may take for what it is given at once.
const TAKEN: Duration = Duration::from_secs(5);

/// How long the end of the program waits for what is left: where all is well, and where it has failed.
const LAST_SPANS: [Duration; 2] = [Duration::from_secs(2), Duration::from_millis(300)];

/// The end has come: spans gather no longer.
static ENDING: Notify = Notify::const_new();

static ENDED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many spans were sent, and how many were lost.
pub(crate) fn counts() -> (u64, u64) {
    (SENT.load(Ordering::Relaxed), LOST.load(Ordering::Relaxed))
}

/// Takes spans of requests to the collector at `endpoint` from now on, by way of the layer that is returned, and the task
/// that sends them. What its caller has not decided is traced in this share of cases. Must be called within a tokio
/// runtime.
///
/// # Errors
/// The endpoint is none, or it and `authorities` do not go together; these cannot be read.
pub(crate) fn start(
    endpoint: &str,
    authorities: Option<&Path>,
    ratio: f64,
) -> Result<(BoxedLayer, JoinHandle<()>), Failure> {
    let tls = tls(endpoint, authorities)?;
    let resource = Resource::builder().with_service_name("tsoracle");
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = resource.with_attribute(version).build();
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    let mut exporter = exporter.with_timeout(TAKEN);
    if let Some(tls) = tls {
        exporter = exporter.with_tls_config(tls);
    }
    let exporter = exporter.build();
    let mut exporter = exporter.map_err(|error| {
        Failure::usage(format!("--otlp-endpoint {endpoint} cannot be used: {error}"))
    })?;
    exporter.set_resource(&resource);
    let (queue, queued) = mpsc::channel(MOST);
    let sending = tokio::spawn(send(queued, exporter));
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(resource)
        .with_span_processor(Queue(queue))
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tsoracle"));
    let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
    let layer = layer.with_level(false).with_target(false);
    Ok((layer.with_filter(filter_fn(|metadata| metadata.target() == SPANS)).boxed(), sending))
}

/// How to encrypt what goes to the collector, if it is encrypted.
fn tls(endpoint: &str, authorities: Option<&Path>) -> Result<Option<ClientTlsConfig>, Failure> {
    let wrong = |context: String| Err(Failure::usage(context));
    let uri = endpoint.parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
    let scheme = uri.as_ref().and_then(Uri::scheme);
    let is_encrypted = scheme == Some(&Scheme::HTTPS);
    if !is_encrypted && scheme != Some(&Scheme::HTTP) {
        return wrong(format!(
            "--otlp-endpoint is http://HOST:PORT, or https://HOST:PORT with --otlp-ca, not {endpoint:?}"
        ));
    }
    let Some(path) = authorities else {
        return match is_encrypted {
            true => wrong(format!(
                "--otlp-endpoint {endpoint}: name the authorities of the collector's certificate by --otlp-ca FILE"
            )),
            false => Ok(None),
        };
    };
    if !is_encrypted {
        return wrong(format!(
            "--otlp-ca is for a collector at https://, and --otlp-endpoint is {endpoint}"
        ));
    }
    let place = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => text,
        Ok(_) => return wrong(format!("--otlp-ca {place} has no certificate in it")),
        Err(error) => return wrong(format!("--otlp-ca {place} cannot be read: {error}")),
    };
    Ok(Some(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(text))))
}

/// The span of a call, within the trace that its caller names.
pub(crate) fn span_of(call: &'static str, headers: &HeaderMap) -> Span {
    static CONTEXTS: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);
    let (service, method) = call.split_once('/').unwrap_or(("", call));
    let span = info_span!(
        target: SPANS,
        "request",
        "otel.name" = call,
        "otel.kind" = "server",
        "rpc.system" = "grpc",
        "rpc.service" = service,
        "rpc.method" = method,
        "rpc.grpc.status_code" = Empty,
    );
    let context = CONTEXTS.extract_with_context(&Context::new(), &Headers(headers));
    if context.span().span_context().is_valid() {
        // It fails only where there is no layer for spans.
        let _ = span.set_parent(context);
    }
    span
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Spans on their way.
#[derive(Debug)]
struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut SdkSpan, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        ENDED.fetch_add(1, Ordering::Relaxed);
        if self.0.try_send(span).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends what is queued, for ever.
async fn send(mut queue: mpsc::Receiver<SpanData>, exporter: SpanExporter) {
    let mut is_lost = false;
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let Some(first) = queue.recv().await else { return };
        batch.push(first);
        tokio::select! {
            () = SystemClock.sleep(GATHER) => {}
            () = ENDING.notified() => {}
        }
        while batch.len() < BATCH
            && let Ok(span) = queue.try_recv()
        {
            batch.push(span);
        }
        let count = batch.len() as u64;
        let error = match timeout(TAKEN, exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("it has not answered within {TAKEN:?}")),
        };
        let counter = if error.is_some() { &LOST } else { &SENT };
        counter.fetch_add(count, Ordering::Relaxed);
        // Logged once for as long as it lasts.
        match (error, is_lost) {
            (Some(error), false) => {
                tracing::warn!(error, "the collector takes no spans; they are lost");
                is_lost = true;
            }
            (None, true) => {
                tracing::info!("the collector takes spans again");
                is_lost = false;
            }
            _ => {}
        }
    }
}

/// Waits until all spans are sent, for a moment at most.
pub(crate) async fn flush(all_is_well: bool) {
    let [well, failed] = LAST_SPANS;
    let sent = async {
        loop {
            let (sent, lost) = counts();
            if sent + lost >= ENDED.load(Ordering::Relaxed) {
                return;
            }
            ENDING.notify_one();
            SystemClock.sleep(GATHER / 10).await;
        }
    };
    let _ = timeout(if all_is_well { well } else { failed }, sent).await;
}
