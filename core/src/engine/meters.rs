use metrics::{Counter, Gauge, counter, gauge};

use crate::state::{CAPS, Capped, Limits};

/// What the engine counts, through the `metrics` facade.
///
/// The handles are made once, when the oracle starts, so that counting costs an atomic addition at
/// most. A recorder must be installed before.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) reigns: Counter,
    pub(crate) lease_left: Gauge,
    pub(crate) grants: Counter,
    pub(crate) timestamps: Counter,
    pub(crate) commits: Counter,
    pub(crate) commands: Counter,
    pub(crate) rejects: Counter,
    /// How much there is of what is capped; 0 unless this node leads.
    pub(crate) used: [Gauge; CAPS],
    pub(crate) free_bytes: Gauge,
    pub(crate) clock_leaps: Counter,
    /// By how much the wall clock is ahead of what is believed; 0 if it is followed.
    pub(crate) clock_not_followed: Gauge,
    /// By how much timestamps are ahead of the wall clock.
    pub(crate) ahead_of_clock: Gauge,
    pub(crate) resignations: Counter,
}

impl Meters {
    pub(crate) fn new(limits: &Limits) -> Self {
        let used = Capped::ALL.map(|what| {
            let name = format!("tsoracle_{}", what.to_string().replace(' ', "_"));
            gauge!(format!("{name}_limit")).set(what.of(limits) as f64);
            gauge!(name)
        });
        Self {
            reigns: counter!("tsoracle_reigns_total"),
            lease_left: gauge!("tsoracle_lease_left_seconds"),
            grants: counter!("tsoracle_grants_total"),
            timestamps: counter!("tsoracle_timestamps_total"),
            commits: counter!("tsoracle_commits_total"),
            commands: counter!("tsoracle_commands_total"),
            rejects: counter!("tsoracle_rejects_total"),
            used,
            free_bytes: gauge!("tsoracle_free_bytes"),
            clock_leaps: counter!("tsoracle_wall_clock_leaps_total"),
            clock_not_followed: gauge!("tsoracle_wall_clock_not_followed_seconds"),
            ahead_of_clock: gauge!("tsoracle_ahead_of_wall_clock_seconds"),
            resignations: counter!("tsoracle_resignations_total"),
        }
    }
}
