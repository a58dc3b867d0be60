use std::time::Duration;

use super::{Oracle, Status};
use crate::{BootTime, Change, LatencySummary, NodeId, Problem, Report, state::Capped};

/// All that is known of an oracle and its cluster at one moment, for people.
#[derive(Clone, Debug)]
pub struct Overview {
    /// How it is doing.
    pub status: Status,
    /// For how long it has been in its phase.
    pub phase_lasts: Duration,
    /// The id of this node, as its storage has it.
    pub node: NodeId,
    /// How long a lease lasts.
    pub lease: Duration,
    /// What the driver knows, and whoever else reports.
    pub report: Report,
    /// How long commits take that this node makes.
    pub commits: LatencySummary,
    /// How much there is of what is capped; nothing unless this node leads.
    pub usage: Vec<Usage>,
    /// The last changes of leadership, the latest first.
    pub changes: Vec<Change>,
    /// What is wrong, reasons before what they lead to.
    pub problems: Vec<Problem>,
}

/// How much there is of something that is capped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// What: `stamping leases`.
    pub what: String,
    /// How much there is.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
}

impl Oracle {
    /// All that this node knows of itself and its cluster, now.
    pub fn overview(&self) -> Overview {
        let shared = &self.shared;
        let now = shared.clock.now().boot;
        let report = shared.report(now);
        let usage = |what: Capped| Usage {
            what: what.to_string(),
            used: shared.used.get(what),
            limit: what.of(&shared.options.limits),
        };
        Overview {
            status: self.status(),
            phase_lasts: now.since(shared.history.phase_since()),
            node: shared.guard.driver().node(),
            lease: shared.options.lease,
            commits: shared.guard.commits.summary(now),
            usage: Capped::ALL.map(usage).into(),
            changes: shared.history.changes(),
            problems: shared.problems(&report),
            report,
        }
    }

    /// What is wrong with this node or its peers as far as it knows, reasons before what they lead to.
    pub fn problems(&self) -> Vec<Problem> {
        let report = self.shared.report(self.shared.clock.now().boot);
        self.shared.problems(&report)
    }

    /// Has what `source` says be reported as well, from now on. It must not wait for anything.
    pub fn report_also(&self, source: impl Fn(BootTime) -> Report + Send + Sync + 'static) {
        self.shared.problems.add_source(Box::new(source));
    }
}
