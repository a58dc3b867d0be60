use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, fs};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// How to verify servers, and how to authenticate this client. All in PEM.
///
/// With these options every connection is encrypted, also one to a leader that another node
/// named; without them none is.
#[derive(Clone)]
pub struct TlsOptions {
    authorities: Pem,
    identity: Option<(Pem, Pem)>,
    domain_name: Option<String>,
}

/// A text in PEM.
#[derive(Clone)]
enum Pem {
    Memory(Vec<u8>),
    File(PathBuf),
}

impl Pem {
    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Self::Memory(text) => Ok(text.into()),
            Self::File(path) => fs::read(path)
                .map(Cow::from)
                .map_err(|error| format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Checks that it holds certificates.
    fn check(&self, what: &str) -> Result<(), String> {
        match self {
            Self::Memory(text) => holds_certificates(text, what),
            Self::File(path) => holds_certificates(&self.read()?, &path.display().to_string()),
        }
    }
}

impl TlsOptions {
    /// Options that trust the certificate authorities in `ca_pem`.
    #[must_use]
    pub fn new(ca_pem: impl Into<Vec<u8>>) -> Self {
        Self { authorities: Pem::Memory(ca_pem.into()), identity: None, domain_name: None }
    }

    /// Options that trust the certificate authorities in a file. It is read for each connection, so that a client that
    /// runs takes up new ones: connections that stand go on.
    #[must_use]
    pub fn from_file(ca: impl Into<PathBuf>) -> Self {
        Self { authorities: Pem::File(ca.into()), identity: None, domain_name: None }
    }

    /// The certificate chain and private key of this client, for servers that ask for one.
    #[must_use]
    pub fn identity(mut self, cert_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Pem::Memory(cert_pem.into()), Pem::Memory(key_pem.into())));
        self
    }

    /// The same from files, which are read for each connection.
    #[must_use]
    pub fn identity_files(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Pem::File(cert.into()), Pem::File(key.into())));
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
        self.authorities.check("the certificate authorities")?;
        match &self.identity {
            Some((cert, _)) => cert.check("the client's certificate chain"),
            None => Ok(()),
        }
    }

    /// Whether this client's certificate may be another one by the next connection.
    pub(crate) fn has_identity_files(&self) -> bool {
        matches!(self.identity, Some((Pem::File(_), _) | (_, Pem::File(_))))
    }

    pub(crate) fn to_tonic(&self, handshake_timeout: Duration) -> Result<ClientTlsConfig, String> {
        let mut config = ClientTlsConfig::new()
            .timeout(handshake_timeout)
            .ca_certificate(Certificate::from_pem(self.authorities.read()?));
        if let Some((cert, key)) = &self.identity {
            config = config.identity(Identity::from_pem(cert.read()?, key.read()?));
        }
        if let Some(name) = &self.domain_name {
            config = config.domain_name(name);
        }
        Ok(config)
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
