use std::{collections::BTreeMap, sync::Mutex};

use tsoracle_core::{BootTime, Now};

use super::lock;

/// What the wall clocks of the peers show: what each has told last, and the time that has passed since on the boot clock
/// of this node.
#[derive(Default, Debug)]
pub(super) struct PeerClocks(Mutex<BTreeMap<u32, Now>>);

impl PeerClocks {
    /// What they show when the boot clock of this node shows `boot`, in milliseconds since 1970.
    pub(super) fn at(&self, boot: BootTime) -> Vec<u64> {
        let passed_ms = |told: &Now| boot.since(told.boot).as_millis() as u64;
        lock(&self.0).values().map(|told| told.wall_ms.saturating_add(passed_ms(told))).collect()
    }

    /// Node `node` has just told what its clock shows: 0 if it does not tell.
    pub(super) fn note(&self, node: u32, wall_ms: u64, boot: BootTime) {
        if wall_ms > 0 {
            lock(&self.0).insert(node, Now { wall_ms, boot });
        }
    }

    /// That node is no peer any more.
    pub(super) fn forget(&self, node: u32) {
        lock(&self.0).remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clocks_go_on_from_what_was_told_last() {
        let (clocks, start) = (PeerClocks::default(), BootTime::from_nanos(5_000_000_000));
        clocks.note(2, 1_000, start);
        clocks.note(3, 9_000, start);
        clocks.note(4, 0, start);
        assert_eq!(clocks.at(start + Duration::from_millis(250)), [1_250, 9_250]);
        clocks.note(3, 2_000, start + Duration::from_secs(1));
        assert_eq!(clocks.at(start + Duration::from_secs(2)), [3_000, 3_000]);
        clocks.forget(2);
        assert_eq!(clocks.at(start), [2_000], "what was told is not older than that");
    }
}
