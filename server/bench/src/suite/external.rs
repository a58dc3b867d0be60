//! What other programs do on the same machine, beside what we do: etcd, Redis, and the public client and
//! server. A program that is missing is listed as not measured.

use std::{path::Path, process::Command, time::Duration};

use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use super::{Results, Run, Spec, Suite, clusters};
use tsoracle::{
    bench::{
        load::{Caller, Refusal, Window, run},
        process::{Process, command, free, output},
        targets::Target,
    },
    endpoints::{Channel, Endpoints},
    failure::Failure,
};

/// How many connections Redis is asked over.
const REDIS_CONNECTIONS: u32 = 256;

/// etcd's request to write a key, as far as it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Its answer, of which nothing is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Written {}

#[derive(Clone)]
struct Putter {
    client: Grpc<Channel>,
}

impl Caller for Putter {
    async fn call(&mut self) -> Result<(), Refusal> {
        let refused = |code: Code, message: String| Refusal { kind: format!("{code:?}"), message };
        let ready = self.client.ready().await;
        ready.map_err(|error| refused(Code::Unavailable, error.to_string()))?;
        let put = Put { key: b"bench".to_vec(), value: b"12345678".to_vec() };
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<Put, Written>::default();
        let answered = self.client.unary(Request::new(put), path, codec).await;
        answered.map(drop).map_err(|status| refused(status.code(), status.message().into()))
    }
}

/// Sequences over an etcd of one member, beside puts into the same one, one after the other.
pub(super) async fn etcd(suite: &Suite, results: &mut Results) -> Result<(), Failure> {
    clusters::check_driver("etcd")?;
    let home = suite.home.path();
    let (client, peer) = (free()?, free()?);
    let arguments = [
        "--data-dir=./etcd".to_owned(),
        format!("--listen-client-urls=http://{client}"),
        format!("--advertise-client-urls=http://{client}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
    ];
    let etcd = Process::start_silent("etcd", home, &arguments, &client).await?;
    let driver = format!("etcd://{client}/bench");
    let server =
        Process::start(home, &["serve", &driver, "--listen", "127.0.0.1:0", "--log", "off"])?;
    let target = Target::connect(&Endpoints::local(&server.address), 1, false).await?;
    let channel = Endpoints::local(&etcd.address).dialer()?.dial(&etcd.address).await;
    let putter = Putter { client: Grpc::new(channel.map_err(Failure::failed)?) };
    for part in suite.rounds_of("etcd") {
        let puts = run(vec![putter.clone()], suite.window(), false).await;
        results.records.add(Spec::PUTS, Run::of(&puts.some("put")?));
        let measured = suite.load(&target, Spec::ETCD_SEQ).await.some("call over etcd")?;
        results.records.add(Spec::ETCD_SEQ, Run::of(&measured));
        results.noise.note(part);
    }
    target.close().await;
    server.stop()
}

/// Sequences beside Redis' counters, each of which is synced before it is answered.
pub(super) async fn redis(suite: &Suite, results: &mut Results) -> Result<(), Failure> {
    let home = suite.home.path();
    let address = free()?;
    let port = address.rsplit(':').next().unwrap_or_default().to_owned();
    let options = format!("--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync always");
    let mut arguments: Vec<String> = options.split(' ').map(Into::into).collect();
    arguments.extend(["--save".into(), String::new(), "--dir".into(), "./".into()]);
    let _server = Process::start_silent("redis-server", home, &arguments, &address).await?;
    // As many as it takes to know how many there are in a slice.
    let mut rate = incremented(home, &port, 2_000.0)?;
    for part in suite.rounds_of("Redis") {
        let slice = suite.arguments.slice.as_secs_f64();
        rate = incremented(home, &port, rate * slice)?;
        results.records.add(Spec::REDIS, Run { calls_per_second: rate, ..Run::default() });
        let measured = suite.load(&suite.client, Spec::client_seq(1_024, 1_000)).await;
        results.records.add(Spec::REDIS_BESIDE, Run::of(&measured.some("call")?));
        results.noise.note(part);
    }
    Ok(())
}

/// How many counters are incremented a second.
fn incremented(home: &Path, port: &str, requests: f64) -> Result<f64, Failure> {
    let (requests, connections) = (format!("{requests:.0}"), REDIS_CONNECTIONS.to_string());
    let mut benchmark = Command::new("redis-benchmark");
    let options = ["-h", "127.0.0.1", "-p", port, "-t", "incr", "--csv", "-c", &connections, "-n"];
    benchmark.args(options).arg(&requests).current_dir(home);
    let text = output(benchmark)?;
    rate_of_redis(&text)
        .ok_or_else(|| Failure::failed(format!("redis-benchmark gave no rate of INCR: {text}")))
}

/// The rate in what `redis-benchmark --csv` prints: `"INCR","23456.78",…`
fn rate_of_redis(text: &str) -> Option<f64> {
    let line = text.lines().rev().find(|line| line.starts_with("\"INCR"))?;
    line.split(',').nth(1)?.trim_matches('"').parse().ok()
}

/// Timestamps through our client beside those of the public client from the public server.
pub(super) async fn public(suite: &Suite, results: &mut Results) -> Result<(), Failure> {
    let Some(program) = &suite.arguments.public else {
        return Err(Failure::failed("--public was not given; `make bench` builds what it takes"));
    };
    let home = suite.home.path();
    let program = std::path::absolute(program).map_err(Failure::failed)?;
    let server = Process::start_other(&program, home, &["serve", "./public"])?;
    for part in suite.rounds_of("the public client and server") {
        let measured = suite.load(&suite.client, Spec::client_ts(1_024)).await;
        results.records.add(Spec::PUBLIC_BESIDE, Run::of(&measured.some("call")?));
        let Window { warm_up, length } = suite.window();
        let seconds = |duration: Duration| duration.as_secs_f64().to_string();
        let (callers, warm_up, length) = ("1024", seconds(warm_up), seconds(length));
        let load = ["load", &server.address, callers, &warm_up, &length];
        let text = output(command(&program, home, &load))?;
        let rate: f64 = text
            .trim()
            .parse()
            .map_err(|_| Failure::failed(format!("{} gave no rate: {text}", program.display())))?;
        results.records.add(Spec::PUBLIC, Run { calls_per_second: rate, ..Run::default() });
        results.noise.note(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_redis_is_found_in_its_output() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"INCR\",\"23456.78\",\"10.1\"\n";
        assert_eq!(rate_of_redis(text), Some(23_456.78));
        assert_eq!(rate_of_redis("\"INCR\",\"15.00\"\n"), Some(15.0));
        assert_eq!(rate_of_redis("Could not connect"), None);
    }
}
