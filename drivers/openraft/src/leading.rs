//! Who leads, as raft sees it; and the claims of this node.

use std::{sync::Arc, time::Duration};

use openraft::ServerState;
use tokio::sync::watch;
use tsoracle_core::{Clock as _, Epoch, Error, ErrorKind, Leadership, Result, SystemClock};

use crate::{
    shared::{Shared, hint},
    types::{Metrics, Vote},
};

/// How long to wait before a majority is asked again whether this node leads.
const PAUSE: Duration = Duration::from_millis(10);

/// How long this node still leads under a claim that was released, if nothing else happens: it usually
/// is about to stop, or to hand leadership over.
const AFTER_RELEASE: Duration = Duration::from_millis(300);

/// The claim under which this node leads.
struct Claim {
    vote: Vote,
    epoch: Epoch,
}

/// Follows raft until it ends, and says who leads. The channel closes when this returns: the node will
/// never lead again.
pub(crate) async fn follow(shared: Arc<Shared>, says: watch::Sender<Leadership>, first_claim: u32) {
    let mut ended = Box::pin(end(&shared));
    let reason = tokio::select! {
        // Raft ends because the node does, not the other way round.
        biased;
        reason = &mut ended => reason,
        error = claim_and_say(&shared, &says, first_claim) => error,
    };
    if let Some(error) = reason {
        tracing::error!(%error, "this node serves no more");
        shared.fail(error);
        // What failed must not keep others from leading.
        let _ = shared.raft.shutdown().await;
    }
}

/// Returns once this node is to stop, or has failed, with the reason.
async fn end(shared: &Shared) -> Option<Error> {
    let mut failed = shared.keeper.failed();
    let mut disowned = shared.transport.disowned();
    let mut stopping = shared.stopping.subscribe();
    tokio::select! {
        biased;
        _ = stopping.wait_for(|stopping| *stopping) => None,
        failed = failed.wait_for(Option::is_some) => Some(match failed.ok().as_deref() {
            Some(Some(error)) => error.duplicate(),
            _ => fatal("the store's thread has ended"),
        }),
        disowned = disowned.wait_for(Option::is_some) => {
            let reason = disowned.ok().and_then(|reason| reason.clone()).unwrap_or_default();
            Some(Error::new(ErrorKind::Fatal, reason))
        }
    }
}

/// Never returns while raft runs.
async fn claim_and_say(
    shared: &Shared,
    says: &watch::Sender<Leadership>,
    first_claim: u32,
) -> Option<Error> {
    // Its values change with the vote and the membership only, so that this sleeps mostly.
    let mut changes = shared.raft.server_metrics();
    let mut released = shared.waiting.released();
    let mut unused = Some(first_claim);
    let mut claim: Option<Claim> = None;
    loop {
        changes.borrow_and_update();
        let metrics = shared.metrics();
        if let Some(vote) = leads(&metrics)
            && claim.as_ref().is_none_or(|claim| claim.vote != vote)
        {
            shared.elected.note();
            says.send_if_modified(|now| change(now, Leadership::Unknown));
            match make_claim(shared, vote, &mut unused).await {
                Ok(made) => claim = made,
                Err(error) => return Some(error),
            }
            // Much may have happened meanwhile.
            continue;
        }
        let now = match (leads(&metrics), &claim) {
            (Some(_), Some(claim)) => Leadership::Leader { epoch: claim.epoch },
            _ => {
                claim = None;
                followed(&metrics)
            }
        };
        says.send_if_modified(|known| change(known, now));
        let epoch = claim.as_ref().map(|claim| claim.epoch);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return Some(why_over(shared));
            },
            () = used_up(shared, &mut released, epoch) => claim = None,
        }
    }
}

/// Returns when a claim was released, and leadership is not handed over: this node needs another one.
async fn used_up(shared: &Shared, released: &mut watch::Receiver<Epoch>, claim: Option<Epoch>) {
    // The senders are in `shared`.
    let _ = released.wait_for(|released| Some(*released) == claim).await;
    let mut leaving = shared.leaving.subscribe();
    tokio::select! {
        _ = leaving.wait_for(|leaving| *leaving > 0) => {}
        () = SystemClock.sleep(AFTER_RELEASE) => {}
    }
    let _ = leaving.wait_for(|leaving| *leaving == 0).await;
}

/// Raises the claim, and makes sure that a majority follows. Nothing if leadership changed meanwhile.
async fn make_claim(
    shared: &Shared,
    vote: Vote,
    unused: &mut Option<u32>,
) -> Result<Option<Claim>> {
    // A leader that was restarted still thinks that it leads, whoever was elected meanwhile.
    loop {
        match shared.raft.get_read_log_id().await {
            Ok(_) => break,
            Err(error) => tracing::debug!(%error, "not sure of leading yet"),
        }
        SystemClock.sleep(PAUSE).await;
        if leads(&shared.metrics()) != Some(vote) {
            return Ok(None);
        }
    }
    let claim = match unused.take() {
        Some(claim) => claim,
        None => shared.keeper.raise_claim().await?,
    };
    let epoch = epoch(vote.leader_id.term, shared.cluster.node, claim);
    tracing::info!(%epoch, term = vote.leader_id.term, claim, "this node leads");
    Ok(Some(Claim { vote, epoch }))
}

/// The vote under which this node leads, if it does.
fn leads(metrics: &Metrics) -> Option<Vote> {
    let is_leader = metrics.running_state.is_ok()
        && metrics.state == ServerState::Leader
        && metrics.vote.committed
        && metrics.vote.leader_id.node_id == metrics.id;
    is_leader.then_some(metrics.vote)
}

fn followed(metrics: &Metrics) -> Leadership {
    match metrics.current_leader {
        Some(leader) if leader != metrics.id => Leadership::Follower { leader: hint(metrics) },
        _ => Leadership::Unknown,
    }
}

/// Term, then node, then claim: nothing is cut off, since a term has 64 bits and the others 32.
fn epoch(term: u64, node: u32, claim: u32) -> Epoch {
    Epoch::from_parts(term, u64::from(node) << 32 | u64::from(claim))
}

fn change(known: &mut Leadership, now: Leadership) -> bool {
    let is_news = *known != now;
    *known = now;
    is_news
}

/// Why raft has ended, though nobody told it to.
fn why_over(shared: &Shared) -> Error {
    match shared.metrics().running_state {
        Err(error) => fatal(&format!("raft has ended: {error}")),
        Ok(()) => fatal("raft has ended without a reason"),
    }
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_claim_has_a_higher_epoch() {
        let epochs = [
            epoch(1, 1, 1),
            epoch(1, 1, u32::MAX),
            epoch(1, 2, 0),
            epoch(1, u32::MAX, u32::MAX),
            epoch(2, 1, 1),
            epoch(u64::MAX, u32::MAX, u32::MAX),
        ];
        assert!(epochs.is_sorted_by(|earlier, later| earlier < later));
        assert_eq!(epochs[5].0, u128::MAX);
    }
}
