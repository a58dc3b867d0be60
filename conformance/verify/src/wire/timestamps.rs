use tonic::{Code, Response};
use tsoracle_proto::v1;
use tsoracle_types::{MAX_PHYSICAL_MS, TIMESTAMPS_PER_MS};

use super::epoch;
use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe};

pub(super) async fn check(probe: &Probe) -> [Check; 3] {
    [
        probe.run("GetTs", "grants as many as asked for, of one millisecond", answers).await,
        probe.run("GetTs limits", "a count of 0 or above 262144 is INVALID_ARGUMENT", limits).await,
        probe.run("GetCurrentMaxSafe", "the leader answers a time under its epoch", max_safe).await,
    ]
}

async fn answers(probe: &Probe, check: &mut Check) -> Outcome {
    let mut last = None;
    for count in [1, 2, TIMESTAMPS_PER_MS, 1] {
        let asked = format!("GetTs({count})");
        let answer = probe.get_ts(count).await?;
        check.expect_eq(&format!("{asked}, count"), &answer.count, &count);
        check.expect((1..=MAX_PHYSICAL_MS).contains(&answer.physical_ms), || {
            format!("{asked}: a physical_ms of {}", answer.physical_ms)
        });
        let end = u64::from(answer.logical_start) + u64::from(count);
        check.expect(end <= TIMESTAMPS_PER_MS.into(), || {
            format!("{asked}: from {} on, beyond its millisecond", answer.logical_start)
        });
        let first = (answer.physical_ms, u64::from(answer.logical_start));
        check.expect(last.is_none_or(|last| last < first), || {
            format!("{asked}: {first:?} after {last:?}")
        });
        last = Some((answer.physical_ms, end - 1));
    }
    Ok(())
}

async fn limits(probe: &Probe, check: &mut Check) -> Outcome {
    for count in [0, TIMESTAMPS_PER_MS + 1, u32::MAX] {
        let asked = format!("GetTs({count})");
        check.expect_refusal(&asked, probe.get_ts(count).await, Code::InvalidArgument)?;
    }
    // A count of 0 is refused before leadership is looked at, so by every node.
    for (number, node) in probe.nodes.iter().enumerate() {
        let mut services = probe.services(number);
        let answer = services.tso.get_ts(v1::GetTsRequest { count: 0 }).await;
        let asked = format!("GetTs(0) to {}", node.name);
        check.expect_refusal(&asked, answer.map(Response::into_inner), Code::InvalidArgument)?;
    }
    Ok(())
}

async fn max_safe(probe: &Probe, check: &mut Check) -> Outcome {
    // The node that answers timestamps leads, and is asked next.
    let before = probe.get_ts(1).await?;
    let request = v1::GetCurrentMaxSafeRequest {};
    let answer = probe.ask(async |mut node| node.tso.get_current_max_safe(request).await).await?;
    let answer = answer.into_inner();
    let after = probe.get_ts(1).await?;
    let is_led = epoch(before.epoch_hi, before.epoch_lo) == epoch(after.epoch_hi, after.epoch_lo);
    if is_led {
        check.expect(answer.max_safe_physical_ms != 0, || "0 from a node that leads".into());
        let (hi, lo) = (answer.epoch_hi, answer.epoch_lo);
        check.expect_eq("epoch", &(hi, lo), &(before.epoch_hi, before.epoch_lo));
    }
    Ok(())
}
