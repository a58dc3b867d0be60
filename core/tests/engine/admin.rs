//! What an operator does to a state while no server runs.

use std::{sync::Arc, time::Duration};

use tsoracle_core::{
    ConsensusDriver, Epoch, ErrorKind, Floor, ManualClock, Reject, adopt, initialize, state::REIGN,
};

use crate::rig::{Cluster, Fault, LEASE, NOON_MS, Step, settle};

#[tokio::test]
async fn an_adopted_state_is_served_in_a_new_era_above_its_floor_after_a_whole_lease() {
    for fault in [
        None,
        Some(Fault::LoseReply(ErrorKind::Uncertain)),
        Some(Fault::Refuse(ErrorKind::Uncertain)),
        Some(Fault::Refuse(ErrorKind::Unavailable)),
    ] {
        let (cluster, a) = Cluster::serving().await;
        a.seq("a", 5).await.unwrap();
        a.oracle.shutdown().await.unwrap();
        // The same node, and evidence of all that was before.
        let again = cluster.node(1, &a.clock);
        again.observe();
        a.clock.advance(LEASE * 100);
        let driver: Arc<dyn ConsensusDriver> = again.driver.clone();
        if let Some(fault) = fault {
            again.fault(Step::Other, fault);
        }
        let floor_ms = NOON_MS + 900_000;
        let floor = Floor::forced(floor_ms);
        assert_eq!(adopt(&driver, floor, LEASE * 2).await.unwrap(), floor_ms);
        let version = cluster.version();
        assert_eq!((version.era, cluster.record().version), (1, version));
        again.elect();
        settle().await;
        again.clock.advance(Duration::from_millis(2_200));
        settle().await;
        assert!(again.refuses(), "a whole lease is waited for");
        again.clock.advance(Duration::from_millis(1));
        assert_eq!(again.serving().await, Epoch::from_parts(1, 2));
        assert!(again.grant().range.first().physical_ms() > floor_ms);
        assert_eq!(again.seq("a", 1).await.unwrap(), 5);
    }
}

#[tokio::test]
async fn a_server_that_runs_while_its_state_is_adopted_is_fenced() {
    let (cluster, a) = Cluster::serving().await;
    let driver: Arc<dyn ConsensusDriver> = cluster.node(2, &a.clock).driver.clone();
    adopt(&driver, Floor::forced(0), LEASE).await.unwrap();
    let error = a.seq("a", 1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None), "{error}");
    assert_eq!(cluster.next("a"), 0);
}

#[tokio::test]
async fn an_unused_state_is_initialized_once_though_the_answer_is_lost() {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(0));
    let driver: Arc<dyn ConsensusDriver> = node.driver.clone();
    node.fault(Step::Release, Fault::LoseReply(ErrorKind::Uncertain));
    initialize(&driver, Floor::forced(NOON_MS)).await.unwrap();
    let error = initialize(&driver, NOON_MS * 2).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Rejected(Reject::NotEmpty));
    assert_eq!(cluster.entries(REIGN[0]).len(), 1);
    node.elect();
    node.serving().await;
    assert_eq!(node.grant().range.first().physical_ms(), NOON_MS + 1);
}

#[tokio::test]
async fn a_time_in_the_wrong_unit_is_refused_unless_it_is_insisted_on() {
    let cluster = Cluster::default();
    let driver: Arc<dyn ConsensusDriver> =
        cluster.node(1, &ManualClock::new(NOON_MS)).driver.clone();
    let seconds = NOON_MS / 1_000;
    let refused = initialize(&driver, seconds).await.unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Rejected(Reject::FarFromClock { .. })),
        "{refused}"
    );
    assert!(refused.to_string().contains("1970-01-21T20:00:00.000Z"), "{refused}");
    initialize(&driver, Floor::forced(seconds)).await.unwrap();
    let refused = adopt(&driver, seconds * 2, LEASE).await.unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Rejected(Reject::FarFromClock { .. })),
        "{refused}"
    );
    assert_eq!(adopt(&driver, Floor::forced(seconds * 2), LEASE).await.unwrap(), seconds * 2);
}
