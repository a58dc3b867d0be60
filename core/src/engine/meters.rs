use metrics::{Counter, Gauge, Histogram};

use super::Phase;
use crate::{
    Epoch, Reject, series,
    series::Series,
    state::{CAPS, Capped, Limits},
};

/// What the engine counts, through the `metrics` facade.
///
/// The handles are made once, when the oracle starts, so that counting costs an atomic addition at
/// most. A recorder must be installed before.
#[derive(Debug)]
pub(crate) struct Meters {
    phases: [Gauge; PHASES.len()],
    leader_known: Gauge,
    epoch: Gauge,
    era: Gauge,
    pub(crate) leader_changes: Counter,
    pub(crate) elections: Counter,
    pub(crate) reigns: Counter,
    pub(crate) fence_duration: Histogram,
    pub(crate) wait_duration: Histogram,
    pub(crate) open_duration: Histogram,
    pub(crate) lease_left: Gauge,
    pub(crate) grants: Counter,
    pub(crate) timestamps: Counter,
    pub(crate) commits: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) failures: Counter,
    pub(crate) commit_under_way: Gauge,
    pub(crate) commands: Counter,
    pub(crate) rejects: Counter,
    /// How much there is of what is capped; 0 unless this node leads.
    pub(crate) used: [Gauge; CAPS],
    pub(crate) free_bytes: Gauge,
    pub(crate) disk_size: Gauge,
    pub(crate) reserve: Gauge,
    pub(crate) clock_leaps: Counter,
    /// By how much the wall clock is ahead of what is believed; 0 if it is followed.
    pub(crate) clock_not_followed: Gauge,
    /// By how much timestamps are ahead of the wall clock.
    pub(crate) ahead_of_clock: Gauge,
    pub(crate) window_ahead: Gauge,
    pub(crate) resignations: Counter,
}

impl Meters {
    pub(crate) fn new(limits: &Limits) -> Self {
        let used = Capped::ALL.map(|what| {
            let (used, limit) = series_of(what);
            limit.gauge().set(what.of(limits) as f64);
            used.gauge()
        });
        let takeover = |step| series::TAKEOVER_DURATION.histogram_of(&[step]);
        Self {
            phases: PHASES.map(|phase| series::PHASE.gauge_of(&[phase])),
            leader_known: series::LEADER_KNOWN.gauge(),
            epoch: series::EPOCH.gauge(),
            era: series::ERA.gauge(),
            leader_changes: series::LEADER_CHANGES.counter(),
            elections: series::ELECTIONS.counter(),
            reigns: series::REIGNS.counter(),
            fence_duration: takeover("fence"),
            wait_duration: takeover("wait"),
            open_duration: takeover("open"),
            lease_left: series::LEASE_LEFT.gauge(),
            grants: series::GRANTS.counter(),
            timestamps: series::TIMESTAMPS.counter(),
            commits: series::COMMITS.counter(),
            conflicts: series::COMMIT_CONFLICTS.counter(),
            failures: series::COMMIT_FAILURES.counter(),
            commit_under_way: series::COMMIT_UNDER_WAY.gauge(),
            commands: series::COMMANDS.counter(),
            rejects: series::REJECTS.counter(),
            used,
            free_bytes: series::DISK_FREE.gauge(),
            disk_size: series::DISK_SIZE.gauge(),
            reserve: series::DISK_RESERVE.gauge(),
            clock_leaps: series::CLOCK_LEAPS.counter(),
            clock_not_followed: series::CLOCK_NOT_FOLLOWED.gauge(),
            ahead_of_clock: series::AHEAD_OF_CLOCK.gauge(),
            window_ahead: series::WINDOW_AHEAD.gauge(),
            resignations: series::RESIGNATIONS.counter(),
        }
    }

    /// Shows what this node is doing.
    pub(crate) fn show(&self, phase: &Phase) {
        let (now, epoch) = match phase {
            Phase::Electing => ("electing", None),
            Phase::Following(leader) => {
                ("following", leader.as_ref().and_then(|leader| leader.epoch))
            }
            Phase::TakingOver { epoch, .. } => ("taking_over", *epoch),
            Phase::Serving { epoch } => ("serving", Some(*epoch)),
            Phase::Lapsed { epoch } => ("lapsed", Some(*epoch)),
            Phase::Stopping => ("stopping", None),
            Phase::Failed(_) => ("failed", None),
        };
        for (gauge, phase) in self.phases.iter().zip(PHASES) {
            gauge.set(f64::from(phase == now));
        }
        let is_known = matches!(phase, Phase::Serving { .. } | Phase::Following(Some(_)));
        self.leader_known.set(f64::from(is_known));
        if let Some(epoch) = epoch {
            self.show_epoch(epoch);
        }
    }

    fn show_epoch(&self, epoch: Epoch) {
        self.era.set(epoch.hi() as f64);
        self.epoch.set(epoch.lo() as f64);
    }
}

/// What a node may be doing, as the label says it.
const PHASES: [&str; 7] =
    ["electing", "following", "taking_over", "serving", "lapsed", "stopping", "failed"];

fn series_of(what: Capped) -> (Series, Series) {
    match what {
        Capped::Sequences => (series::SEQUENCES, series::SEQUENCES_LIMIT),
        Capped::Sessions => (series::SESSIONS, series::SESSIONS_LIMIT),
        Capped::Leases => (series::STAMPING_LEASES, series::STAMPING_LEASES_LIMIT),
        Capped::Named => (series::NAMED_REQUESTS, series::NAMED_REQUESTS_LIMIT),
    }
}

/// What was refused for want of a place in the state.
#[derive(Clone, Debug)]
pub(crate) struct RefusalMeters([[Counter; 4]; CAPS]);

impl RefusalMeters {
    pub(crate) fn new() -> Self {
        Self(Capped::ALL.map(|what| {
            let of = series_of(what).0.name.trim_start_matches("tsoracle_");
            ["limit", "share", "own_limit", "space"]
                .map(|reason| series::REFUSALS.counter_of(&[of, reason]))
        }))
    }

    pub(crate) fn note(&self, reject: &Reject) {
        let (what, reason) = match reject {
            Reject::TooMany { what, .. } => (*what, 0),
            Reject::OverShare { what, .. } => (*what, 1),
            Reject::OverOwnLimit { what, .. } => (*what, 2),
            Reject::SpaceLow { what, .. } => (*what, 3),
            _ => return,
        };
        self.0[what as usize][reason].increment(1);
    }
}
