//! How the library is set up.

use omnipaxos::{
    ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig, ballot_leader_election::Ballot,
};
use tsoracle_core::{Error, ErrorKind, Result};
use tsoracle_replica::Cluster;

use crate::{entry::Entry, node::MOST, storage::SharedLog};

/// After how many ticks a message that was not answered is sent again.
const RESEND_TICKS: u64 = 8;

/// The one configuration that there is.
const CONFIGURATION: u32 = 1;

/// What a new node has promised, which binds it to no other. Without it, every new node would begin by
/// leading, and each with a higher id depose the one before.
pub(crate) const FIRST_BALLOT: Ballot =
    Ballot { config_id: CONFIGURATION, n: 1, priority: 0, pid: 0 };

/// Ballot numbers end here. No cluster gets there by elections, and to wrap would elect two leaders.
pub(crate) const LAST_BALLOT: u32 = u32::MAX - 1_000;

pub(crate) fn paxos(
    cluster: &Cluster,
    ticks_per_round: u64,
    log: SharedLog,
) -> Result<OmniPaxos<Entry, SharedLog>> {
    let config = OmniPaxosConfig {
        cluster_config: ClusterConfig {
            configuration_id: CONFIGURATION,
            nodes: cluster.members.keys().copied().map(u64::from).collect(),
            flexible_quorum: None,
        },
        server_config: ServerConfig {
            pid: cluster.node.into(),
            election_tick_timeout: ticks_per_round,
            resend_message_tick_timeout: RESEND_TICKS,
            buffer_size: MOST,
            ..ServerConfig::default()
        },
    };
    config.build(log).map_err(|source| {
        Error::new(ErrorKind::Config, format!("OmniPaxos takes no such cluster: {source}"))
    })
}
