use tonic::{Code, Response, Status};
use tsoracle_proto::v1;

use tsoracle_history::Check;

use super::{ids, listing};
use crate::probe::{Expect, Outcome, Probe, Stop};

pub(super) async fn check(probe: &Probe) -> Check {
    let promise = "forgets a key and says where it stood; one never used is NOT_FOUND";
    probe.run("DeleteSeq", promise, deleting).await
}

/// Whether keys can be deleted, and by this client.
pub(crate) async fn is_offered(probe: &Probe) -> bool {
    matches!(delete(probe, &probe.key()).await, Err(status) if status.code() == Code::NotFound)
}

async fn delete(probe: &Probe, key: &str) -> Result<v1::DeleteSeqResponse, Status> {
    let request = v1::DeleteSeqRequest { key: key.into() };
    let answer = probe.ask(async |mut node| node.sequences.delete_seq(request.clone()).await).await;
    answer.map(Response::into_inner)
}

async fn deleting(probe: &Probe, check: &mut Check) -> Outcome {
    let key = probe.key();
    match delete(probe, &key).await {
        Err(status) if status.code() == Code::Unimplemented => return Err(Stop::NotOffered),
        unused => check.expect_refusal("DeleteSeq of a key never used", unused, Code::NotFound)?,
    }
    let named = ids::named(&probe.key());
    let has_names = ids::are_names_offered(probe).await;
    let mut next = 0;
    if has_names {
        ids::get(probe, &key, 2, named.clone()).await?;
        next = 2;
    }
    for count in [3, 4] {
        probe.get_seq(&key, count).await?;
        let answer = delete(probe, &key).await?;
        let stood = next + u64::from(count);
        check.expect_eq("DeleteSeq", &(&*answer.key, answer.next), &(&*key, stood));
        check.expect(answer.epoch.is_some(), || "DeleteSeq: without an epoch".into());
        let gone = listing::read(probe, &key).await;
        check.expect_refusal("ReadSeq of a key that was deleted", gone, Code::NotFound)?;
        next = 0;
    }
    if has_names {
        let again = ids::get(probe, &key, 2, named).await?;
        check.expect_eq("GetSeq of before the deletion, start", &again.start, &0);
    }
    let start = probe.get_seq(&key, 1).await?.start;
    check.expect_eq("GetSeq of a key that was deleted, start", &start, &0);
    let again = delete(probe, &key).await?.next;
    check.expect_eq("DeleteSeq once more", &again, &1);
    check.expect_refusal("DeleteSeq of no key", delete(probe, "").await, Code::InvalidArgument)
}
