//! Traces, taken by a collector that stands for a real one.

use std::{path::Path, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Identity, ServerTlsConfig},
};
use tsoracle_proto::v1::{GetSeqRequest, GetTsRequest, tso_service_client::TsoServiceClient};

use crate::{
    node::{MOST, Node, error_line, run, stdout},
    ports::free_port,
    scrape::scrape_until,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// What has come to a collector.
struct Collected {
    endpoint: String,
    came: Arc<Mutex<mpsc::UnboundedReceiver<ExportTraceServiceRequest>>>,
}

impl Collected {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(tls: Option<ServerTlsConfig>) -> Self {
        let (sender, came) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let mut server = tonic::transport::Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let server = { server }.add_service(TraceServiceServer::new(Collector(sender)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { endpoint, came: Arc::new(Mutex::new(came)) }
    }

    /// The next spans, up to the last one of this name.
    async fn up_to(&self, name: &str) -> Vec<Span> {
        let mut spans = Vec::<Span>::new();
        while !spans.iter().any(|span| span.name == name) {
            let came = timeout(MOST, async { self.came.lock().await.recv().await }).await;
            let names = || spans.iter().map(|span| &*span.name).collect::<Vec<_>>();
            let request =
                came.unwrap_or_else(|_| panic!("{name} never comes, after {:?}", names()));
            let request = request.expect("the collector runs");
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.unwrap();
                let service = resource.attributes.iter().find(|one| one.key == "service.name");
                let service = service.and_then(|one| one.value.clone()?.value);
                assert_eq!(service, Some(Value::StringValue("tsoracle".into())));
                spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        spans
    }
}

fn number(span: &Span, name: &str) -> Option<i64> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.clone()?.value? {
        Value::IntValue(number) => Some(number),
        other => panic!("{name} is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request within the trace of a caller, who has it traced or not.
fn within_trace<T>(message: T, is_traced: bool) -> Request<T> {
    let mut request = Request::new(message);
    let flags = if is_traced { "01" } else { "00" };
    let context = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", context.parse().unwrap());
    request
}

fn seq(count: u32) -> GetSeqRequest {
    GetSeqRequest { key: "k".into(), count, request_id: None }
}

async fn client(node: &Node) -> TsoServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", node.address)).unwrap();
    TsoServiceClient::new(endpoint.connect().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_traced_if_their_callers_say_so() {
    let (directory, collected) = (TempDir::new().unwrap(), Collected::start().await);
    let traced = ["--otlp-endpoint", &collected.endpoint, "--trace-ratio", "0", "--log", "trace"];
    let mut node = Node::start(directory.path(), &[&["file"], &traced[..]].concat());
    node.close_log();
    let mut client = client(&node).await;
    client.get_seq(seq(1)).await.unwrap();
    client.get_seq(within_trace(seq(2), false)).await.unwrap();
    client.get_seq(within_trace(seq(3), true)).await.unwrap();
    let refused = client.get_ts(within_trace(GetTsRequest { count: 0 }, true)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let spans = collected.up_to("tsoracle.v1.TsoService/GetTs").await;
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    let [commit, advanced, refused] = &spans[..] else { panic!("{names:?}") };
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE, "{}", span.name);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    assert_eq!(advanced.name, "tsoracle.v1.TsoService/GetSeq");
    assert_eq!(hex(&advanced.parent_span_id), CALLER);
    assert_eq!(advanced.kind(), SpanKind::Server);
    assert_eq!(number(advanced, "rpc.grpc.status_code"), Some(0));
    assert_eq!(commit.name, "commit");
    assert_eq!(commit.parent_span_id, advanced.span_id);
    assert_eq!(number(commit, "commands"), Some(1));
    assert!(advanced.start_time_unix_nano <= commit.start_time_unix_nano);
    assert!(commit.end_time_unix_nano <= advanced.end_time_unix_nano);
    assert_eq!(number(refused, "rpc.grpc.status_code"), Some(Code::InvalidArgument as i64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_others_are_traced_in_their_share() {
    let (directory, collected) = (TempDir::new().unwrap(), Collected::start().await);
    let traced = ["--otlp-endpoint", &collected.endpoint, "--trace-ratio", "1"];
    let node = Node::start(directory.path(), &[&["file"], &traced[..]].concat());
    let mut client = client(&node).await;
    client.get_ts(GetTsRequest { count: 1 }).await.unwrap();
    let spans = collected.up_to("tsoracle.v1.TsoService/GetTs").await;
    assert!(
        spans.iter().all(|span| span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE)
    );
    // In streams, each message has a span, and a commit below it.
    let asking = node.ask(&["seq", "k"]);
    assert!(asking.status.success(), "{asking:?}");
    let spans = collected.up_to("commit").await;
    let commit = spans.iter().find(|span| span.name == "commit").unwrap();
    assert!(!commit.parent_span_id.is_empty());
    // What is under way at the end is not forgotten.
    client.get_ts(GetTsRequest { count: 1 }).await.unwrap();
    node.signal(rustix::process::Signal::TERM);
    collected.up_to("tsoracle.v1.TsoService/GetTs").await;
}

/// Many calls, none of which waits for whoever collects traces. Returns once some spans are counted as lost.
async fn are_answered_without(endpoint: &str, calls: usize) {
    let (directory, metrics) = (TempDir::new().unwrap(), free_port());
    let traced = ["--otlp-endpoint", endpoint, "--trace-ratio", "1", "--metrics-listen", &metrics];
    let node = Node::start(directory.path(), &[&["file"], &traced[..]].concat());
    let client = client(&node).await;
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let mut client = client.clone();
        callers.spawn(async move {
            for _ in 0..calls / 16 {
                client.get_ts(GetTsRequest { count: 1 }).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let lost = "tsoracle_trace_spans_lost_total";
    let text = tokio::task::spawn_blocking(move || {
        scrape_until(&metrics, |text| {
            let count =
                text.lines().find_map(|line| line.strip_prefix(lost)?.trim().parse::<u64>().ok());
            count.is_some_and(|count| count > 0)
        })
    });
    assert!(text.await.unwrap().contains("\ntsoracle_trace_spans_sent_total 0\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_costs_spans_alone() {
    are_answered_without("http://127.0.0.1:1", 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_costs_spans_alone() {
    // It lets connect, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    are_answered_without(&endpoint, 8_000).await;
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (arguments, said) in [
        (["--trace-ratio", "1.5"], "--trace-ratio"),
        (["--trace-ratio", "NaN"], "--trace-ratio"),
        (["--otlp-endpoint", "collector"], "--otlp-endpoint"),
        (["--otlp-endpoint", "https://collector:4317"], "by --otlp-ca FILE"),
        (["--otlp-endpoint", "ftp://collector:4317"], "http://HOST:PORT, or https://"),
        (["--otlp-ca", "Cargo.toml"], "goes with --otlp-endpoint https"),
        (["--otlp-endpoint", "not a url"], "--otlp-endpoint"),
    ] {
        let refused = run(Path::new("."), &[&["serve", "memory"], &arguments[..]].concat());
        let line = error_line(&refused, 2);
        assert!(line.contains(said), "{line}");
    }
    for (endpoint, authorities, said) in [
        ("http://collector:4317", "Cargo.toml", "is for a collector at https://"),
        ("https://collector:4317", "Cargo.toml", "has no certificate in it"),
        ("https://collector:4317", "none.pem", "cannot be read"),
    ] {
        let traced = ["--otlp-endpoint", endpoint, "--otlp-ca", authorities];
        let refused = run(Path::new("."), &[&["serve", "memory"], &traced[..]].concat());
        let line = error_line(&refused, 2);
        assert!(line.contains(said), "{line}");
    }
}

/// A collector with a certificate of an authority that the node trusts, or of another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_go_encrypted_to_a_collector_that_is_trusted_and_to_no_other() {
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    for authority in ["own", "other"] {
        for made in [&["ca"][..], &["node", "1", "--address", "127.0.0.1"]] {
            stdout(&run(here, &[&["cert"], made, &["--dir", authority]].concat()));
        }
    }
    let read = |name: &str| std::fs::read(here.join("own").join(name)).unwrap();
    let identity = Identity::from_pem(read("node-1.pem"), read("node-1.key"));
    let collected = Collected::start_with(Some(ServerTlsConfig::new().identity(identity))).await;
    let traced =
        ["file", "--otlp-endpoint", &collected.endpoint, "--trace-ratio", "1", "--otlp-ca"];
    let mut distrusting = Node::start(here, &[&traced[..], &["other/ca.pem"]].concat());
    client(&distrusting).await.get_ts(GetTsRequest { count: 1 }).await.unwrap();
    distrusting.wait_for_log("the collector takes no spans");
    drop(distrusting);
    assert!(collected.came.lock().await.try_recv().is_err(), "nothing goes to a stranger");
    let node = Node::start(here, &[&traced[..], &["own/ca.pem"]].concat());
    client(&node).await.get_ts(GetTsRequest { count: 1 }).await.unwrap();
    collected.up_to("tsoracle.v1.TsoService/GetTs").await;
}
