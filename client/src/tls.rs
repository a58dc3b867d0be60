use std::fmt;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// How to verify servers, and how to authenticate this client. All in PEM.
///
/// With these options every connection is encrypted, also one to a leader that another node
/// named; without them none is.
#[derive(Clone)]
pub struct TlsOptions {
    ca_pem: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    domain_name: Option<String>,
}

impl TlsOptions {
    /// Options that trust the certificate authorities in `ca_pem`.
    #[must_use]
    pub fn new(ca_pem: impl Into<Vec<u8>>) -> Self {
        Self { ca_pem: ca_pem.into(), identity: None, domain_name: None }
    }

    /// The certificate chain and private key of this client, for servers that ask for one.
    #[must_use]
    pub fn identity(mut self, cert_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((cert_pem.into(), key_pem.into()));
        self
    }

    /// The name that servers' certificates carry, where it is not the host that is dialled.
    #[must_use]
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = Some(name.into());
        self
    }

    /// Checks the certificates, which would otherwise fail only when a server is verified.
    pub(crate) fn check(&self) -> Result<(), String> {
        holds_certificates(&self.ca_pem, "the certificate authorities")?;
        match &self.identity {
            Some((cert, _)) => holds_certificates(cert, "the client's certificate chain"),
            None => Ok(()),
        }
    }

    pub(crate) fn to_tonic(&self, handshake_timeout: Duration) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new()
            .timeout(handshake_timeout)
            .ca_certificate(Certificate::from_pem(&self.ca_pem));
        if let Some((cert, key)) = &self.identity {
            config = config.identity(Identity::from_pem(cert, key));
        }
        if let Some(name) = &self.domain_name {
            config = config.domain_name(name);
        }
        config
    }
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("has_identity", &self.identity.is_some())
            .field("domain_name", &self.domain_name)
            .finish_non_exhaustive()
    }
}

fn holds_certificates(pem: &[u8], what: &str) -> Result<(), String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{what} hold no certificate: give them in PEM"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{what} cannot be read: {error}")),
    }
}
