use tonic::Code;
use tsoracle_types::MAX_KEY_BYTES;

use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe};

pub(super) async fn check(probe: &Probe) -> [Check; 2] {
    let refusals = "a bad key or count is INVALID_ARGUMENT, and spends nothing";
    [
        probe
            .run(
                "GetSeq",
                "echoes key and count, starts at 0, goes on there, names its epoch",
                answers,
            )
            .await,
        probe.run("GetSeq limits", refusals, limits).await,
    ]
}

async fn answers(probe: &Probe, check: &mut Check) -> Outcome {
    let plain = probe.key();
    let longest = format!("{plain}/{:->width$}", "", width = MAX_KEY_BYTES - plain.len() - 1);
    let unicode = format!("{plain}/Zähler → 数");
    for key in [plain, longest, unicode] {
        let mut next = 0;
        for count in [1, 64, 65_536, 1] {
            let asked = format!("GetSeq({key:?}, {count})");
            let answer = probe.get_seq(&key, count).await?;
            check.expect_eq(&format!("{asked}, key"), &answer.key, &key);
            check.expect_eq(&format!("{asked}, count"), &answer.count, &count);
            check.expect_eq(&format!("{asked}, start"), &answer.start, &next);
            check.expect(answer.epoch.is_some(), || format!("{asked}: without an epoch"));
            next += u64::from(count);
        }
    }
    Ok(())
}

async fn limits(probe: &Probe, check: &mut Check) -> Outcome {
    let key = probe.key();
    let too_long = "k".repeat(MAX_KEY_BYTES + 1);
    for (key, count) in [("", 1), (&*too_long, 1), (&*key, 0), (&*key, u32::MAX)] {
        let asked = format!("GetSeq({key:?}, {count})");
        check.expect_refusal(&asked, probe.get_seq(key, count).await, Code::InvalidArgument)?;
    }
    let start = probe.get_seq(&key, 1).await?.start;
    check.expect_eq("GetSeq after refusals, start", &start, &0);
    Ok(())
}
