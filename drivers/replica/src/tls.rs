use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tsoracle_core::{Error, Reload, Report, Result};
use tsoracle_tls::{Credentials, Sources, Watched};
use webpki::EndEntityCert;

use crate::Config;

/// What the certificate of a node names it by.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerNames {
    /// The host of its peer address.
    #[default]
    Address,
    /// The name `node-ID.CLUSTER`.
    Node,
}

/// How peers prove to each other who they are: both sides show a certificate, which names the node.
#[derive(Clone, Debug)]
pub struct PeerTls {
    configs: Watched<Configs>,
    naming: Naming,
}

/// What the certificates of a cluster's nodes name.
#[derive(Clone, Debug)]
struct Naming {
    names: PeerNames,
    cluster: String,
}

/// How peers are answered, and called.
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Configs {
    /// `own` is what the certificate of this node has to name.
    fn of(credentials: &Credentials, own: &ServerName<'_>) -> Result<Self> {
        let unusable = |source| {
            wrong("peer_ca, peer_cert and peer_key cannot be used for TLS").with_source(source)
        };
        let configs = Self {
            server: credentials.server_config().map_err(unusable)?.into(),
            client: credentials.client_config().map_err(unusable)?.into(),
        };
        if credentials.own().map_err(unusable)?.is_some_and(|shown| !is_for(&shown, own)) {
            tracing::warn!(
                "peer_cert does not name this node, so that others will refuse it: it has to be for {:?} (see peer_names)",
                own.to_str()
            );
        }
        Ok(configs)
    }
}

impl Naming {
    fn name(&self, node: u32, address: &str) -> Result<ServerName<'static>> {
        let name = match self.names {
            PeerNames::Address => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                host.trim_start_matches('[').trim_end_matches(']').to_owned()
            }
            PeerNames::Node => format!("node-{node}.{}", self.cluster),
        };
        let unusable = |_| wrong(format!("{name:?} is no name that a certificate can have"));
        ServerName::try_from(name.clone()).map_err(unusable)
    }
}

impl PeerTls {
    /// Reads the files that `config` names, if it names any. `address` is that of this node.
    pub(crate) fn read(config: &Config, address: &str) -> Result<Option<Self>> {
        let (ca, certificate, key) = match (&config.peer_ca, &config.peer_cert, &config.peer_key) {
            (None, None, None) => return Ok(None),
            (Some(ca), Some(certificate), Some(key)) => (ca, certificate, key),
            _ => return Err(wrong("peer_ca, peer_cert and peer_key go together; give all three")),
        };
        let naming = Naming { names: config.peer_names, cluster: config.cluster.clone() };
        let own = naming.name(config.node, address).map_err(|error| match naming.names {
            PeerNames::Address => error,
            PeerNames::Node => {
                wrong("with peer_names=node, `cluster` has to be a name that certificates can have: letters, digits, hyphens and dots")
            }
        })?;
        let identity = (certificate.clone(), key.clone());
        let sources = Sources::files(Some(ca.clone()), Some(identity));
        let make = move |credentials: &Credentials| Configs::of(credentials, &own);
        Ok(Some(Self { configs: Watched::open("TLS of peers", sources, make)?, naming }))
    }

    /// Reads the files again when they change, or `reload` asks for it, from now on.
    pub(crate) fn keep_up(&self, reload: Reload) -> impl Future<Output = ()> + Send + use<> {
        self.configs.keep_up(reload)
    }

    /// The certificates, and what is wrong with them.
    pub(crate) fn report(&self) -> Report {
        self.configs.report()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.configs.current().server.clone().into()
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        self.configs.current().client.clone().into()
    }

    /// What the certificate of node `node` at `address` has to name.
    ///
    /// # Errors
    /// `Config` if no certificate can.
    pub(crate) fn name(&self, node: u32, address: &str) -> Result<ServerName<'static>> {
        self.naming.name(node, address)
    }

    /// Finds out whether that is a certificate of node `node` at `address`: at `None` if it is not known.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        node: u32,
        address: Option<&str>,
    ) -> Result<(), String> {
        if address.is_none() && self.naming.names == PeerNames::Address {
            return Err(format!(
                "the address of node {node} is not known, so no certificate names it"
            ));
        }
        let name = self.name(node, address.unwrap_or_default());
        let name = name.map_err(|error| format!("{error:#}"))?;
        if is_for(certificate, &name) {
            return Ok(());
        }
        Err(format!(
            "the certificate of a caller that calls itself node {node} does not name it: it has to be for \
             {:?} (see peer_names)",
            name.to_str()
        ))
    }
}

fn is_for(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(name).is_ok())
}

fn wrong(context: impl Into<String>) -> Error {
    Error::setting(context)
}
