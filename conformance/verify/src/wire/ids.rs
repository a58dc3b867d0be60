use tonic::{Code, Response, Status};
use tsoracle_proto::{
    SESSION_BYTES,
    metadata::{self, SESSION_UNKNOWN, SESSIONS},
    v1,
};

use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe, Stop};

pub(super) async fn check(probe: &Probe) -> [Check; 3] {
    let once = "a request sent again gets the same block, in calls and batches";
    let names = "a request sent again under its name gets the same block, another one is refused";
    let refusals = "a reused, malformed, forgotten or unknown id is refused, and spends nothing";
    [
        probe.run("request ids", once, answered_once).await,
        probe.run("request ids limits", refusals, limits).await,
        probe.run("named requests", names, answered_by_name).await,
    ]
}

/// Whether the server honours request ids; the first answer tells.
pub(crate) async fn are_offered(probe: &Probe) -> Result<bool, Status> {
    let request = v1::GetTsRequest { count: 1 };
    let answer = probe.ask(async |mut node| node.tso.get_ts(request).await).await?;
    Ok(metadata::has_flag(answer.metadata(), SESSIONS))
}

/// Whether a request may have a name in place of a session.
pub(crate) async fn are_names_offered(probe: &Probe) -> bool {
    let is_known = are_offered(probe).await.unwrap_or(false);
    let name = probe.key();
    is_known && get(probe, &probe.key(), 1, named(&name)).await.is_ok()
}

/// The id of a request with this name.
pub(crate) fn named(name: &str) -> v1::RequestId {
    v1::RequestId { name: name.into(), ..v1::RequestId::default() }
}

/// The requests of one session.
struct Session(Vec<u8>);

impl Session {
    async fn open(probe: &Probe) -> Result<Self, Stop> {
        if !are_offered(probe).await? {
            return Err(Stop::NotOffered);
        }
        Ok(Self(rand::random::<[u8; SESSION_BYTES]>().to_vec()))
    }

    fn id(&self, number: u64) -> v1::RequestId {
        let session = self.0.clone().into();
        v1::RequestId { session, number, first_incomplete: 1, ..v1::RequestId::default() }
    }
}

pub(super) async fn get(
    probe: &Probe,
    key: &str,
    count: u32,
    id: v1::RequestId,
) -> Result<v1::GetSeqResponse, Status> {
    let request = v1::GetSeqRequest { key: key.into(), count, request_id: Some(id) };
    let answer = probe.ask(async |mut node| node.tso.get_seq(request.clone()).await).await;
    answer.map(Response::into_inner)
}

async fn get_batch(
    probe: &Probe,
    keys: &[&str],
    id: v1::RequestId,
) -> Result<v1::GetSeqBatchResponse, Status> {
    let entries = keys.iter().map(|&key| v1::SeqRequestEntry { key: key.into(), count: 3 });
    let request = v1::GetSeqBatchRequest { entries: entries.collect(), request_id: Some(id) };
    let answer = probe.ask(async |mut node| node.tso.get_seq_batch(request.clone()).await).await;
    answer.map(Response::into_inner)
}

async fn answered_once(probe: &Probe, check: &mut Check) -> Outcome {
    let session = Session::open(probe).await?;
    let (key, other) = (probe.key(), probe.key());
    for retry in [false, false, true] {
        let id = v1::RequestId { retry, ..session.id(1) };
        let answer = get(probe, &key, 5, id).await?;
        check.expect_eq("GetSeq again, start and count", &(answer.start, answer.count), &(0, 5));
    }
    let answer = get(probe, &key, 1, session.id(2)).await?;
    check.expect_eq("GetSeq of another number, start", &answer.start, &5);
    for retry in [false, true] {
        let id = v1::RequestId { retry, ..session.id(3) };
        let answer = get_batch(probe, &[&key, &other], id).await?;
        let starts: Vec<u64> = answer.grants.iter().map(|grant| grant.start).collect();
        check.expect_eq("GetSeqBatch again, starts", &starts, &vec![6, 0]);
    }
    let close = v1::RequestId { close: true, first_incomplete: 4, ..session.id(4) };
    let closed = get_batch(probe, &[], close).await;
    check.expect(closed.is_ok(), || format!("an empty batch that closes its session: {closed:?}"));
    Ok(())
}

async fn limits(probe: &Probe, check: &mut Check) -> Outcome {
    let session = Session::open(probe).await?;
    let key = probe.key();
    get(probe, &key, 5, session.id(1)).await?;
    let reused = get(probe, &key, 6, session.id(1)).await;
    check.expect_refusal("an id used for another count", reused, Code::InvalidArgument)?;
    for bad in [vec![], vec![7; SESSION_BYTES - 1], vec![7; SESSION_BYTES + 1]] {
        let asked = format!("a session of {} bytes", bad.len());
        let malformed = get(probe, &key, 1, Session(bad).id(1)).await;
        check.expect_refusal(&asked, malformed, Code::InvalidArgument)?;
    }
    let ahead = v1::RequestId { first_incomplete: 3, ..session.id(3) };
    check.expect_eq("GetSeq, start", &get(probe, &key, 1, ahead).await?.start, &5);
    let forgotten = get(probe, &key, 5, session.id(1)).await;
    let asked = "a number below first_incomplete";
    check.expect_refusal(asked, forgotten, Code::FailedPrecondition)?;

    let unknown = Session::open(probe).await?;
    let retry = v1::RequestId { retry: true, ..unknown.id(1) };
    // It waits for 3 and above, so that 1 and 2 were answered: the session was known, and is forgotten.
    let later = v1::RequestId { first_incomplete: 3, ..unknown.id(3) };
    for (asked, id) in [("a retry", retry), ("a later request", later)] {
        let answer = get(probe, &key, 1, id).await;
        let is_said = |status: &Status| metadata::has_flag(status.metadata(), SESSION_UNKNOWN);
        let asked = format!("{asked} in an unknown session");
        check.expect(answer.as_ref().is_err_and(is_said), || {
            format!("{asked}: {answer:?}, not with {SESSION_UNKNOWN}: 1")
        });
        check.expect_refusal(&asked, answer, Code::FailedPrecondition)?;
    }
    let start = probe.get_seq(&key, 1).await?.start;
    check.expect_eq("GetSeq after refusals, start", &start, &6);
    Ok(())
}

async fn answered_by_name(probe: &Probe, check: &mut Check) -> Outcome {
    if !are_names_offered(probe).await {
        return Err(Stop::NotOffered);
    }
    let (key, other, name) = (probe.key(), probe.key(), probe.key());
    for _ in 0..2 {
        let answer = get(probe, &key, 5, named(&name)).await?;
        check.expect_eq("GetSeq by name, start and count", &(answer.start, answer.count), &(0, 5));
    }
    let start = get(probe, &key, 5, named(&format!("{name}, another"))).await?.start;
    check.expect_eq("GetSeq by another name, start", &start, &5);
    for (asked, key, count) in [("count", &key, 6), ("key", &other, 5)] {
        let reused = get(probe, key, count, named(&name)).await;
        let asked = format!("a name used for another {asked}");
        check.expect_refusal(&asked, reused, Code::InvalidArgument)?;
    }
    let batch = format!("{name}, of a batch");
    for _ in 0..2 {
        let answer = get_batch(probe, &[&key, &other], named(&batch)).await?;
        let starts: Vec<u64> = answer.grants.iter().map(|grant| grant.start).collect();
        check.expect_eq("GetSeqBatch by name, starts", &starts, &vec![10, 0]);
    }
    let start = probe.get_seq(&key, 1).await?.start;
    check.expect_eq("GetSeq after what was refused, start", &start, &13);
    Ok(())
}
