use std::{error::Error as _, fmt::Write as _, time::Duration};

use clap::Args;
use serde::{Serialize, Serializer};
use tonic::{Code, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tsoracle_core::{Clock as _, SystemClock, Timestamp, size_in_words};
use tsoracle_proto::{
    metadata,
    v1::{
        GetCurrentMaxSafeRequest, LeaderHint, MembersRequest, ReadSeqRequest, TroublesRequest,
        TroublesResponse, cluster_service_client::ClusterServiceClient,
        sequence_service_client::SequenceServiceClient, tso_service_client::TsoServiceClient,
    },
};

use crate::{
    endpoints::{Channel, Dialer, Endpoints, said, within},
    failure::Failure,
    leader::leader_of,
    output::{Output, word},
};

/// The names under which a node's health says whether it leads, and whether it takes part.
const LEADER: &str = "tsoracle.v1.Leader";
const READY: &str = "tsoracle.v1.Ready";

/// The health of a node that does not tell.
const UNKNOWN: &str = "UNKNOWN";

/// Reading any sequence tells whether a node leads, and spends nothing.
const PROBE: &str = "tsoracle-status";

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle status
  tsoracle status --endpoint db1:50551,db2:50551,db3:50551
  tsoracle status --json | jq -r .phase         leading, following, no leader, failing, unreachable
  until tsoracle status --timeout 1s; do :; done

Below the line of a server is what it says is wrong. Asking changes nothing. In JSON the epoch is a
string, since it has 128 bits. The leader tells as well by how much timestamps are ahead of its wall
clock (ahead_of_clock_ms), and by how much that clock is ahead of what it believes, or behind
(clock_off_ms; 0 while it follows the clock). A node that keeps its state on a disk tells how much is
free there (free_bytes), and from where on nothing new is begun (reserve_bytes). The leader tells by
which version of the rules its state goes (rules, of at most newest_rules in this release), and
whether the release before could be put back (release_before).

Exit codes: 0 one of them serves, 1 none does, 2 wrong arguments.";

/// Options of `tsoracle status`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// How one server is doing.
#[derive(Serialize, Default, Debug)]
struct Report {
    endpoint: String,
    /// `leading`, `following`, `no leader`, `failing` or `unreachable`.
    phase: &'static str,
    /// Whether it takes part: it leads, or follows a leader.
    health: Option<&'static str>,
    #[serde(skip)]
    serves: bool,
    leader: Option<String>,
    /// In JSON a string: it has more bits than readers of numbers keep.
    #[serde(serialize_with = "as_text")]
    epoch: Option<u128>,
    max_safe_physical_ms: Option<u64>,
    /// By how much its wall clock is ahead of what it believes, or behind that if it is negative; 0 while it is followed.
    clock_off_ms: Option<i64>,
    ahead_of_clock_ms: Option<u64>,
    /// The version of the rules that the state is under, and the highest that the node's release may raise it to.
    rules: Option<u32>,
    newest_rules: Option<u32>,
    /// Whether the release before would lead over the state, and if not, what was used that it does not know.
    release_before: Option<bool>,
    release_before_reason: Option<String>,
    /// Where it keeps its state, and how many of them are kept in reserve.
    free_bytes: Option<u64>,
    reserve_bytes: Option<u64>,
    /// What the node says is wrong.
    troubles: Vec<String>,
    error: Option<String>,
}

impl Report {
    fn with_troubles(self, told: TroublesResponse) -> Self {
        Self {
            rules: told.rules,
            newest_rules: Some(told.newest_rules).filter(|newest| *newest > 0),
            release_before: told.rules.map(|_| told.kept_from_release_before.is_none()),
            release_before_reason: told.kept_from_release_before,
            free_bytes: told.free_bytes,
            reserve_bytes: told.reserve_bytes,
            troubles: told.troubles,
            ..self
        }
    }

    fn with_error(self, status: &Status) -> Self {
        Self { error: Some(format!("{}: {}", status.code(), said(status))), ..self }
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { endpoints, output } = arguments;
    let dialer = endpoints.dialer()?;
    let asked = endpoints.names().map(|endpoint| {
        let (endpoint, dialer) = (endpoint.to_owned(), dialer.clone());
        tokio::spawn(async move { ask(endpoint, dialer).await })
    });
    // All at once: one that is down must not hold up the others.
    let asked: Vec<_> = asked.collect();
    let mut serves = false;
    for answer in asked {
        let report = answer.await.map_err(Failure::failed)?;
        serves |= report.serves;
        output.print(&report, || text(&report))?;
    }
    match serves {
        true => Ok(()),
        false => Err(Failure::failed("none of these servers serves")),
    }
}

async fn ask(endpoint: String, dialer: Dialer) -> Report {
    let report = Report { endpoint, ..Report::default() };
    let channel = match dialer.dial(&report.endpoint).await {
        Ok(channel) => channel,
        Err(error) => return Report { phase: "unreachable", error: Some(error), ..report },
    };
    let mut tso = TsoServiceClient::new(channel.clone());
    let mut cluster = ClusterServiceClient::new(channel.clone());
    let (timeout, began) = (dialer.timeout, SystemClock.now().boot);
    let troubles = cluster.troubles(within(TroublesRequest {}, timeout)).await;
    let timeout = timeout.saturating_sub(SystemClock.now().boot.since(began));
    match &troubles {
        // Whoever may not know what is wrong may know little else, and each refusal is recorded.
        Err(status) if is_denial(status) => {
            let (leads, health) = tokio::join!(
                health(channel.clone(), LEADER, timeout),
                health(channel, READY, timeout)
            );
            let report = Report { health: Some(health), serves: leads == "SERVING", ..report };
            return Report { phase: "denied", error: Some(said(status)), ..report };
        }
        // The first call on a connection that fails tells why; later ones, that it is gone.
        Err(status) if status.source().is_some() => {
            return Report { phase: "failing", health: Some(UNKNOWN), ..report }.with_error(status);
        }
        _ => {}
    }
    let (leads, health, led, max_safe, members) = tokio::join!(
        health(channel.clone(), LEADER, timeout),
        health(channel.clone(), READY, timeout),
        leadership(channel, timeout),
        tso.get_current_max_safe(within(GetCurrentMaxSafeRequest {}, timeout)),
        cluster.members(within(MembersRequest {}, timeout)),
    );
    let report = Report { health: Some(health), serves: leads == "SERVING", ..report };
    // A node of an earlier release has none to tell.
    let report = report.with_troubles(troubles.map(Response::into_inner).unwrap_or_default());
    match led {
        Led::Here => {
            let answer = max_safe.map(Response::into_inner).unwrap_or_default();
            let epoch = u128::from(answer.epoch_hi) << 64 | u128::from(answer.epoch_lo);
            Report {
                phase: "leading",
                leader: Some(report.endpoint.clone()),
                epoch: Some(epoch),
                max_safe_physical_ms: Some(answer.max_safe_physical_ms),
                clock_off_ms: Some(answer.clock_off_ms),
                ahead_of_clock_ms: Some(answer.ahead_of_clock_ms),
                ..report
            }
        }
        Led::Elsewhere(LeaderHint { leader_endpoint: Some(leader), leader_epoch }) => Report {
            phase: "following",
            leader: Some(leader),
            epoch: leader_epoch.map(u128::from),
            ..report
        },
        // An address of administrators names no other node, but every node knows the members; also who led them before
        // a majority was lost, while it is not ready.
        Led::Elsewhere(_) => match members.ok().and_then(|answer| leader_of(answer.into_inner())) {
            Some(leader) if report.health == Some("SERVING") => {
                Report { phase: "following", leader: Some(leader), ..report }
            }
            _ => Report { phase: "no leader", ..report },
        },
        Led::Unknown(status) if is_denial(&status) => {
            Report { phase: "denied", error: Some(said(&status)), ..report }
        }
        Led::Unknown(status) => Report { phase: "failing", ..report }.with_error(&status),
    }
}

fn is_denial(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

enum Led {
    Here,
    Elsewhere(LeaderHint),
    Unknown(Status),
}

async fn leadership(channel: Channel, timeout: Duration) -> Led {
    let request = within(ReadSeqRequest { key: PROBE.into() }, timeout);
    match SequenceServiceClient::new(channel).read_seq(request).await {
        Ok(_) => Led::Here,
        Err(status) => match (status.code(), metadata::leader_hint(status.metadata())) {
            (Code::NotFound, _) => Led::Here,
            (Code::FailedPrecondition, hint) => Led::Elsewhere(hint.unwrap_or_default()),
            _ => Led::Unknown(status),
        },
    }
}

/// What its health says under this name. An earlier release knows no names, and says without one whether it leads.
async fn health(channel: Channel, name: &str, timeout: Duration) -> &'static str {
    let mut client = HealthClient::new(channel);
    for service in [name, ""] {
        let request = within(HealthCheckRequest { service: service.into() }, timeout);
        match client.check(request).await {
            Ok(answer) => return answer.get_ref().status().as_str_name(),
            Err(status) if status.code() == Code::NotFound => {}
            Err(_) => break,
        }
    }
    UNKNOWN
}

/// From here on it is worth a word that timestamps are ahead of the clock.
const NOTICED_MS: u64 = 1_000;

fn duration(ms: u64) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(ms / 1_000))
}

fn as_text<S: Serializer>(epoch: &Option<u128>, serializer: S) -> Result<S::Ok, S::Error> {
    epoch.map(|epoch| epoch.to_string()).serialize(serializer)
}

fn text(report: &Report) -> String {
    let mut text = format!("{}  {}", report.endpoint, report.phase);
    // Writing to a string cannot fail.
    if let Some(leader) = report.leader.as_ref().filter(|leader| **leader != report.endpoint) {
        let _ = write!(text, " {}", word(leader));
    }
    if let Some(epoch) = report.epoch {
        let _ = write!(text, ", epoch {epoch}");
    }
    if let Some(max_safe_ms) = report.max_safe_physical_ms {
        let time = Timestamp::from_parts(max_safe_ms, 0).map(Timestamp::to_rfc3339);
        let _ = write!(text, ", max safe {}", time.unwrap_or_default());
    }
    if let Some(ahead_ms) = report.ahead_of_clock_ms.filter(|ahead_ms| *ahead_ms >= NOTICED_MS) {
        let _ = write!(text, ", ahead of the clock by {}", duration(ahead_ms));
    }
    match report.clock_off_ms {
        None | Some(0) => {}
        Some(off) => {
            let side = if off > 0 { "ahead" } else { "behind" };
            let off = duration(off.unsigned_abs());
            let _ = write!(text, ", wall clock not believed: {off} {side}");
        }
    }
    if let Some(free) = report.free_bytes {
        let _ = write!(text, ", {} free", size_in_words(free));
    }
    if let Some(health) = report.health {
        let _ = write!(text, ", health {health}");
    }
    if let Some(error) = &report.error {
        let _ = write!(text, ": {}", word(error));
    }
    // What is long has a line of its own.
    if let (Some(rules), Some(newest)) = (report.rules, report.newest_rules) {
        let _ = write!(text, "\n    rules {rules} of {newest}, ");
        match &report.release_before_reason {
            None => text.push_str("can go back to the release before"),
            Some(reason) => {
                let _ =
                    write!(text, "cannot go back to the release before, since {}", word(reason));
            }
        }
    }
    for trouble in &report.troubles {
        let _ = write!(text, "\n    {}", word(trouble));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_has_a_line_of_its_own() {
        let report = Report {
            endpoint: "h:1".into(),
            phase: "leading",
            leader: Some("h:1".into()),
            epoch: Some(7),
            rules: Some(3),
            newest_rules: Some(6),
            free_bytes: Some(1_500_000),
            health: Some("SERVING"),
            troubles: vec!["a disk\n is slow".into(), "its clock is wrong".into()],
            ..Report::default()
        };
        let lines = [
            "h:1  leading, epoch 7, 1.5 MB free, health SERVING",
            "    rules 3 of 6, can go back to the release before",
            "    a disk\\n is slow",
            "    its clock is wrong",
        ];
        assert_eq!(text(&report), lines.join("\n"));
    }
}
