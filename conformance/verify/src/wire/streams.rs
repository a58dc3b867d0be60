use futures::stream;
use tonic::{Code, Response, Status, Streaming};
use tsoracle_proto::v1::{self, seq_outcome::Outcome as Became};
use tsoracle_types::TIMESTAMPS_PER_MS;

use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe, Stop};

pub(super) async fn check(probe: &Probe) -> [Check; 2] {
    let timestamps = "answers each message in order, and ends as GetTs fails";
    let sequences = "answers each entry in order; each is granted or fails alone";
    [
        probe.run("StreamTs", timestamps, stream_ts).await,
        probe.run("StreamSeq", sequences, stream_seq).await,
    ]
}

/// Whether a stream of timestamps is answered.
pub(crate) async fn are_offered(probe: &Probe) -> bool {
    let one = || stream::iter([v1::GetTsRequest { count: 1 }]);
    match probe.ask(async |mut node| node.tso.stream_ts(one()).await).await {
        Ok(answers) => drain(answers).await.0.len() == 1,
        Err(_) => false,
    }
}

/// The messages until the stream ends, and how it ends.
async fn drain<A>(answers: Response<Streaming<A>>) -> (Vec<A>, Option<Status>) {
    let mut answers = answers.into_inner();
    let mut messages = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, None),
            Err(status) => return (messages, Some(status)),
        }
    }
}

fn offered<A>(answer: Result<A, Status>) -> Result<A, Stop> {
    answer.map_err(|status| match status.code() {
        Code::Unimplemented => Stop::NotOffered,
        _ => Stop::Failed(status),
    })
}

/// A stream that failed because no node leads is begun again.
fn ended_well(status: Option<Status>) -> Outcome {
    status.map_or(Ok(()), |status| Err(status.into()))
}

async fn stream_ts(probe: &Probe, check: &mut Check) -> Outcome {
    let open = async |counts: &[u32]| {
        let requests: Vec<_> = counts.iter().map(|&count| v1::GetTsRequest { count }).collect();
        let opened =
            probe.ask(async |mut node| node.tso.stream_ts(stream::iter(requests.clone())).await);
        Ok::<_, Stop>(drain(offered(opened.await)?).await)
    };
    let counts = [1, 7, TIMESTAMPS_PER_MS, 1];
    let (answers, status) = offered_messages(open(&counts).await?)?;
    ended_well(status)?;
    let answered: Vec<u32> = answers.iter().map(|answer| answer.count).collect();
    check.expect_eq("StreamTs, counts", &answered, &counts.to_vec());
    let firsts = answers.iter().map(|answer| (answer.physical_ms, answer.logical_start));
    let firsts: Vec<_> = firsts.collect();
    check.expect(firsts.is_sorted_by(|one, next| one < next), || {
        format!("StreamTs, not in order: {firsts:?}")
    });
    for bad in [0, TIMESTAMPS_PER_MS + 1] {
        let (answers, status) = open(&[1, bad, 1]).await?;
        let ended = status.map_or(Ok(answers.len()), Err);
        let asked = format!("StreamTs, a count of {bad}");
        check.expect_refusal(&asked, ended, Code::InvalidArgument)?;
        check.expect_eq(&format!("{asked}, answers before it"), &answers.len(), &1);
    }
    Ok(())
}

/// A server that does not know the call may say so only when the stream is read.
fn offered_messages<A>(
    (messages, status): (Vec<A>, Option<Status>),
) -> Result<(Vec<A>, Option<Status>), Stop> {
    match status {
        Some(status) if status.code() == Code::Unimplemented => Err(Stop::NotOffered),
        status => Ok((messages, status)),
    }
}

async fn stream_seq(probe: &Probe, check: &mut Check) -> Outcome {
    let open = async |messages: Vec<v1::StreamSeqRequest>| {
        let opened =
            probe.ask(async |mut node| node.tso.stream_seq(stream::iter(messages.clone())).await);
        Ok::<_, Stop>(drain(offered(opened.await)?).await)
    };
    let (key, other) = (probe.key(), probe.key());
    let entry = |key: &str, count| v1::GetSeqRequest { key: key.into(), count, request_id: None };
    let first = v1::StreamSeqRequest {
        requests: vec![
            entry(&key, 2),
            entry("", 1),
            entry(&other, 3),
            entry(&key, 0),
            entry(&key, 1),
        ],
        run: None,
    };
    let second = v1::StreamSeqRequest { requests: vec![entry(&key, 1)], run: None };
    let (answers, status) = offered_messages(open(vec![first, second]).await?)?;
    ended_well(status)?;
    let outcomes: Vec<Vec<_>> =
        answers.iter().map(|one| one.outcomes.iter().map(short).collect()).collect();
    let denials = [Code::Unauthenticated, Code::PermissionDenied];
    let mut failed = outcomes.iter().flatten().filter_map(|outcome| outcome.err());
    if let Some(code) = failed.find(|code| denials.contains(code)) {
        return Err(Status::new(code, "an entry of a stream").into());
    }
    let bad = Err(Code::InvalidArgument);
    let wanted = [
        vec![Ok((&*key, 0, 2)), bad, Ok((&*other, 0, 3)), bad, Ok((&*key, 2, 1))],
        vec![Ok((&*key, 3, 1))],
    ];
    check.expect_eq("StreamSeq, outcomes", &outcomes, &wanted.to_vec());
    let granted = answers.iter().flat_map(|answer| &answer.outcomes);
    check.expect(granted.filter_map(grant).all(|grant| grant.epoch.is_some()), || {
        "StreamSeq: a grant without an epoch".into()
    });
    let (answers, status) = open(vec![v1::StreamSeqRequest::default()]).await?;
    let ended = status.map_or(Ok(answers.len()), Err);
    check.expect_refusal("StreamSeq, an empty message", ended, Code::InvalidArgument)?;
    Ok(())
}

fn grant(outcome: &v1::SeqOutcome) -> Option<&v1::GetSeqResponse> {
    match &outcome.outcome {
        Some(Became::Granted(grant)) => Some(grant),
        _ => None,
    }
}

/// Key, start and count, or why not.
fn short(outcome: &v1::SeqOutcome) -> Result<(&str, u64, u32), Code> {
    match &outcome.outcome {
        Some(Became::Granted(grant)) => Ok((&grant.key, grant.start, grant.count)),
        Some(Became::Failed(failure)) => Err(Code::from(failure.code as i32)),
        None => Err(Code::Unknown),
    }
}
