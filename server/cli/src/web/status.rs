//! The status of a node, as JSON. Its names and units are documented in docs/OPERATIONS.md.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tsoracle_core::{
    Certificate as CertificateReport, Clock as _, Epoch, Finding, LatencySummary, LeaderHint,
    MemberReport, Now, Overview, Phase, Problem, Rules, SystemClock, WallClock,
};

use super::Shown;

/// What a node is doing, as one word that does not change, and in words.
pub(super) fn in_words(phase: &Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Serving { .. } => ("leading", "this node leads, and serves"),
        Phase::Following(Some(_)) => ("following", "another node leads"),
        Phase::Following(None) | Phase::Electing => {
            ("no leader", "no leader is known, and this node does not serve")
        }
        Phase::TakingOver { .. } => ("taking over", "this node takes over, and does not serve yet"),
        Phase::Lapsed { .. } => {
            ("lapsed", "this node leads, and does not serve: it cannot renew its lease")
        }
        Phase::Stopping => ("stopping", "this node is stopping"),
        Phase::Failed(_) => ("failed", "this node has failed"),
        _ => ("unknown", "it is not known what this node does"),
    }
}

#[derive(Serialize, Default)]
pub(super) struct Status {
    version: &'static str,
    driver: String,
    /// The id of its storage. It has more bits than readers of numbers keep.
    node: Option<String>,
    /// Its id in the cluster.
    member: Option<u64>,
    uptime_ms: u64,
    now_ms: u64,
    phase: &'static str,
    phase_ms: u64,
    /// What it is doing, in words.
    summary: &'static str,
    ready: bool,
    leader: Option<String>,
    epoch: Option<String>,
    lease_ms: Option<u64>,
    lease_left_ms: u64,
    reserved_until_ms: u64,
    ahead_of_clock_ms: u64,
    clock_off_ms: i64,
    waiting: usize,
    totals: Totals,
    commits: Latency,
    disk_writes: Option<Latency>,
    usage: Vec<Usage>,
    rules: Option<u32>,
    newest_rules: u32,
    release_before: Option<bool>,
    release_before_reason: Option<&'static str>,
    free_bytes: Option<u64>,
    reserve_bytes: Option<u64>,
    members: Vec<Member>,
    changes: Vec<Change>,
    certificates: Vec<Certificate>,
    problems: Vec<Wrong>,
}

/// Since the process began.
#[derive(Serialize, Default)]
struct Totals {
    grants: u64,
    timestamps: u64,
    commits: u64,
    refusals: u64,
}

/// Of the last 64, those of the last 30 seconds; and the one that is under way.
#[derive(Serialize, Default)]
struct Latency {
    count: u64,
    sum_ms: f64,
    recent: usize,
    median_ms: f64,
    max_ms: f64,
    under_way_ms: Option<f64>,
}

#[derive(Serialize)]
struct Usage {
    what: String,
    used: u64,
    limit: u64,
}

#[derive(Serialize)]
struct Member {
    id: u64,
    peer_address: String,
    service_address: String,
    votes: bool,
    own: bool,
    /// `leads`, `follows`, `learns`, `unreached`, or `unknown` while no leader is known.
    state: &'static str,
    lag_entries: Option<u64>,
    unreached_ms: Option<u64>,
    reason: Option<String>,
}

#[derive(Serialize)]
struct Change {
    at_ms: u64,
    ago_ms: u64,
    epoch: Option<String>,
    what: String,
    cause: String,
}

#[derive(Serialize)]
struct Certificate {
    used_for: &'static str,
    name: String,
    expires_ms: i64,
    expires_in_ms: i64,
}

#[derive(Serialize)]
struct Wrong {
    kind: &'static str,
    what: String,
    since_ms: u64,
    lasts_ms: u64,
    r#do: String,
}

impl Status {
    /// That of a node, now.
    pub(super) fn of(shown: &Shown) -> Self {
        let now = SystemClock.now();
        let status = Self {
            version: env!("CARGO_PKG_VERSION"),
            driver: shown.driver.clone(),
            uptime_ms: ms(now.boot.since(shown.started)),
            now_ms: now.wall_ms,
            phase: "starting",
            summary: "the state is being opened",
            newest_rules: Rules::NEWEST.version(),
            ..Self::default()
        };
        let Some((oracle, endpoint)) = shown.oracle.get() else { return status };
        let overview = oracle.overview();
        let scrape = shown.scrape.render();
        status.with(overview, endpoint.as_deref(), &Counted::of(&scrape), now)
    }

    fn with(self, all: Overview, own: Option<&str>, counted: &Counted<'_>, now: Now) -> Self {
        let (phase, summary) = in_words(&all.status.phase);
        let (leader, epoch) = leader_of(&all.status.phase, own);
        let is_led = leader.is_some() || phase == "leading";
        let leads = matches!(phase, "leading" | "lapsed" | "taking over");
        Self {
            node: Some(format!("{:032x}", all.node.0)),
            member: all.report.members.iter().find(|member| member.is_own).map(|member| member.id),
            phase,
            phase_ms: ms(all.phase_lasts),
            summary,
            ready: matches!(phase, "leading" | "following"),
            leader,
            epoch: epoch.map(|epoch| epoch.0.to_string()),
            lease_ms: Some(ms(all.lease)),
            lease_left_ms: ms(all.status.lease_left),
            reserved_until_ms: all.status.high_water_ms,
            ahead_of_clock_ms: ms(all.status.ahead_of_clock),
            clock_off_ms: clock_off_ms(all.status.wall_clock),
            waiting: all.status.waiting,
            totals: Totals {
                grants: counted.total("tsoracle_grants_total"),
                timestamps: counted.total("tsoracle_timestamps_total"),
                commits: all.commits.count,
                refusals: counted.total("tsoracle_rejects_total"),
            },
            commits: (&all.commits).into(),
            disk_writes: all.report.writes.as_ref().map(Into::into),
            usage: all
                .usage
                .into_iter()
                .map(|usage| Usage { what: usage.what, used: usage.used, limit: usage.limit })
                .collect(),
            rules: all.status.rules.map(Rules::version),
            release_before: all
                .status
                .rules
                .map(|rules| rules.kept_from_release_before().is_none()),
            release_before_reason: all.status.rules.and_then(Rules::kept_from_release_before),
            free_bytes: all.status.free_bytes,
            reserve_bytes: all.status.reserve_bytes,
            members: all
                .report
                .members
                .into_iter()
                .map(|one| MemberReport { leads: one.leads && (leads || !one.is_own), ..one })
                .map(|one| member(one, is_led, now))
                .collect(),
            changes: all.changes.into_iter().map(|one| change(one, now)).collect(),
            certificates: all
                .report
                .certificates
                .into_iter()
                .map(|one| certificate(one, now))
                .collect(),
            problems: all.problems.into_iter().map(|one| wrong(one, now)).collect(),
            ..self
        }
    }
}

impl From<&LatencySummary> for Latency {
    fn from(summary: &LatencySummary) -> Self {
        // Microseconds are enough, and easier to read.
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            count: summary.count,
            sum_ms: ms(summary.sum),
            recent: summary.recent,
            median_ms: ms(summary.median),
            max_ms: ms(summary.max),
            under_way_ms: summary.under_way.map(ms),
        }
    }
}

/// Where the leader is, and its epoch, as far as that is known.
fn leader_of(phase: &Phase, own: Option<&str>) -> (Option<String>, Option<Epoch>) {
    match phase {
        Phase::Serving { epoch } => (own.map(str::to_owned), Some(*epoch)),
        Phase::Lapsed { epoch } => (None, Some(*epoch)),
        Phase::TakingOver { epoch, .. } => (None, *epoch),
        Phase::Following(Some(LeaderHint { endpoint, epoch })) => (Some(endpoint.clone()), *epoch),
        _ => (None, None),
    }
}

fn clock_off_ms(clock: Option<WallClock>) -> i64 {
    match clock {
        Some(WallClock::Ahead(by)) => ms(by).try_into().unwrap_or(i64::MAX),
        Some(WallClock::Behind(by)) => -i64::try_from(ms(by)).unwrap_or(i64::MAX),
        _ => 0,
    }
}

fn certificate(one: CertificateReport, now: Now) -> Certificate {
    let expires_ms = one.not_after.saturating_mul(1_000);
    Certificate {
        used_for: one.used_for,
        name: one.name,
        expires_ms,
        expires_in_ms: expires_ms.saturating_sub_unsigned(now.wall_ms),
    }
}

fn member(member: MemberReport, is_led: bool, now: Now) -> Member {
    let unreached = member.unreached;
    Member {
        id: member.id,
        peer_address: member.peer,
        service_address: member.service,
        votes: member.votes,
        own: member.is_own,
        state: match () {
            () if unreached.is_some() => "unreached",
            () if member.leads => "leads",
            () if !member.votes => "learns",
            () if is_led => "follows",
            () => "unknown",
        },
        lag_entries: member.lag,
        unreached_ms: unreached.as_ref().map(|unreached| ms(now.boot.since(unreached.since))),
        reason: unreached.and_then(|unreached| unreached.reason),
    }
}

fn change(change: tsoracle_core::Change, now: Now) -> Change {
    Change {
        at_ms: change.at_ms,
        ago_ms: ms(now.boot.since(change.at)),
        epoch: change.epoch.map(|epoch| epoch.0.to_string()),
        what: change.what,
        cause: change.cause,
    }
}

fn wrong(problem: Problem, now: Now) -> Wrong {
    let Problem { finding: Finding { kind, what, remedy, .. }, lasts } = problem;
    let lasts_ms = ms(lasts);
    Wrong { kind, what, since_ms: now.wall_ms.saturating_sub(lasts_ms), lasts_ms, r#do: remedy }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a scrape says, of series without labels: so the page and Prometheus show the same numbers.
struct Counted<'a>(BTreeMap<&'a str, f64>);

impl<'a> Counted<'a> {
    fn of(scrape: &'a str) -> Self {
        let lines = scrape.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.split('{').next()?, value.trim().parse::<f64>().ok()?))
        });
        let mut all = BTreeMap::new();
        series.for_each(|(name, value)| *all.entry(name).or_insert(0.0) += value);
        Self(all)
    }

    fn total(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;
    use tsoracle_core::Unreached;

    use super::*;

    const NOW: Now =
        Now { wall_ms: 1_800_000_000_000, boot: tsoracle_core::BootTime::from_nanos(1) };

    /// A status with one of each.
    fn full() -> Status {
        let unreached = Some(Unreached { since: NOW.boot, reason: None });
        let (id, votes, is_own, leads, lag) = (1, true, true, true, None);
        let (peer, service) = (String::new(), String::new());
        let one = MemberReport { id, peer, service, votes, is_own, leads, unreached, lag };
        let (what, cause) = (String::new(), String::new());
        let changed = tsoracle_core::Change { at_ms: 0, at: NOW.boot, epoch: None, what, cause };
        let problem = Problem { finding: Finding::new("a", "b", "c"), lasts: Duration::ZERO };
        Status {
            disk_writes: Some(Latency::default()),
            usage: vec![Usage { what: String::new(), used: 0, limit: 0 }],
            members: vec![member(one, true, NOW)],
            changes: vec![change(changed, NOW)],
            certificates: vec![Certificate {
                used_for: "",
                name: String::new(),
                expires_ms: 0,
                expires_in_ms: 0,
            }],
            problems: vec![wrong(problem, NOW)],
            ..Status::default()
        }
    }

    fn names(prefix: &str, value: &Value, all: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                let dot = if prefix.is_empty() { "" } else { "." };
                names(&format!("{prefix}{dot}{name}"), value, all);
            }),
            Value::Array(values) => values.iter().for_each(|value| names(prefix, value, all)),
            _ => drop(all.insert(prefix.into())),
        }
    }

    #[test]
    fn every_name_is_documented_and_there() {
        let text = include_str!("../../../../docs/OPERATIONS.md");
        let (_, section) = text.split_once("### What `/status` says\n").unwrap();
        let rows =
            section.split("\n#").next().unwrap().lines().filter(|line| line.starts_with("| `"));
        let cells = rows.filter_map(|row| row.split('|').nth(1));
        let documented: BTreeSet<String> =
            cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
        let mut there = BTreeSet::new();
        names("", &serde_json::to_value(full()).unwrap(), &mut there);
        assert_eq!(documented, there);
    }

    #[test]
    fn totals_are_those_of_the_scrape() {
        let counted =
            Counted::of("# HELP a b\n# TYPE a counter\na 17\n\nb{x=\"1\"} 2\nb{x=\"2\"} 3\nc NaN");
        assert_eq!((counted.total("a"), counted.total("b"), counted.total("x")), (17, 5, 0));
    }
}
