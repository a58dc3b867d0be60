use tonic::{Code, Response, Status};
use tsoracle_proto::v1;

use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe, Stop};

pub(super) async fn check(probe: &Probe) -> [Check; 3] {
    let seeded = "sets the start of an unused key, once; a used one is ALREADY_EXISTS";
    [
        probe
            .run("ReadSeq", "answers the next value; a key never used is NOT_FOUND", reading)
            .await,
        probe.run("ListSeqs", "lists a prefix in byte order, page by page", listing).await,
        probe.run("SeedSeq", seeded, seeding).await,
    ]
}

fn offered<A>(answer: Result<A, Status>) -> Result<A, Stop> {
    answer.map_err(|status| match status.code() {
        Code::Unimplemented => Stop::NotOffered,
        _ => Stop::Failed(status),
    })
}

/// Where a key stands; `NOT_FOUND` if it was never used.
pub(crate) async fn read(probe: &Probe, key: &str) -> Result<v1::ReadSeqResponse, Status> {
    let request = v1::ReadSeqRequest { key: key.into() };
    let answer = probe.ask(async |mut node| node.sequences.read_seq(request.clone()).await).await;
    answer.map(Response::into_inner)
}

/// Whether keys can be read.
pub(crate) async fn is_read_offered(probe: &Probe) -> bool {
    !matches!(read(probe, &probe.key()).await, Err(status) if status.code() != Code::NotFound)
}

async fn seed(probe: &Probe, key: &str, start: u64) -> Result<v1::SeedSeqResponse, Status> {
    let request = v1::SeedSeqRequest { key: key.into(), start };
    let answer = probe.ask(async |mut node| node.sequences.seed_seq(request.clone()).await).await;
    answer.map(Response::into_inner)
}

async fn list(
    probe: &Probe,
    prefix: &str,
    page_size: u32,
    start_after: &str,
) -> Result<v1::ListSeqsResponse, Status> {
    let (prefix, start_after) = (prefix.into(), start_after.into());
    let request = v1::ListSeqsRequest { prefix, page_size, start_after };
    let answer = probe.ask(async |mut node| node.sequences.list_seqs(request.clone()).await).await;
    answer.map(Response::into_inner)
}

async fn reading(probe: &Probe, check: &mut Check) -> Outcome {
    let key = probe.key();
    let unused = read(probe, &key).await;
    if unused.as_ref().is_err_and(|status| status.code() == Code::Unimplemented) {
        return Err(Stop::NotOffered);
    }
    check.expect_refusal("ReadSeq of a key never used", unused, Code::NotFound)?;
    for next in [3, 6] {
        probe.get_seq(&key, 3).await?;
        for _ in 0..2 {
            let answer = read(probe, &key).await?;
            check.expect_eq("ReadSeq", &(&*answer.key, answer.next), &(&*key, next));
            check.expect(answer.epoch.is_some(), || "ReadSeq: without an epoch".into());
        }
    }
    check.expect_refusal("ReadSeq of no key", read(probe, "").await, Code::InvalidArgument)
}

async fn listing(probe: &Probe, check: &mut Check) -> Outcome {
    let prefix = format!("{}/", probe.key());
    offered(list(probe, &prefix, 1, "").await)?;
    let keys: Vec<String> =
        ["b", "a", "ab", "ä", "c"].iter().map(|key| format!("{prefix}{key}")).collect();
    for (key, count) in keys.iter().zip(1..) {
        probe.get_seq(key, count).await?;
    }
    let mut wanted: Vec<(String, u64)> = keys.into_iter().zip(1..).collect();
    wanted.sort();
    for page_size in [1, 2, 5, 0] {
        let asked = format!("ListSeqs in pages of {page_size}");
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map_or(String::new(), |(key, _): &(String, u64)| key.clone());
            let page = list(probe, &prefix, page_size, &after).await?;
            check.expect(page.epoch.is_some(), || format!("{asked}: without an epoch"));
            let is_full = page_size > 0 && page.entries.len() > page_size as usize;
            check.expect(!is_full, || format!("{asked}: a page of {}", page.entries.len()));
            let ends = !page.more || page.entries.is_empty() || listed.len() > wanted.len();
            listed.extend(page.entries.into_iter().map(|entry| (entry.key, entry.next)));
            if ends {
                break;
            }
        }
        check.expect_eq(&asked, &listed, &wanted);
    }
    Ok(())
}

async fn seeding(probe: &Probe, check: &mut Check) -> Outcome {
    let key = probe.key();
    let answer = offered(seed(probe, &key, 1_000).await)?;
    check.expect_eq("SeedSeq", &(&*answer.key, answer.next), &(&*key, 1_000));
    check.expect(answer.epoch.is_some(), || "SeedSeq: without an epoch".into());
    let again = seed(probe, &key, 2_000).await;
    check.expect_refusal("SeedSeq of a seeded key", again, Code::AlreadyExists)?;
    let start = probe.get_seq(&key, 2).await?.start;
    check.expect_eq("GetSeq of a seeded key, start", &start, &1_000);
    let used = probe.key();
    probe.get_seq(&used, 1).await?;
    let answer = seed(probe, &used, 2_000).await;
    check.expect_refusal("SeedSeq of a used key", answer, Code::AlreadyExists)?;

    // The only way to get near the end of a sequence.
    let (last, other) = (probe.key(), probe.key());
    seed(probe, &last, u64::MAX - 1).await?;
    let beyond = probe.get_seq(&last, 5).await;
    check.expect_refusal("GetSeq beyond the last value", beyond, Code::FailedPrecondition)?;
    let beyond = probe.get_seq_batch(&[(&other, 1), (&last, 5)]).await;
    check.expect_refusal("GetSeqBatch beyond the last value", beyond, Code::FailedPrecondition)?;
    let start = probe.get_seq(&other, 1).await?.start;
    check.expect_eq("GetSeq after a batch that was refused, start", &start, &0);
    Ok(())
}
