//! Who is a member as of what is committed, and what a node does that is none any more.

use std::{collections::BTreeSet, sync::Arc};

use tsoracle_core::{Error, ErrorKind};

use crate::{shared::Shared, types::peer_id};

/// Has the transport know the members, and notes when this node is none of them any more, until it stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    tokio::select! {
        biased;
        () = shared.lifecycle.stopping() => {}
        () = follow_members(&shared) => {}
    }
}

async fn follow_members(shared: &Shared) {
    let mut committed = shared.committed.subscribe();
    let own = shared.cluster.node;
    loop {
        let (members, removed) = {
            let committed = committed.borrow_and_update();
            (committed.members.clone(), committed.removed.clone())
        };
        // A change that is under way has two lists.
        if members.get_joint_config().len() == 1 {
            for (&node, at) in members.nodes().filter(|(node, _)| peer_id(**node) != own) {
                if let Err(error) = shared.transport.set_peer(peer_id(node), &at.peer) {
                    tracing::error!(peer = node, error = %format_args!("{error:#}"), "a peer cannot be connected to");
                }
            }
            let nodes: BTreeSet<_> = members.nodes().map(|(&node, _)| peer_id(node)).collect();
            // What a node applies that is being added begins with members of before.
            if removed.contains(&own) {
                shared.removed.send_replace(true);
            }
            shared.transport.set_members(nodes, removed);
        }
        // The sender is in `shared`.
        let _ = committed.changed().await;
    }
}

/// Returns once this node knows that it was removed.
pub(crate) async fn removed(shared: &Shared) -> Error {
    let mut removed = shared.removed.subscribe();
    // The sender is in `shared`.
    let _ = removed.wait_for(|removed| *removed).await;
    let node = shared.node();
    let context = format!(
        "node {node} was removed from the cluster; to take it in again, start it with an empty directory, \
         join=true and an id that was never used, and add it by `tsoracle cluster add`"
    );
    Error::new(ErrorKind::Excluded, context)
}
