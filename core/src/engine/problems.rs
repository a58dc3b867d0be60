//! What is wrong, in words: the one place that makes them, for the status page, for `tsoracle status` and for
//! programs that embed the oracle.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Phase, Shared, wall_clock::EARLIEST_MS};
use crate::{
    BootTime, Finding, LatencySummary, MemberReport, Now, Problem, Report, WallClock,
    caller::scarce_from,
    state::{Capped, millis},
};

/// For how long a peer is not reached before that is worth a word: a process that starts again is back by then.
const UNREACHED: Duration = Duration::from_secs(2);

/// For how long no leader is known, or a take-over does not come to an end, before that is worth a word.
const LEADERLESS: Duration = Duration::from_secs(5);

/// A write to a disk, or a commit, that takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(1);

/// How many recent ones it takes to say that they are slow.
const ENOUGH: usize = 3;

/// What keeps a node from serving, or will, in the order in which it is told: reasons before what they lead to. All
/// else comes after it.
const FIRST: [&str; 13] = [
    "failed",
    "certificate_expired",
    "majority_lost",
    "cluster_not_formed",
    "node_runs_twice",
    "etcd_silent",
    "clock_wrong",
    "disk_slow",
    "commits_slow",
    "cannot_take_over",
    "lease_lapsed",
    "no_leader",
    "disk_nearly_full",
];

type Source = Box<dyn Fn(BootTime) -> Report + Send + Sync>;

/// What else says what is wrong, and since when what was wrong lately is so.
#[derive(Default)]
pub(crate) struct Problems {
    sources: Mutex<Vec<Source>>,
    known: Mutex<Vec<(Finding, BootTime)>>,
}

impl Problems {
    pub(crate) fn add_source(&self, source: Source) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    fn add_reports(&self, report: &mut Report, now: BootTime) {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().for_each(|source| report.extend(source(now)));
    }

    /// Since when each of these is so. What is not among them is over.
    fn note(&self, found: Vec<Finding>, now: BootTime) -> Vec<Problem> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        log(&before, &found);
        for finding in found {
            let noted = before.iter().find(|(other, _)| other.is_same(&finding));
            let since = finding.since.or(noted.map(|(_, since)| *since)).unwrap_or(now);
            known.push((finding, since));
        }
        let problem = |(finding, since): &(Finding, BootTime)| Problem {
            finding: finding.clone(),
            lasts: now.since(*since),
        };
        known.iter().map(problem).collect()
    }
}

/// Each problem is logged when it begins, and when it is over.
fn log(before: &[(Finding, BootTime)], found: &[Finding]) {
    let begun = found.iter().filter(|new| !before.iter().any(|(other, _)| other.is_same(new)));
    for Finding { kind, what, remedy, .. } in begun {
        tracing::warn!(problem = kind, remedy, "{what}");
    }
    let over = before.iter().filter(|(old, _)| !found.iter().any(|other| other.is_same(old)));
    for (Finding { kind, about, .. }, _) in over {
        let about = Some(about).filter(|about| !about.is_empty());
        tracing::info!(problem = kind, about, "a problem is over");
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Problems")
    }
}

impl Shared {
    /// The reports of the driver, about this node and its peers, and of other registered sources.
    pub(crate) fn report(&self, now: BootTime) -> Report {
        let mut report = self.guard.driver().report(now);
        self.problems.add_reports(&mut report, now);
        report
    }

    /// What is wrong, as far as this node knows: first what keeps it from serving, and the reason for that.
    pub(crate) fn problems(&self, report: &Report) -> Vec<Problem> {
        let now = self.clock.now();
        let phase = self.phase.borrow().clone();
        let phase_lasts = now.boot.since(self.history.phase_since());
        let is_formed = report.findings.iter().all(|found| found.kind != "cluster_not_formed");
        let hears_leader = matches!(phase, Phase::Following(Some(_)));
        let majority = majority(&report.members, hears_leader, now.boot).filter(|_| is_formed);
        let is_lost = majority.as_ref().is_some_and(|found| found.kind == "majority_lost");
        let slow = self.options.lease / 4;
        let disk = report.writes.as_ref().and_then(|writes| disk(writes, slow, now.boot));
        let commits = self.guard.commits.summary(now.boot);
        let mut found: Vec<Finding> = failure(&phase).into_iter().collect();
        found.extend(majority);
        found.extend(leadership(&phase, phase_lasts, is_lost));
        if disk.is_none() && !is_lost {
            found.extend(commit(&commits, slow, now.boot));
        }
        found.extend(disk);
        found.extend(self.clock_finding(now));
        found.extend(self.space.finding());
        found.extend(self.caps());
        found.extend(self.used.is_closed().then(closed));
        found.extend(report.findings.iter().cloned());
        sort(&mut found);
        self.problems.note(found, now.boot)
    }

    /// Caps of the state that clients are near, on a node that leads.
    fn caps(&self) -> impl Iterator<Item = Finding> {
        Capped::ALL.into_iter().filter_map(|what| {
            let (used, limit) = (self.used.get(what), what.of(&self.options.limits));
            (used > 0 && used >= scarce_from(limit)).then(|| {
                let option = match what {
                    Capped::Sequences => "--max-keys",
                    Capped::Sessions => "--max-sessions",
                    Capped::Leases => "--max-leases",
                    Capped::Named => "--max-named",
                };
                Finding::new(
                    "cap_nearly_reached",
                    format!("{used} of at most {limit} {what} are used; from three quarters on clients have shares"),
                    format!("find out which client makes so many, or raise {option} on all nodes"),
                )
                .about(what.to_string())
            })
        })
    }

    /// What is wrong with the wall clock of this node, whether it leads or not.
    fn clock_finding(&self, now: Now) -> Option<Finding> {
        let set = "set the clock of this machine right (chronyc tracking, timedatectl); that is noticed within seconds";
        let wrong = |what: String, remedy: &str| Some(Finding::new("clock_wrong", what, remedy));
        if now.wall_ms < EARLIEST_MS {
            return wrong(
                "the wall clock of this machine was never set: it shows a time before 2020".into(),
                set,
            );
        }
        let leading = self.reign.load();
        if let Some(reign) = leading.as_ref().filter(|reign| !reign.is_closed()) {
            match self.wall_clock() {
                WallClock::Ahead(by) => {
                    let what = format!(
                        "the wall clock of this machine is {} ahead of what is believed, and not followed: timestamps \
                         go on at the pace of the boot clock",
                        in_words(by)
                    );
                    return wrong(
                        what,
                        &format!("{set}; if it is right, start this node with --trust-clock-until"),
                    );
                }
                WallClock::Behind(by) => {
                    let what = format!(
                        "the wall clock of this machine is {} behind the time that is stored: timestamps stand where \
                         they are",
                        in_words(by)
                    );
                    let remedy = format!(
                        "{set}; if it is right, nothing is to be done: a restore or `tsoracle raise` puts timestamps \
                         ahead, and they go on with the clock once it has caught up"
                    );
                    return wrong(what, &remedy);
                }
                WallClock::Followed => {}
            }
            let ahead = reign.ahead_of_clock(now);
            if ahead > self.options.max_ahead.max(self.options.lease_ttl.1) * 2 {
                let what = format!("timestamps are {} ahead of the wall clock", in_words(ahead));
                let remedy = "wait until the clock has caught up, since nothing can take time back; clients notice nothing";
                return Some(Finding::new("time_ahead", what, remedy));
            }
            return None;
        }
        let mut others_ms = self.guard.driver().peer_clocks(now.boot);
        others_ms.push(now.wall_ms);
        others_ms.sort_unstable();
        let median_ms = others_ms.get((others_ms.len() - 1) / 2).copied().unwrap_or(now.wall_ms);
        let off_ms = now.wall_ms.abs_diff(median_ms);
        (off_ms > millis(self.options.max_clock_step)).then(|| {
            let side = if now.wall_ms > median_ms { "ahead of" } else { "behind" };
            let off = in_words(Duration::from_millis(off_ms));
            let what =
                format!("the wall clock of this machine is {off} {side} those of most nodes");
            Finding::new("clock_wrong", what, set)
        })
    }
}

fn sort(found: &mut [Finding]) {
    found.sort_by_key(|found| {
        FIRST.iter().position(|kind| *kind == found.kind).unwrap_or(FIRST.len())
    });
}

fn failure(phase: &Phase) -> Option<Finding> {
    let Phase::Failed(reason) = phase else { return None };
    let what = format!("this node has failed, and serves no more: {reason}");
    Some(Finding::new("failed", what, "mend that, and start this node again"))
}

/// Since a restore, until an operator opens them.
fn closed() -> Finding {
    Finding::new(
        "sequences_closed",
        "sequences are closed since this state was restored from a backup, and requests for them are refused",
        "open them: `tsoracle seq-open --floor KEY=N`, or `--accept-sequence-loss` for all that are left",
    )
}

/// What is wrong with who leads. Where a majority is lost that is said already.
fn leadership(phase: &Phase, lasts: Duration, is_majority_lost: bool) -> Option<Finding> {
    match phase {
        Phase::Lapsed { .. } => Some(Finding::new(
            "lease_lapsed",
            "this node leads and does not serve: its lease has run out, since nothing it commits is stored in time",
            "look at what else is listed here: a disk or a network that is slow, or nodes that are not there",
        )),
        Phase::TakingOver { trouble: Some(trouble), .. } => Some(Finding::new(
            "cannot_take_over",
            format!("this node is to lead, and cannot take over: {trouble}"),
            "",
        )),
        Phase::Electing | Phase::Following(None) if lasts >= LEADERLESS && !is_majority_lost => {
            Some(Finding::new(
                "no_leader",
                "no leader is known",
                "look at the logs and the status of the other nodes; a majority of them has to run and reach each other",
            ))
        }
        Phase::TakingOver { trouble: None, .. } if lasts >= LEADERLESS => Some(Finding::new(
            "cannot_take_over",
            "this node is to lead, and takes long to take over",
            "look at its disk, and at the network to the other nodes",
        )),
        _ => None,
    }
}

/// Which members are not reached, and whether too few are. A leader that is heard has a majority, whomever this node reaches.
fn majority(members: &[MemberReport], hears_leader: bool, now: BootTime) -> Option<Finding> {
    let gone: Vec<_> = members.iter().filter(|member| is_gone(member, now)).collect();
    let since = gone.iter().filter_map(|member| Some(member.unreached.as_ref()?.since)).max()?;
    let names = gone.iter().map(|member| {
        let reason = member.unreached.as_ref().and_then(|unreached| unreached.reason.as_ref());
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("node {} at {}{reason}", member.id, member.peer)
    });
    let names = names.collect::<Vec<_>>().join(", ");
    let voters = members.iter().filter(|member| member.votes);
    let (all, there) =
        (voters.clone().count(), voters.filter(|member| !is_gone(member, now)).count());
    let needed = all / 2 + 1;
    let numbers: Vec<_> = gone.iter().map(|member| member.id.to_string()).collect();
    let numbers = numbers.join(" or ");
    let found = match there < needed && !hears_leader {
        true => Finding::new(
            "majority_lost",
            format!(
                "a majority is lost: this node reaches {there} of {all} voting nodes, itself included, and {needed} \
                     are needed to serve; it does not reach {names}"
            ),
            format!(
                "start node {numbers} again, or mend the network between here and there; what is stored is safe \
                     meanwhile"
            ),
        ),
        false => Finding::new(
            "node_unreached",
            format!("this node does not reach {names}; the others are enough to serve"),
            format!(
                "start node {numbers} again, or mend the network; if it is gone for good, replace it"
            ),
        ),
    };
    Some(found.since(since))
}

fn is_gone(member: &MemberReport, now: BootTime) -> bool {
    member.unreached.as_ref().is_some_and(|unreached| now.since(unreached.since) >= UNREACHED)
}

fn disk(writes: &LatencySummary, slow: Duration, now: BootTime) -> Option<Finding> {
    let remedy = "look at the disk of this machine (dmesg, iostat -x) and at what else writes to it; replace it, or \
                  move this node to another one";
    slowness(
        writes,
        slow,
        now,
        "a write to the disk of this node",
        "writes to the disk of this node",
    )
    .map(|(what, since)| finding_since("disk_slow", what, remedy, since))
}

fn commit(commits: &LatencySummary, slow: Duration, now: BootTime) -> Option<Finding> {
    let remedy = "look at the disks of the other nodes and at the network between them: a majority has to store each \
                  commit";
    slowness(commits, slow, now, "a commit", "commits").map(|(what, since)| {
        let what = format!("{what}, which is not for the disk of this node");
        finding_since("commits_slow", what, remedy, since)
    })
}

fn finding_since(
    kind: &'static str,
    what: String,
    remedy: &str,
    since: Option<BootTime>,
) -> Finding {
    let found = Finding::new(kind, what, remedy);
    Finding { since, ..found }
}

/// Whether one hangs, or most have been slow of late.
fn slowness(
    latency: &LatencySummary,
    slow: Duration,
    now: BootTime,
    one: &str,
    many: &str,
) -> Option<(String, Option<BootTime>)> {
    if let Some(under_way) = latency.under_way.filter(|under_way| *under_way >= HANGS) {
        return Some((
            format!("{one} has been under way for {}", in_words(under_way)),
            Some(now - under_way),
        ));
    }
    (latency.recent >= ENOUGH && latency.median >= slow).then(|| {
        let (median, max) = (latency.median.as_millis(), latency.max.as_millis());
        (
            format!(
                "{many} are slow: half of the last {} took {median} ms or more, and one {max} ms",
                latency.recent
            ),
            None,
        )
    })
}

/// A time as people read it.
pub(super) fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..3 => format!("{:.1} s", time.as_secs_f64()),
        3..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "problems_test.rs"]
mod tests;
