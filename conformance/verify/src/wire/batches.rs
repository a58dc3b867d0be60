use tonic::Code;
use tsoracle_types::MAX_BATCH;

use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe};

pub(super) async fn check(probe: &Probe) -> [Check; 2] {
    let answered = "echoes keys and counts in the order asked, names its epoch";
    let refusals =
        "an empty, oversize or otherwise bad batch is INVALID_ARGUMENT, and spends nothing";
    [
        probe.run("GetSeqBatch", answered, answers).await,
        probe.run("GetSeqBatch limits", refusals, limits).await,
    ]
}

async fn answers(probe: &Probe, check: &mut Check) -> Outcome {
    let keys: Vec<String> = (0..MAX_BATCH).map(|_| probe.key()).collect();
    let few: Vec<(&str, u32)> = vec![(&keys[2], 5), (&keys[0], 1), (&keys[1], 65_536)];
    let all: Vec<(&str, u32)> = keys.iter().map(|key| (&**key, 2)).collect();
    for (entries, starts) in [(&few, vec![0, 0, 0]), (&few, vec![5, 1, 65_536])] {
        let answer = probe.get_seq_batch(entries).await?;
        let asked = format!("GetSeqBatch({entries:?})");
        let answered = answer.grants.iter().map(|grant| (&*grant.key, grant.count));
        let answered: Vec<(&str, u32)> = answered.collect();
        check.expect_eq(&format!("{asked}, keys and counts"), &answered, entries);
        let answered: Vec<u64> = answer.grants.iter().map(|grant| grant.start).collect();
        check.expect_eq(&format!("{asked}, starts"), &answered, &starts);
        check.expect(answer.epoch.is_some(), || format!("{asked}: without an epoch"));
    }
    let answer = probe.get_seq_batch(&all).await?;
    let answered = answer.grants.iter().map(|grant| (&*grant.key, grant.count));
    check.expect(answered.eq(all), || "GetSeqBatch of 128: other keys, or in another order".into());
    Ok(())
}

async fn limits(probe: &Probe, check: &mut Check) -> Outcome {
    let keys: Vec<String> = (0..=MAX_BATCH).map(|_| probe.key()).collect();
    let [good, other] = [&*keys[0], &*keys[1]];
    let too_many: Vec<(&str, u32)> = keys.iter().map(|key| (&**key, 1)).collect();
    let bad: [(&str, &[(&str, u32)]); 6] = [
        ("of nothing", &[]),
        ("of 129", &too_many),
        ("with a key twice", &[(good, 1), (other, 1), (good, 1)]),
        ("with a count of 0", &[(good, 1), (other, 0)]),
        ("with a count of 4294967295", &[(good, 1), (other, u32::MAX)]),
        ("with an empty key", &[(good, 1), ("", 1)]),
    ];
    for (what, entries) in bad {
        let asked = format!("GetSeqBatch {what}");
        check.expect_refusal(&asked, probe.get_seq_batch(entries).await, Code::InvalidArgument)?;
    }
    let starts = probe.get_seq_batch(&[(good, 1), (other, 1)]).await?;
    let starts: Vec<u64> = starts.grants.iter().map(|grant| grant.start).collect();
    check.expect_eq("GetSeqBatch after refusals, starts", &starts, &vec![0, 0]);
    Ok(())
}
