//! Health, by the standard protocol: what the node is for, as it is at the moment.

use std::time::Duration;

use tokio::sync::watch;
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse, health_check_response,
        health_server::{Health as Protocol, HealthServer},
    },
    server::{HealthReporter, HealthService},
};
use tsoracle_core::{Oracle, Phase};
use tsoracle_proto::v1::{
    sequence_service_server::SequenceServiceServer, tso_service_server::TsoServiceServer,
};

use crate::service::{Sequences, Tso};

/// The node takes part: it serves, or follows a leader that it knows. What a rolling restart waits for.
const READY: [&str; 2] = ["", "tsoracle.v1.Ready"];

/// The node serves, under a lease that holds. What load balancers follow.
const LEADER: [&str; 3] = [
    "tsoracle.v1.Leader",
    <TsoServiceServer<Tso> as NamedService>::NAME,
    <SequenceServiceServer<Sequences> as NamedService>::NAME,
];

/// The process is sound. What it is restarted for if it is not.
const LIVE: [&str; 1] = ["tsoracle.v1.Live"];

/// How long a check waits until the lease of an idle leader is renewed, or cannot be.
const RENEWED: Duration = Duration::from_millis(500);

/// What the names above say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    ready: bool,
    leads: bool,
    lives: bool,
}

impl State {
    fn of(phase: &Phase) -> Self {
        let leads = matches!(phase, Phase::Serving { .. });
        Self {
            leads,
            ready: leads || matches!(phase, Phase::Following(Some(_))),
            lives: !matches!(phase, Phase::Failed(_)),
        }
    }
}

/// Says how the oracle is doing. Asking for any other name is answered with NOT_FOUND.
#[derive(Clone, Debug)]
pub(crate) struct Health(HealthReporter);

impl Health {
    /// Not serving, until [`follow`](Self::follow) knows better.
    pub(crate) async fn new() -> Self {
        let health = Self(HealthReporter::new());
        health.set(State { ready: false, leads: false, lives: true }).await;
        health
    }

    pub(crate) fn service(&self, oracle: &Oracle) -> HealthServer<impl Protocol> {
        let health = HealthService::from_health_reporter(self.0.clone());
        HealthServer::new(Checks { health, oracle: oracle.clone() })
    }

    /// The node stops: it is to be asked for nothing more.
    pub(crate) async fn stop(&self) {
        self.set(State { ready: false, leads: false, lives: true }).await;
    }

    async fn set(&self, state: State) {
        let all = [(&READY[..], state.ready), (&LEADER, state.leads), (&LIVE, state.lives)];
        for (services, serves) in all {
            let status = match serves {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            for service in services {
                self.0.set_service_status(*service, status).await;
            }
        }
    }

    /// Follows the oracle until it is gone.
    pub(crate) async fn follow(&self, mut phase: watch::Receiver<Phase>) {
        let mut last = None;
        loop {
            let state = State::of(&phase.borrow_and_update());
            // The oracle also sends to those who wait, without a change of phase.
            if last.replace(state) != Some(state) {
                self.set(state).await;
            }
            if phase.changed().await.is_err() {
                return self.stop().await;
            }
        }
    }
}

/// Answers checks.
struct Checks {
    health: HealthService,
    oracle: Oracle,
}

#[tonic::async_trait]
impl Protocol for Checks {
    /// The lease of a leader that no caller asks for anything runs out, and nothing tells it that another node
    /// leads, or that there is no majority any more. So who asks whether it leads, or takes part, has it find out.
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let asked = request.get_ref().service.as_str();
        let is_lapsed = || {
            let status = self.oracle.status();
            status.epoch.is_none() && matches!(status.phase, Phase::Serving { .. })
        };
        if (LEADER.contains(&asked) || READY.contains(&asked)) && is_lapsed() {
            let serves = self.oracle.with_hold(RENEWED).serves().await;
            if !serves {
                return Ok(Response::new(HealthCheckResponse {
                    status: health_check_response::ServingStatus::NotServing as i32,
                }));
            }
        }
        self.health.check(request).await
    }

    type WatchStream = <HealthService as Protocol>::WatchStream;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.health.watch(request).await
    }
}
