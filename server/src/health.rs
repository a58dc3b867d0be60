use tokio::task::JoinHandle;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, HealthService},
};
use tsoracle_core::{Oracle, Phase};
use tsoracle_proto::v1::{
    sequence_service_server::SequenceServiceServer, tso_service_server::TsoServiceServer,
};

use crate::service::{Sequences, Tso};

/// Asking for any other service is answered with NOT_FOUND.
const SERVICES: [&str; 3] = [
    "",
    <TsoServiceServer<Tso> as NamedService>::NAME,
    <SequenceServiceServer<Sequences> as NamedService>::NAME,
];

/// Says `SERVING` as long as the oracle does, which of a cluster is the leader alone.
#[derive(Clone, Debug)]
pub(crate) struct Health(HealthReporter);

impl Health {
    /// Not serving, until [`follow`](Self::follow) knows better.
    pub(crate) async fn new() -> Self {
        let health = Self(HealthReporter::new());
        health.set(ServingStatus::NotServing).await;
        health
    }

    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.0.clone()))
    }

    pub(crate) async fn set(&self, status: ServingStatus) {
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }

    /// Follows the oracle until it is gone.
    pub(crate) fn follow(&self, oracle: &Oracle) -> JoinHandle<()> {
        let (health, mut phase) = (self.clone(), oracle.phase());
        tokio::spawn(async move {
            let mut last = None;
            loop {
                let serving = matches!(*phase.borrow_and_update(), Phase::Serving { .. });
                // The oracle also sends to those who wait, without a change of phase.
                if last.replace(serving) != Some(serving) {
                    let status = match serving {
                        true => ServingStatus::Serving,
                        false => ServingStatus::NotServing,
                    };
                    health.set(status).await;
                }
                if phase.changed().await.is_err() {
                    return health.set(ServingStatus::NotServing).await;
                }
            }
        })
    }
}
