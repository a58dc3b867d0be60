use std::{fmt, sync::Arc};

use http::HeaderMap;
use rustls::ServerConfig;
use tokio::{net::ToSocketAddrs, sync::watch};
use tonic::service::Routes;
use tracing::Span;
use tsoracle_core::{
    Clock, ConsensusDriver, Error, ErrorKind, Oracle, OracleOptions, Reload, Result, Room,
};
use tsoracle_proto::{
    MAX_STREAM_SEQ_BYTES,
    v1::{
        backup_service_server::BackupServiceServer, cluster_service_server::ClusterServiceServer,
        sequence_service_server::SequenceServiceServer, tso_service_server::TsoServiceServer,
    },
};
use tsoracle_tls::Watched;

use crate::{
    BoundServer, Limits, Listener, Reloads, TlsOptions,
    edge::{Edge, Observed},
    gate::Gate,
    health::Health,
    listener::listen,
    meters::CallMeters,
    pages::Pages,
    rights::Access,
    service::{Backups, Cluster, Sequences, Tso},
    spans::Spans,
    status::Statuses,
};

/// An oracle's gRPC service, ready to listen or to be mounted.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) oracle: Oracle,
    /// The oracle was started for this server, and stops with it.
    pub(crate) owns_oracle: bool,
    pub(crate) tls: Option<Watched<ServerConfig>>,
    reload: Reload,
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    reloads: Option<Reloads>,
    for_administrators: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pages: Option<Pages>,
    statuses: Statuses,
    /// Ends streams, which last until then.
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) meters: Arc<CallMeters>,
    spans: Spans,
}

/// What makes a server, to be set before it is built.
#[derive(Clone, Default, Debug)]
#[must_use]
pub struct Builder {
    oracle: Option<Oracle>,
    driver: Option<Arc<dyn ConsensusDriver>>,
    options: OracleOptions,
    advertise: Option<String>,
    tls: Option<TlsOptions>,
    reload: Reload,
    limits: Limits,
    access: Access,
    reloads: Option<Reloads>,
    pages: Option<Pages>,
    for_administrators: bool,
    spans: Spans,
}

impl Builder {
    /// Serves an oracle that runs already, and leaves it running when the server stops.
    pub fn oracle(self, oracle: Oracle) -> Self {
        Self { oracle: Some(oracle), ..self }
    }

    /// Starts an oracle over this driver, and stops it with the server.
    pub fn driver(self, driver: Arc<dyn ConsensusDriver>) -> Self {
        Self { driver: Some(driver), ..self }
    }

    /// How the oracle over [`driver`](Self::driver) serves.
    pub fn options(self, options: OracleOptions) -> Self {
        Self { options, ..self }
    }

    /// `host:port` where clients reach this server. It is never given them as a hint to go
    /// elsewhere.
    pub fn advertise(self, endpoint: impl Into<String>) -> Self {
        Self { advertise: Some(endpoint.into()), ..self }
    }

    /// Encrypts every connection. Without it none is.
    pub fn tls(self, tls: TlsOptions) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Tells when certificates and keys are to be read again at once. Files are looked at every few seconds anyway;
    /// what changed counts for connections from then on.
    pub fn reload(self, reload: Reload) -> Self {
        Self { reload, ..self }
    }

    /// What clients may take.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Who may do what. Without it everybody may do everything.
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Whom administrators ask to have the settings read again.
    pub fn reloads(self, reloads: Reloads) -> Self {
        Self { reloads: Some(reloads), ..self }
    }

    /// Has `make` make a span of each call of the protocol, from its path and its headers. Calls are carried out within
    /// it, and record their status in its field [`SPAN_CODE`](crate::SPAN_CODE).
    pub fn spans(
        self,
        make: impl Fn(&'static str, &HeaderMap) -> Span + Send + Sync + 'static,
    ) -> Self {
        Self { spans: Spans::by(make), ..self }
    }

    /// Serves these over HTTP/1.1 and HTTP/2 to whoever asks for anything else than gRPC.
    pub fn pages(self, pages: Pages) -> Self {
        Self { pages: Some(pages), ..self }
    }

    /// Serves administrators, besides the server of the clients: it names no other node's address, since those are of
    /// clients, and counts apart.
    pub fn for_administrators(self) -> Self {
        Self { for_administrators: true, ..self }
    }

    /// Checks everything, and starts the oracle if a driver was given.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Config` if there is no oracle, or an option is wrong.
    pub fn build(self) -> Result<Server> {
        self.limits.validate()?;
        let name = match self.for_administrators {
            true => "TLS of administrators",
            false => "TLS of clients",
        };
        let tls = self.tls.as_ref().map(|tls| tls.open(name)).transpose()?;
        let clock = self.options.clock.clone();
        let (oracle, owns_oracle) = match (&self.oracle, &self.driver) {
            (Some(oracle), None) => (oracle.clone(), false),
            (None, Some(driver)) => (Oracle::start(driver.clone(), self.options)?, true),
            _ => {
                let context = "a server needs an oracle or a driver, and only one of them";
                return Err(Error::new(ErrorKind::Config, context));
            }
        };
        if let Some(tls) = &tls {
            let reporting = tls.clone();
            oracle.report_also(move |_| reporting.report());
        }
        let statuses = match self.for_administrators {
            true => Statuses::without_hints(),
            false => Statuses::new(self.advertise.as_deref().map(Into::into)),
        };
        let stopping = watch::Sender::new(false);
        let Self { reload, limits, access, reloads, pages, for_administrators, spans, .. } = self;
        Ok(Server {
            oracle,
            owns_oracle,
            tls,
            reload,
            limits,
            access,
            reloads,
            for_administrators,
            clock,
            pages,
            statuses,
            stopping,
            meters: Arc::new(CallMeters::new()),
            spans,
        })
    }
}

impl Server {
    /// Options, to set before building.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The oracle that is served.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// Listens on an address; port 0 finds a free one.
    ///
    /// # Errors
    /// `Config`, naming the address, if it cannot be listened on.
    pub async fn bind(self, address: impl ToSocketAddrs + fmt::Display) -> Result<BoundServer> {
        Ok(self.listen_on(listen(&address).await?))
    }

    /// Listens on a socket that is bound already.
    pub fn listen_on(self, listener: Listener) -> BoundServer {
        BoundServer::new(self, listener)
    }

    /// Serves on an address until the oracle fails.
    ///
    /// # Errors
    /// As [`bind`](Self::bind) and [`BoundServer::serve`].
    pub async fn serve(self, address: impl ToSocketAddrs + fmt::Display) -> Result<()> {
        self.bind(address).await?.serve().await
    }

    /// The services of the protocol, to be mounted in a tonic server that has its own limits, TLS,
    /// health and reflection.
    pub fn routes(&self) -> Routes {
        let (oracle, statuses) = (self.oracle.clone(), self.statuses.clone());
        let most = self.limits.message_bytes.min(MAX_STREAM_SEQ_BYTES);
        let stopping = self.stopping.subscribe();
        let unread = match self.for_administrators {
            true => Room::administrators(self.limits.unread_answers, "unread answers"),
            false => Room::unread_answers(self.limits.unread_answers),
        };
        let (unread, meters) = (Arc::new(unread), self.meters.clone());
        let backups = Backups {
            oracle: oracle.clone(),
            statuses: statuses.clone(),
            stopping: stopping.clone(),
        };
        let backups = BackupServiceServer::new(backups).max_decoding_message_size(most);
        let tso =
            Tso { oracle: oracle.clone(), statuses: statuses.clone(), unread, stopping, meters };
        let tso = TsoServiceServer::new(tso).max_decoding_message_size(most);
        let sequences = Sequences { oracle: oracle.clone(), statuses: statuses.clone() };
        let sequences = SequenceServiceServer::new(sequences).max_decoding_message_size(most);
        let reloads = self.reloads.clone();
        let cluster = ClusterServiceServer::new(Cluster { oracle, statuses, reloads });
        let cluster = cluster.max_decoding_message_size(most);
        let observed = Observed { meters: self.meters.clone(), spans: self.spans.clone() };
        let (gate, time) = (self.gate(), self.limits.request_time);
        Routes::new(Edge::new(tso, gate.clone(), observed.clone(), time).marked())
            .add_service(Edge::new(sequences, gate.clone(), observed.clone(), time))
            .add_service(Edge::new(cluster, gate.clone(), observed.clone(), time))
            .add_service(Edge::new(backups, gate, observed, time))
    }

    /// Keeps certificates and keys up with their files, for ever.
    pub(crate) async fn certificates(&self) {
        match &self.tls {
            Some(tls) => tls.keep_up(self.reload.clone()).await,
            None => std::future::pending().await,
        }
    }

    /// For connections.
    pub(crate) fn room(&self) -> Room {
        match self.for_administrators {
            true => Room::administrators(self.limits.connections, "connections"),
            false => Room::connections(self.limits.connections),
        }
    }

    /// For calls under way.
    pub(crate) fn room_for_calls(&self) -> Room {
        match self.for_administrators {
            true => Room::administrators(self.limits.calls, "calls under way"),
            false => Room::calls(self.limits.calls),
        }
    }

    fn gate(&self) -> Gate {
        Gate::new(self.access.clone(), self.oracle.clone())
    }

    pub(crate) fn all_routes(&self, health: &Health) -> Result<Routes> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(tsoracle_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let cannot = |source| {
            Error::new(ErrorKind::Fatal, "reflection cannot be set up").with_source(source)
        };
        // Tools of before 2023 know the earlier one alone.
        let earlier = reflection().build_v1alpha().map_err(cannot)?;
        Ok(self
            .routes()
            .add_service(health.service(&self.oracle))
            .add_service(reflection().build_v1().map_err(cannot)?)
            .add_service(earlier)
            .prepare())
    }
}
