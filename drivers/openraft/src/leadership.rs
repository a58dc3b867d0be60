//! Who leads, as raft sees it, and the claims of this node.

use std::{mem, sync::Arc, time::Duration};

use openraft::ServerState;
use tokio::time::timeout;
use tsoracle_core::{Error, ErrorKind, supervised};
use tsoracle_replica::Announcer;

use crate::{commit, give_way, removal, shared::Shared, types::Vote};

/// How long to wait before a majority is asked again whether this node leads.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a majority may take to say so, and this node to apply what was decided before.
const CONFIRMED: Duration = Duration::from_secs(1);

/// For how many election times a leader is not heard before it counts as none.
const MISSED: u32 = 2;

/// How often that is tried before another node is to lead.
const ATTEMPTS: u32 = 2;

/// Follows raft until it ends, and announces who leads. The channel closes when this returns: the node
/// will never lead again.
pub(crate) async fn follow(shared: Arc<Shared>, mut announcer: Announcer) {
    let reason = tokio::select! {
        // Raft ends because the node does, not the other way round.
        biased;
        reason = end(&shared) => reason,
        ended = supervised("leadership", announce(&shared, &mut announcer)) => {
            Some(ended.unwrap_or_else(|panic| panic))
        }
    };
    if let Some(error) = reason {
        tracing::error!(error = %format_args!("{error:#}"), "this node serves no more");
        shared.lifecycle.fail(error);
        // Calls fail from here on.
        drop(announcer);
        // What failed must not keep others from leading.
        let _ = shared.raft.shutdown().await;
    }
}

/// Returns once this node is to stop, or has failed, with the reason.
async fn end(shared: &Shared) -> Option<Error> {
    let mut failed = shared.store.failed();
    let mut unheard = shared.transport.failure();
    tokio::select! {
        biased;
        () = shared.lifecycle.stopping() => None,
        failed = failed.wait_for(Option::is_some) => Some(match failed.ok().as_deref() {
            Some(Some(error)) => Error::clone(error),
            _ => fatal("the store's thread has ended"),
        }),
        removed = removal::removed(shared) => Some(removed),
        failure = unheard.wait_for(Option::is_some) => match failure.as_deref() {
            Ok(Some(error)) => Some(error.clone()),
            _ => Some(fatal("the transport has ended")),
        },
    }
}

/// Returns when raft has ended.
async fn announce(shared: &Arc<Shared>, announcer: &mut Announcer) -> Error {
    // Its values change with the vote and the membership only, so that this sleeps mostly.
    let mut changes = shared.raft.server_metrics();
    let mut transfers = shared.transfers.subscribe();
    let mut heard = shared.contact.heard();
    // The vote under which this node has claimed to lead.
    let mut claimed: Option<Vote> = None;
    let mut is_announced = false;
    loop {
        changes.borrow_and_update();
        heard.borrow_and_update();
        let metrics = shared.metrics();
        match leads(shared) {
            Some(vote) if claimed == Some(vote) => {}
            Some(vote) => {
                shared.elected.note();
                announcer.unknown();
                if mem::take(&mut is_announced) {
                    commit::give_up_later(shared);
                }
                if confirm(shared, vote).await {
                    // What has ended by now needs no other claim than this one.
                    transfers.borrow_and_update();
                    let claim = announcer.lead();
                    tracing::info!(term = vote.leader_id.term, claim, "this node leads");
                    (claimed, is_announced) = (Some(vote), true);
                }
                // Much may have happened meanwhile.
                continue;
            }
            None => {
                claimed = None;
                // Raft takes the last leader for one until there is another, which there may never be.
                let is_heard = shared.contact.silence() < shared.cluster.election * MISSED;
                match shared.leader(&metrics).filter(|_| is_heard) {
                    Some(_) => announcer.follow(shared.hint()),
                    None => announcer.unknown(),
                }
                if mem::take(&mut is_announced) {
                    commit::give_up_later(shared);
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return match shared.metrics().running_state {
                    Err(error) => fatal(&format!("raft has ended: {error:#}")),
                    Ok(()) => fatal("raft has ended without a reason"),
                };
            },
            // The claim was resigned; or the reign was released for a transfer that has ended, while this
            // node leads on. It needs another claim.
            _ = transfers.changed() => claimed = None,
            // The contact lives as long as this.
            _ = heard.changed() => {}
            () = shared.clock.sleep(shared.cluster.election), if claimed.is_none() => {}
        }
    }
}

/// Whether a majority follows this node under `vote`. Then everything that was decided before is applied.
/// A node that cannot find out has another one lead.
async fn confirm(shared: &Arc<Shared>, vote: Vote) -> bool {
    let clock = &*shared.clock;
    let mut since = clock.now().boot;
    // A leader that was restarted still thinks that it leads, whatever other node was elected meanwhile.
    while leads(shared) == Some(vote) {
        if shared.is_leaving() {
            clock.sleep(PAUSE).await;
            since = clock.now().boot;
            continue;
        }
        match timeout(CONFIRMED, shared.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => return leads(shared) == Some(vote) && !shared.is_leaving(),
            Ok(Err(error)) => {
                tracing::debug!(error = %format_args!("{error:#}"), "not sure of leading yet")
            }
            Err(_) => tracing::debug!("not sure of leading yet"),
        }
        // However soon each attempt fails: one that hears nobody may be heard, and keep others from leading.
        if clock.now().boot.since(since) >= CONFIRMED * ATTEMPTS {
            give_way::give_way(shared).await;
            since = clock.now().boot;
        }
        clock.sleep(PAUSE).await;
    }
    false
}

/// The vote under which this node leads, if it does.
fn leads(shared: &Shared) -> Option<Vote> {
    let metrics = shared.metrics();
    let is_leader = metrics.running_state.is_ok()
        && metrics.state == ServerState::Leader
        && metrics.vote.committed
        && metrics.vote.leader_id.node_id == metrics.id
        && shared.contact.later_leader(metrics.vote).is_none();
    is_leader.then_some(metrics.vote)
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}
