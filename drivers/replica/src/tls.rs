use std::{fmt, fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde::Deserialize;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tsoracle_core::{Error, Result};
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
#[derive(Clone)]
pub struct PeerTls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) connector: TlsConnector,
    names: PeerNames,
    cluster: String,
}

impl PeerTls {
    /// Reads the files that `config` names, if it names any.
    pub(crate) fn read(config: &Config) -> Result<Option<Self>> {
        let (ca, certificate, key) = match (&config.peer_ca, &config.peer_cert, &config.peer_key) {
            (None, None, None) => return Ok(None),
            (Some(ca), Some(certificate), Some(key)) => (ca, certificate, key),
            _ => return Err(wrong("peer_ca, peer_cert and peer_key go together; give all three")),
        };
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| {
            wrong("peer_ca, peer_cert and peer_key cannot be used for TLS").with_source(source)
        };
        let (roots, chain) = (certificates(&read(ca)?)?, certificates(&read(certificate)?)?);
        let key = PrivateKeyDer::from_pem_slice(&read(key)?);
        let key = key.map_err(|source| unusable(source.into()))?;
        let (server, client) = configs(roots, chain, key).map_err(unusable)?;
        let tls = Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            names: config.peer_names,
            cluster: config.cluster.clone(),
        };
        if tls.names == PeerNames::Node {
            tls.name(1, "").map_err(|_| {
                wrong("with peer_names=node, `cluster` has to be a name that certificates can have: letters, digits, hyphens and dots")
            })?;
        }
        Ok(Some(tls))
    }

    /// What the certificate of node `node` at `address` has to name.
    ///
    /// # Errors
    /// `Config` if no certificate can.
    pub(crate) fn name(&self, node: u32, address: &str) -> Result<ServerName<'static>> {
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
        if address.is_none() && self.names == PeerNames::Address {
            return Err(format!(
                "the address of node {node} is not known, so no certificate names it"
            ));
        }
        let name = self.name(node, address.unwrap_or_default());
        let name = name.map_err(|error| format!("{error:#}"))?;
        let names = EndEntityCert::try_from(certificate)
            .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok());
        if names {
            return Ok(());
        }
        Err(format!(
            "the certificate of a caller that calls itself node {node} does not name it: it has to be for \
             {:?} (see peer_names)",
            name.to_str()
        ))
    }
}

fn configs(
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(ServerConfig, ClientConfig), Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(ring::default_provider());
    let versions = [&TLS13, &TLS12];
    let mut roots = RootCertStore::empty();
    authorities.into_iter().try_for_each(|authority| roots.add(authority))?;
    let roots = Arc::new(roots);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok((server, client))
}

/// Keys never show.
impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").field("names", &self.names).finish_non_exhaustive()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(wrong("peer_ca and peer_cert have to hold certificates in PEM")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path)
        .map_err(|source| wrong(format!("cannot read {}", path.display())).with_source(source))
}

fn wrong(context: impl Into<String>) -> Error {
    Error::setting(context)
}
