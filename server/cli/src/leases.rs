//! Stamping leases, and the frontier behind them.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tsoracle_client::{LeaseId, StampingLease};
use tsoracle_core::{Clock, LeaseHolder, SystemClock};

use crate::{endpoints::Endpoints, failure::Failure, output::Output};

pub(crate) const ACQUIRE_EXAMPLES: &str = "\
Examples:
  tsoracle lease-acquire writer-1               lease 7: stamp up to 1795359055822 ms, for 30s
  tsoracle lease-acquire writer-1               the same lease again, with less time left
  tsoracle lease-acquire writer-1 --holder-epoch 2 --ttl 5m
                                                another one, which supersedes it

The holder may give out timestamps by itself, up to the bound, for as long as the lease runs. Count
its time from before it was asked for, on a clock that cannot be set. The frontier stays behind the
bound until the lease is released, or certainly over.

Exit codes: 0 done, 1 not done or not certain, 2 wrong arguments.";

pub(crate) const RENEW_EXAMPLES: &str = "\
Examples:
  tsoracle lease-renew 7                        lease 7: stamp up to 1795359085822 ms, for 30s

A lease that has run out cannot be renewed: acquire another one.

Exit codes: 0 done, 1 not done or not certain, 2 wrong arguments.";

pub(crate) const RELEASE_EXAMPLES: &str = "\
Examples:
  tsoracle lease-release 7

Nothing must be stamped under the lease from before this is run. One that is over is no error.

Exit codes: 0 done, 1 not done or not certain, 2 wrong arguments.";

pub(crate) const FRONTIER_EXAMPLES: &str = "\
Examples:
  tsoracle frontier                             1795359055822
  tsoracle frontier --json

Exit codes: 0 done, 1 no server could tell, 2 wrong arguments.";

/// A name that a holder can have.
fn holder(text: &str) -> Result<String, String> {
    LeaseHolder::new(text).map(|_| text.into()).map_err(|error| error.to_string())
}

/// Options of `tsoracle lease-acquire`.
#[derive(Args, Debug)]
pub(crate) struct AcquireArguments {
    /// Who holds the lease, 1 to 128 bytes of text
    #[arg(value_parser = holder)]
    holder: String,

    /// A higher one supersedes the holder's live lease, the same one returns that lease again, a
    /// lower one is refused
    #[arg(long, value_name = "N", default_value_t = 1)]
    holder_epoch: u64,

    /// How long the lease runs; the server sets the limits, 5s to 5m unless configured
    #[arg(long, value_name = "DURATION", value_parser = crate::time::duration,
          default_value = "30s")]
    ttl: Duration,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle lease-renew` and `tsoracle lease-release`.
#[derive(Args, Debug)]
pub(crate) struct LeaseArguments {
    /// The lease, as `lease-acquire` names it
    #[arg(value_name = "LEASE")]
    id: u64,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle frontier`.
#[derive(Args, Debug)]
pub(crate) struct FrontierArguments {
    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Leased {
    lease_id: u64,
    ts_upper_bound: u64,
    expires_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<u64>,
}

#[derive(Serialize)]
struct Released {
    lease_id: u64,
}

#[derive(Serialize)]
struct Frontier {
    frontier_physical_ms: u64,
    epoch: String,
}

pub(crate) async fn acquire(arguments: AcquireArguments) -> Result<(), Failure> {
    let AcquireArguments { holder, holder_epoch, ttl, endpoints, output } = arguments;
    let client = endpoints.connect().await?;
    print(client.acquire_lease(&holder, holder_epoch, ttl).await?, output)
}

pub(crate) async fn renew(arguments: LeaseArguments) -> Result<(), Failure> {
    let client = arguments.endpoints.connect().await?;
    print(client.renew_lease(LeaseId(arguments.id)).await?, arguments.output)
}

pub(crate) async fn release(arguments: LeaseArguments) -> Result<(), Failure> {
    let lease_id = arguments.id;
    arguments.endpoints.connect().await?.release_lease(LeaseId(lease_id)).await?;
    arguments.output.print(&Released { lease_id }, || format!("lease {lease_id}: released"))
}

pub(crate) async fn frontier(arguments: FrontierArguments) -> Result<(), Failure> {
    let frontier = arguments.endpoints.connect().await?.get_safe_frontier().await?;
    let frontier_physical_ms = frontier.physical_ms;
    let answer = Frontier { frontier_physical_ms, epoch: frontier.epoch.to_string() };
    arguments.output.print(&answer, || frontier_physical_ms.to_string())
}

fn print(lease: StampingLease, output: Output) -> Result<(), Failure> {
    let now = SystemClock.now().boot;
    let left =
        lease.valid_until.map(|until| Duration::from_millis(until.since(now).as_millis() as u64));
    let answer = Leased {
        lease_id: lease.id.0,
        ts_upper_bound: lease.bound_ms,
        expires_at_ms: lease.expires_at_ms,
        remaining_ms: left.map(|left| left.as_millis() as u64),
    };
    output.print(&answer, || {
        let left = left.map(|left| format!(", for {}", humantime::format_duration(left)));
        let Leased { lease_id, ts_upper_bound, .. } = answer;
        format!("lease {lease_id}: stamp up to {ts_upper_bound} ms{}", left.unwrap_or_default())
    })
}
