use tonic::{Code, Status};
use tsoracle_proto::{metadata, v1};

use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe, is_denial, is_trouble, text_of};

pub(super) async fn check(probe: &Probe) -> [Check; 1] {
    let promise = "refuses with FAILED_PRECONDITION, `not leader`, and a hint to another node";
    let mut check = probe.run("a node without lead", promise, refusals).await;
    if check.operations == 0 {
        check.note = Some("each of the endpoints leads".into());
    }
    [check]
}

async fn refusals(probe: &Probe, check: &mut Check) -> Outcome {
    for (number, node) in probe.nodes.iter().enumerate() {
        let mut tso = probe.services(number).tso;
        let Err(refused) = tso.get_ts(v1::GetTsRequest { count: 1 }).await else { continue };
        let is_other = is_trouble(&refused) || is_denial(&refused);
        if refused.code() != Code::FailedPrecondition && is_other {
            return Err(refused.into());
        }
        refusal(check, &format!("GetTs(1) to {}", node.name), &refused, &node.name);
        let request = v1::GetSeqRequest { key: probe.key(), count: 1, request_id: None };
        if let Err(refused) = tso.get_seq(request).await {
            if is_denial(&refused) {
                return Err(refused.into());
            }
            let asked = format!("GetSeq to {}", node.name);
            refusal(check, &asked, &refused, &node.name);
            check.expect(metadata::leader_hint(refused.metadata()).is_some(), || {
                format!("{asked}: without the trailer, which means refused for good")
            });
        }
        let answer = tso.get_current_max_safe(v1::GetCurrentMaxSafeRequest {}).await?;
        let answer = answer.into_inner().max_safe_physical_ms;
        check.expect_eq(&format!("GetCurrentMaxSafe of {}", node.name), &answer, &0);
    }
    Ok(())
}

fn refusal(check: &mut Check, asked: &str, refused: &Status, own: &str) {
    check.expect(refused.code() == Code::FailedPrecondition, || {
        format!("{asked}: {}, not FailedPrecondition", text_of(refused))
    });
    check.expect_eq(&format!("{asked}, message"), &refused.message(), &"not leader");
    let Some(hint) = metadata::leader_hint(refused.metadata()) else { return };
    let Some(endpoint) = hint.leader_endpoint else { return };
    let port = endpoint.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    check.expect(matches!(port, Some(Ok(_))) && !endpoint.contains("://"), || {
        format!("{asked}: the hint {endpoint:?} is not host:port without a scheme")
    });
    check.expect(endpoint != own, || format!("{asked}: the hint leads back to {own}"));
}
