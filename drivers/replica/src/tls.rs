use std::{fmt, fs, path::Path};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::Config;

/// How peers prove to each other who they are: both sides show a certificate.
#[derive(Clone)]
pub struct PeerTls {
    authorities: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl PeerTls {
    /// Reads the files that `config` names, if it names any.
    pub(crate) fn read(config: &Config) -> Result<Option<Self>> {
        let (ca, certificate, key) = match (&config.peer_ca, &config.peer_cert, &config.peer_key) {
            (None, None, None) => return Ok(None),
            (Some(ca), Some(certificate), Some(key)) => (ca, certificate, key),
            _ => {
                let context = "peer_ca, peer_cert and peer_key go together; give all three";
                return Err(Error::new(ErrorKind::Config, context));
            }
        };
        Ok(Some(Self { authorities: read(ca)?, certificate: read(certificate)?, key: read(key)? }))
    }

    pub(crate) fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authorities))
            .identity(self.identity())
    }

    pub(crate) fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .client_ca_root(Certificate::from_pem(&self.authorities))
            .identity(self.identity())
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }
}

/// Keys never show.
impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| {
        Error::new(ErrorKind::Config, format!("cannot read {}", path.display())).with_source(source)
    })
}
