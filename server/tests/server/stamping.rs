//! Stamping leases and the safe frontier.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status, transport::Channel};
use tsoracle_core::{ManualClock, OracleOptions, Phase, state::Limits};
use tsoracle_proto::{
    metadata,
    v1::{self, tso_service_client::TsoServiceClient},
};
use tsoracle_server::Server;

use crate::common::{Running, memory};

const NOON_MS: u64 = 1_800_000_000_000;
const TTL_MS: u64 = 10_000;

/// A server that keeps at most two leases, its clock, and a client.
struct Rig {
    _server: Running,
    clock: ManualClock,
    client: TsoServiceClient<Channel>,
}

impl Rig {
    async fn new() -> Self {
        let clock = ManualClock::new(NOON_MS);
        let limits = Limits { leases: 2, ..Limits::default() };
        let options =
            OracleOptions { clock: Arc::new(clock.clone()), limits, ..OracleOptions::default() };
        let builder = Server::builder().driver(memory().await).options(options);
        let server = Running::start(builder).await;
        server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
        let client = server.tso().await;
        Self { _server: server, clock, client }
    }

    async fn acquire(
        &mut self,
        holder: impl Into<Vec<u8>>,
        holder_epoch: u64,
        ttl_ms: u64,
    ) -> Result<v1::AcquireLeaseResponse, Status> {
        let request =
            v1::AcquireLeaseRequest { holder: holder.into().into(), holder_epoch, ttl_ms };
        Ok(self.client.acquire_lease(request).await?.into_inner())
    }

    async fn renew(&mut self, lease_id: u64) -> Result<v1::RenewLeaseResponse, Status> {
        Ok(self.client.renew_lease(v1::RenewLeaseRequest { lease_id }).await?.into_inner())
    }

    async fn release(&mut self, lease_id: u64) {
        let request = v1::ReleaseLeaseRequest { lease_id };
        self.client.release_lease(request).await.expect("releasing is idempotent");
    }

    async fn frontier(&mut self) -> u64 {
        let answer = self.client.get_safe_frontier(v1::GetSafeFrontierRequest {}).await;
        let answer = answer.expect("every node answers").into_inner();
        assert_eq!((answer.epoch_hi, answer.epoch_lo), (0, 1));
        answer.frontier_physical_ms
    }
}

fn refused(outcome: Result<impl std::fmt::Debug, Status>, code: Code) {
    let status = outcome.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.metadata().get_bin(metadata::LEADER_HINT).is_none(), "{status:?}");
}

#[tokio::test]
async fn a_lease_is_granted_renewed_and_released() {
    let mut rig = Rig::new().await;
    let lease = rig.acquire("writer", 1, TTL_MS).await.unwrap();
    let epoch = Some(v1::EpochWire { hi: 0, lo: 1 });
    assert_eq!(
        lease,
        v1::AcquireLeaseResponse {
            lease_id: 1,
            ts_upper_bound: NOON_MS + TTL_MS,
            expires_at_ms: NOON_MS + TTL_MS,
            epoch,
            remaining_ms: TTL_MS,
        }
    );
    rig.clock.advance(Duration::from_secs(4));
    let again = rig.acquire("writer", 1, TTL_MS).await.unwrap();
    assert_eq!(again, v1::AcquireLeaseResponse { remaining_ms: TTL_MS - 4_000, ..lease });
    let until = NOON_MS + 4_000 + TTL_MS;
    assert_eq!(
        rig.renew(1).await.unwrap(),
        v1::RenewLeaseResponse {
            ts_upper_bound: until,
            expires_at_ms: until,
            epoch,
            remaining_ms: TTL_MS,
        }
    );
    assert_eq!(rig.frontier().await, until);
    for lease_id in [1, 1, 99] {
        rig.release(lease_id).await;
    }
    refused(rig.renew(1).await, Code::FailedPrecondition);
}

#[tokio::test]
async fn what_is_no_holder_and_no_ttl_is_invalid() {
    let mut rig = Rig::new().await;
    for (holder, ttl_ms) in [
        (vec![], TTL_MS),
        (vec![b'h'; 129], TTL_MS),
        (vec![b'h'], 0),
        (vec![b'h'], 4_999),
        (vec![b'h'], 300_001),
        (vec![b'h'], u64::MAX),
    ] {
        refused(rig.acquire(holder, 1, ttl_ms).await, Code::InvalidArgument);
    }
    for (holder, ttl_ms) in [(vec![b'h'; 128], 5_000), (vec![0xff], 300_000)] {
        rig.acquire(holder, 1, ttl_ms).await.unwrap();
    }
}

#[tokio::test]
async fn every_refusal_of_a_lease_has_its_code() {
    let mut rig = Rig::new().await;
    let old = rig.acquire("writer", 5, TTL_MS).await.unwrap();
    refused(rig.acquire("writer", 4, TTL_MS).await, Code::FailedPrecondition);
    refused(rig.renew(99).await, Code::NotFound);
    let new = rig.acquire("writer", 6, TTL_MS).await.unwrap();
    refused(rig.renew(old.lease_id).await, Code::FailedPrecondition);
    refused(rig.acquire("another", 1, TTL_MS).await, Code::ResourceExhausted);
    rig.clock.advance(Duration::from_millis(TTL_MS));
    refused(rig.renew(new.lease_id).await, Code::FailedPrecondition);
}

#[tokio::test]
async fn the_frontier_waits_for_a_lease_until_nobody_can_rely_on_it() {
    let mut rig = Rig::new().await;
    let lease = rig.acquire("writer", 1, TTL_MS).await.unwrap();
    for millis in [TTL_MS, TTL_MS / 10] {
        rig.clock.advance(Duration::from_millis(millis));
        rig.client.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();
        assert_eq!(rig.frontier().await, lease.ts_upper_bound);
    }
    rig.clock.advance(Duration::from_millis(1));
    assert!(rig.frontier().await > lease.ts_upper_bound);
}
