//! Handing leadership over: released before it moves, and served again if it does not.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tsoracle_core::{
    Epoch, Error, ErrorKind, LeaderHint, Leadership, Member, Members, Membership, MembershipChange,
    Phase, Result,
};

use crate::rig::{Cluster, Fault, Node, Step, settle};

/// Two voters and one without a vote, of whom the first leads; a test answers what is asked of them.
#[derive(Debug)]
struct Scripted(mpsc::UnboundedSender<Asked>);

/// A change that the driver was asked for.
struct Asked {
    change: MembershipChange,
    reply: oneshot::Sender<Result<()>>,
}

#[async_trait]
impl Membership for Scripted {
    async fn members(&self) -> Result<Members> {
        let member = |id, votes| Member { id, peer: "p:1".into(), service: "s:1".into(), votes };
        let members = vec![member(1, true), member(2, true), member(3, false)];
        Ok(Members { members, leader: Some(1) })
    }

    async fn change(&self, change: MembershipChange) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Asked { change, reply }).unwrap();
        answer.await.unwrap()
    }
}

/// Two nodes, of which the first serves, and what its driver is asked for.
async fn two() -> (Cluster, Node, Node, mpsc::UnboundedReceiver<Asked>) {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    let (says, asked) = mpsc::unbounded_channel();
    *a.driver.membership.lock().unwrap() = Some(Arc::new(Scripted(says)));
    (cluster, a, b, asked)
}

fn change(node: &Node, change: MembershipChange) -> JoinHandle<Result<()>> {
    let membership = node.oracle.membership().unwrap();
    tokio::spawn(async move { membership.change(change).await })
}

fn transfer(node: &Node) -> JoinHandle<Result<()>> {
    change(node, MembershipChange::Transfer { to: None })
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "no other node has caught up")
}

#[tokio::test]
async fn the_reign_is_released_before_leadership_is_moved_and_its_lease_is_not_waited_for() {
    let (cluster, a, b, mut asked) = two().await;
    let before = a.grant().range.last();
    let transferring = transfer(&a);
    let Asked { change, reply } = asked.recv().await.unwrap();
    assert_eq!(change, MembershipChange::Transfer { to: None });
    assert!(cluster.record().released);
    assert!(a.refuses());
    b.elect();
    a.set(Leadership::Follower { leader: None });
    reply.send(Ok(())).unwrap();
    transferring.await.unwrap().unwrap();
    let last = a.oracle.overview().changes.swap_remove(0);
    let cause = "leadership is transferred, and its lease was released";
    assert_eq!((&*last.what, &*last.cause), ("this node serves no more", cause));
    b.serving().await;
    assert!(b.grant().range.first() > before);
    assert!(a.refuses());
}

#[tokio::test]
async fn what_is_under_way_ends_first() {
    let (cluster, a, _, mut asked) = two().await;
    let gate = a.hold(Step::Advance);
    let first = a.ask("a", 1);
    gate.reached().await;
    let second = a.ask("a", 1);
    settle().await;
    let _transferring = transfer(&a);
    settle().await;
    assert_eq!(cluster.count(Step::Release), 0);
    gate.open();
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (0, 1));
    asked.recv().await.unwrap();
    assert_eq!(cluster.log().last(), Some(&vec![Step::Release]));
}

#[tokio::test]
async fn requests_meanwhile_wait_for_the_next_leader() {
    let (_, a, _, mut asked) = two().await;
    let _transferring = transfer(&a);
    asked.recv().await.unwrap();
    let oracle = a.oracle.clone();
    let (stamp, value) = (tokio::spawn(async move { oracle.get_ts(1).await }), a.ask("a", 1));
    settle().await;
    assert!(!stamp.is_finished() && !value.is_finished());
    // Without an epoch in it, the engine would add one at some time.
    let leader = LeaderHint { endpoint: "10.0.0.7:50551".into(), epoch: Some(Epoch(2)) };
    a.set(Leadership::Follower { leader: Some(leader.clone()) });
    for error in [stamp.await.unwrap().unwrap_err(), value.await.unwrap().unwrap_err()] {
        assert_eq!(*error.kind(), ErrorKind::NotLeader(Some(leader.clone())));
    }
}

#[tokio::test]
async fn this_node_serves_again_under_its_next_claim_if_leadership_stays() {
    let (_, a, _, mut asked) = two().await;
    let before = a.grant();
    let transferring = transfer(&a);
    let Asked { reply, .. } = asked.recv().await.unwrap();
    let waiting = a.ask("a", 1);
    settle().await;
    reply.send(Err(unavailable())).unwrap();
    let error = transferring.await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    a.elect();
    // No time passes: its own lease is not waited for.
    assert_eq!(waiting.await.unwrap().unwrap(), 0);
    let after = a.grant();
    assert!(after.range.first() > before.range.last());
    assert_eq!(after.epoch, Epoch(2));
}

#[tokio::test]
async fn a_transfer_that_cannot_be_made_costs_nothing() {
    let (cluster, a, _, mut asked) = two().await;
    for to in [1, 3, 9] {
        let transferring = change(&a, MembershipChange::Transfer { to: Some(to) });
        asked.recv().await.unwrap().reply.send(Err(unavailable())).unwrap();
        transferring.await.unwrap().unwrap_err();
        a.grant();
    }
    assert_eq!(cluster.count(Step::Release), 0);
}

#[tokio::test]
async fn a_node_without_a_reign_leaves_the_answer_to_its_driver() {
    let (_, a, _, mut asked) = two().await;
    a.set(Leadership::Follower { leader: None });
    a.phase(|phase| matches!(phase, Phase::Following(_))).await;
    let transferring = transfer(&a);
    let refused = Error::new(ErrorKind::NotLeader(None), "another node leads");
    asked.recv().await.unwrap().reply.send(Err(refused)).unwrap();
    let error = transferring.await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None));
}

#[tokio::test]
async fn a_transfer_whose_caller_has_gone_is_not_begun() {
    let (cluster, a, _, mut asked) = two().await;
    let gate = a.hold(Step::Advance);
    let under_way = a.ask("a", 1);
    gate.reached().await;
    let transferring = transfer(&a);
    settle().await;
    transferring.abort();
    transferring.await.unwrap_err();
    gate.open();
    under_way.await.unwrap().unwrap();
    assert_eq!(a.seq("a", 1).await.unwrap(), 1);
    assert_eq!(cluster.count(Step::Release), 0);
    asked.try_recv().map(|asked| asked.change).unwrap_err();
}

#[tokio::test]
async fn a_transfer_that_was_begun_goes_on_without_its_caller() {
    let (cluster, a, _, mut asked) = two().await;
    let gate = a.hold(Step::Release);
    let transferring = transfer(&a);
    gate.reached().await;
    assert!(a.refuses(), "it is closed in memory before the release is committed");
    transferring.abort();
    transferring.await.unwrap_err();
    gate.open();
    asked.recv().await.unwrap();
    assert!(cluster.record().released);
}

#[tokio::test]
async fn a_release_is_tried_until_it_is_certain() {
    for fault in [Fault::Refuse(ErrorKind::Unavailable), Fault::Refuse(ErrorKind::Uncertain)] {
        let (cluster, a, _, mut asked) = two().await;
        (0..3).for_each(|_| a.fault(Step::Release, fault.clone()));
        let _transferring = transfer(&a);
        settle().await;
        asked.try_recv().map(|asked| asked.change).unwrap_err();
        assert!(a.refuses());
        let asked = tokio::spawn(async move { asked.recv().await.unwrap().change });
        a.until(asked).await;
        assert!(cluster.record().released);
        assert_eq!((cluster.count(Step::Release), cluster.count(Step::Settle)), (1, 0));
    }
}

#[tokio::test]
async fn a_release_whose_answer_is_lost_is_found() {
    let (cluster, a, _, mut asked) = two().await;
    a.fault(Step::Release, Fault::LoseReply(ErrorKind::Uncertain));
    let _transferring = transfer(&a);
    // No time passes.
    asked.recv().await.unwrap();
    assert!(cluster.record().released);
}

#[tokio::test]
async fn a_driver_that_fails_meanwhile_is_given_up() {
    let (_, a, _, mut asked) = two().await;
    a.fault(Step::Release, Fault::Refuse(ErrorKind::Fatal));
    let transferring = transfer(&a);
    a.failed().await;
    asked.recv().await.unwrap().reply.send(Err(unavailable())).unwrap();
    transferring.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_node_that_fences_meanwhile_waits_for_the_lease_and_serves() {
    let (cluster, a, b, mut asked) = two().await;
    let gate = a.hold(Step::Release);
    let transferring = transfer(&a);
    gate.reached().await;
    b.elect();
    settle().await;
    gate.open();
    let Asked { reply, .. } = asked.recv().await.unwrap();
    assert!(!cluster.record().released, "too late to be a release");
    a.set(Leadership::Follower { leader: None });
    reply.send(Err(Error::new(ErrorKind::NotLeader(None), "another node leads"))).unwrap();
    transferring.await.unwrap().unwrap_err();
    assert!(b.refuses());
    a.clock.advance(Duration::from_millis(1_101));
    b.serving().await;
    assert!(a.refuses());
}

#[tokio::test]
async fn leadership_that_is_lost_meanwhile_leaves_no_caller_waiting() {
    let (_, a, _, mut asked) = two().await;
    let gate = a.hold(Step::Release);
    let transferring = transfer(&a);
    gate.reached().await;
    a.set(Leadership::Unknown);
    // The release may be stored or not: no caller waits for it.
    asked.recv().await.unwrap().reply.send(Err(unavailable())).unwrap();
    transferring.await.unwrap().unwrap_err();
    gate.open();
    a.elect();
    a.serving().await;
}

#[tokio::test]
async fn a_stop_ends_a_transfer() {
    let (cluster, a, _, mut asked) = two().await;
    let gate = a.hold(Step::Release);
    let transferring = transfer(&a);
    gate.reached().await;
    let oracle = a.oracle.clone();
    let stopping = tokio::spawn(async move { oracle.shutdown().await });
    settle().await;
    assert!(!stopping.is_finished(), "the release is under way");
    gate.open();
    asked.recv().await.unwrap().reply.send(Err(unavailable())).unwrap();
    transferring.await.unwrap().unwrap_err();
    stopping.await.unwrap().unwrap();
    assert!(cluster.record().released);
    assert_eq!(a.oracle.status().phase, Phase::Stopping);
}

#[tokio::test]
async fn a_stop_is_not_kept_waiting_by_a_release_that_cannot_be_committed() {
    let (_, a, _, mut asked) = two().await;
    (0..100).for_each(|_| a.fault(Step::Release, Fault::Refuse(ErrorKind::Unavailable)));
    let transferring = transfer(&a);
    settle().await;
    a.oracle.shutdown().await.unwrap();
    asked.recv().await.unwrap().reply.send(Err(unavailable())).unwrap();
    transferring.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_change_that_takes_long_holds_up_no_other() {
    let (_, a, _, mut asked) = two().await;
    let promoting = change(&a, MembershipChange::Promote { id: 3 });
    let Asked { reply: promoted, .. } = asked.recv().await.unwrap();
    promoting.abort();
    promoting.await.unwrap_err();
    let removing = change(&a, MembershipChange::Remove { id: 3, force: false });
    asked.recv().await.unwrap().reply.send(Ok(())).unwrap();
    removing.await.unwrap().unwrap();
    a.grant();
    let transferring = transfer(&a);
    asked.recv().await.unwrap().reply.send(Err(unavailable())).unwrap();
    transferring.await.unwrap().unwrap_err();
    promoted.send(Ok(())).expect("it goes on without its caller");
}

#[tokio::test]
async fn one_transfer_is_made_at_a_time() {
    let (cluster, a, _, mut asked) = two().await;
    let transfers = [transfer(&a), transfer(&a)];
    let Asked { change, reply } = asked.recv().await.unwrap();
    assert_eq!(change, MembershipChange::Transfer { to: None });
    assert!(cluster.record().released);
    settle().await;
    asked.try_recv().map(|asked| asked.change).unwrap_err();
    a.set(Leadership::Follower { leader: None });
    reply.send(Ok(())).unwrap();
    let Asked { reply, .. } = asked.recv().await.unwrap();
    reply.send(Err(Error::new(ErrorKind::NotLeader(None), "another node leads"))).unwrap();
    let mut moved = vec![];
    for transfer in transfers {
        moved.push(transfer.await.unwrap().is_ok());
    }
    assert_eq!(moved, [true, false]);
    assert_eq!(cluster.count(Step::Release), 1);
}
