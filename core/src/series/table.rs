//! The table.

use super::{Kind, SECONDS, Series};

macro_rules! table {
    ($($constant:ident: $kind:expr, $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Series =
                Series { name: $name, kind: $kind, labels: &[$($label),*], help: $help };
        )*

        /// All series.
        pub const ALL: &[Series] = &[$($constant),*];
    };
}

const COUNTER: Kind = Kind::Counter;
const GAUGE: Kind = Kind::Gauge;
const DURATION: Kind = Kind::Histogram(SECONDS);

table! {
    // What this node is.
    BUILD_INFO: GAUGE, "tsoracle_build_info" ["version" "driver"]
        "Always 1, with the version of this build and the driver that it runs";
    PHASE: GAUGE, "tsoracle_phase" ["phase"]
        "1 for what this node is doing, 0 for all else";
    LEADER_KNOWN: GAUGE, "tsoracle_leader_known"  []
        "1 if this node serves, or follows a leader that it knows";
    EPOCH: GAUGE, "tsoracle_epoch" []
        "The counter of the epoch that this node knows of; its era is tsoracle_era";
    ERA: GAUGE, "tsoracle_era" []
        "The era of the epoch that this node knows of";
    LEADER_CHANGES: COUNTER, "tsoracle_leader_changes_total" []
        "How often this node has learnt of another leader, or become one";
    REIGNS: COUNTER, "tsoracle_reigns_total" []
        "How often this node began to serve";
    RESIGNATIONS: COUNTER, "tsoracle_resignations_total" []
        "How often this node asked for another leader, since it could not renew its lease";
    TAKEOVER_DURATION: DURATION, "tsoracle_takeover_duration_seconds" ["step"]
        "How long each step of a take-over took: the fence, the wait for the lease before, and the open";
    LEASE_LEFT: GAUGE, "tsoracle_lease_left_seconds" []
        "How long this node may serve without a renewal; 0 unless it leads";

    // What it does.
    GRANTS: COUNTER, "tsoracle_grants_total" []
        "Requests for timestamps that were granted";
    TIMESTAMPS: COUNTER, "tsoracle_timestamps_total" []
        "Timestamps that were granted";
    COMMITS: COUNTER, "tsoracle_commits_total" []
        "Commits of open reigns that were stored";
    COMMIT_CONFLICTS: COUNTER, "tsoracle_commit_conflicts_total" []
        "Commits that were not stored since the state had moved on";
    COMMIT_FAILURES: COUNTER, "tsoracle_commit_failures_total" []
        "Commits that were not stored, or are not known to be, for other reasons";
    COMMIT_DURATION: DURATION, "tsoracle_commit_duration_seconds" []
        "How long commits took until they were stored";
    COMMIT_UNDER_WAY: GAUGE, "tsoracle_commit_under_way_seconds" []
        "For how long the commit under way has been; 0 if there is none";
    COMMANDS: COUNTER, "tsoracle_commands_total" []
        "Commands that were committed, or answered without a commit";
    REJECTS: COUNTER, "tsoracle_rejects_total" []
        "Commands that a rule of the state refused";
    REQUESTS: COUNTER, "tsoracle_requests_total" ["method" "code"]
        "Requests by method and gRPC status; those of streams one by one";
    REQUEST_DURATION: DURATION, "tsoracle_request_duration_seconds" ["method"]
        "How long unary calls took, from their headers to their answer";

    // The clock.
    WINDOW_AHEAD: GAUGE, "tsoracle_window_ahead_seconds" []
        "How far beyond the wall clock timestamps are reserved; 0 unless this node leads";
    AHEAD_OF_CLOCK: GAUGE, "tsoracle_ahead_of_wall_clock_seconds" []
        "How far timestamps are ahead of the wall clock; 0 unless this node leads";
    CLOCK_NOT_FOLLOWED: GAUGE, "tsoracle_wall_clock_not_followed_seconds" []
        "How far the wall clock is ahead of what is believed; 0 if it is followed";
    CLOCK_LEAPS: COUNTER, "tsoracle_wall_clock_leaps_total" []
        "How often the wall clock was found to be ahead of what can be believed";

    // What is bounded.
    WAITING: GAUGE, "tsoracle_waiting" []
        "Requests that wait for a commit, a leader or the clock";
    WAITING_LIMIT: GAUGE, "tsoracle_waiting_limit" []
        "The most requests that may wait";
    CONNECTIONS: GAUGE, "tsoracle_connections" []
        "Connections of clients";
    CONNECTIONS_LIMIT: GAUGE, "tsoracle_connections_limit" []
        "The most connections of clients";
    CALLS: GAUGE, "tsoracle_calls" []
        "Calls of clients under way, streams among them";
    CALLS_LIMIT: GAUGE, "tsoracle_calls_limit" []
        "The most calls under way";
    UNREAD_ANSWERS: GAUGE, "tsoracle_unread_answers" []
        "Requests of streams whose answers clients have not read";
    UNREAD_ANSWERS_LIMIT: GAUGE, "tsoracle_unread_answers_limit" []
        "The most requests of streams whose answers clients have not read";
    SEQUENCES: GAUGE, "tsoracle_sequences" []
        "Sequences; 0 unless this node leads";
    SEQUENCES_LIMIT: GAUGE, "tsoracle_sequences_limit" []
        "The most sequences";
    SESSIONS: GAUGE, "tsoracle_sessions" []
        "Sessions of exactly-once requests; 0 unless this node leads";
    SESSIONS_LIMIT: GAUGE, "tsoracle_sessions_limit" []
        "The most sessions";
    STAMPING_LEASES: GAUGE, "tsoracle_stamping_leases" []
        "Stamping leases; 0 unless this node leads";
    STAMPING_LEASES_LIMIT: GAUGE, "tsoracle_stamping_leases_limit" []
        "The most stamping leases";
    NAMED_REQUESTS: GAUGE, "tsoracle_named_requests" []
        "Named requests whose answers are kept; 0 unless this node leads";
    NAMED_REQUESTS_LIMIT: GAUGE, "tsoracle_named_requests_limit" []
        "The most named requests whose answers are kept";
    REFUSALS: COUNTER, "tsoracle_refusals_total" ["of" "reason"]
        "What was refused for want of a place: for all (limit), of a client's share (share), of its own limit (own_limit), or on the disk (space)";

    // The cluster.
    LOG_INDEX: GAUGE, "tsoracle_log_index" []
        "The index of the last entry of this node's log";
    LOG_APPLIED: GAUGE, "tsoracle_log_applied_index" []
        "The index of the last entry that this node has applied";
    ELECTIONS: COUNTER, "tsoracle_elections_total" []
        "Elections that this node has won";
    PEER_CONNECTED: GAUGE, "tsoracle_peer_connected" ["peer"]
        "1 if this node has a session with that peer";
    PEER_VOTES: GAUGE, "tsoracle_peer_votes" ["peer"]
        "1 if that peer has a vote, 0 if it learns";
    PEER_LAG: GAUGE, "tsoracle_peer_lag_entries" ["peer"]
        "How many entries of the log that peer is known to lack; on the leader alone";
    PEER_SNAPSHOTS: COUNTER, "tsoracle_peer_snapshots_total" ["peer"]
        "States that were sent to that peer, since the log has no more what it lacks";
    MEMBERS: GAUGE, "tsoracle_members" ["votes"]
        "Members of the cluster that this node knows, by whether they vote";

    // The disk.
    DISK_FREE: GAUGE, "tsoracle_disk_free_bytes" []
        "Bytes that are free where the state is stored";
    DISK_SIZE: GAUGE, "tsoracle_disk_size_bytes" []
        "Bytes of the file system where the state is stored";
    DISK_RESERVE: GAUGE, "tsoracle_disk_reserve_bytes" []
        "Bytes that are kept free: with less, nothing new is begun";
    STORE_SYNC_DURATION: DURATION, "tsoracle_store_sync_duration_seconds" []
        "How long the disk took to make commits durable";
    STORE_SYNC_UNDER_WAY: GAUGE, "tsoracle_store_sync_under_way_seconds" []
        "For how long the disk has been at the write under way, up to where it is durable; 0 if there is none";
    STORE_SEGMENTS: GAUGE, "tsoracle_store_segments" []
        "Segments of the journal";
    STORE_JOURNAL: GAUGE, "tsoracle_store_journal_bytes" []
        "Bytes of commits in the journal that no snapshot holds yet";
    STORE_SNAPSHOT: GAUGE, "tsoracle_store_snapshot_bytes" []
        "Bytes of the last snapshot of the state";
    STORE_SNAPSHOT_DURATION: DURATION, "tsoracle_store_snapshot_duration_seconds" []
        "How long snapshots of the state took to be written, behind the journal";

    // The process.
    CERTIFICATE_EXPIRY: GAUGE, "tsoracle_certificate_expiry_timestamp_seconds" ["use"]
        "When the first certificate of that use expires, in seconds since 1970";
    LOG_LINES_LOST: COUNTER, "tsoracle_log_lines_lost_total" []
        "Lines of the log that were not written, since nobody read them in time";
    SPANS_SENT: COUNTER, "tsoracle_trace_spans_sent_total" []
        "Spans that a collector has taken";
    SPANS_LOST: COUNTER, "tsoracle_trace_spans_lost_total" []
        "Spans that no collector took in time";
}
