use std::{fmt, fs, path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;
use tsoracle_core::{Error, ErrorKind, Result};

/// How the server proves who it is, and whether its clients must. All in PEM.
#[derive(Clone)]
pub struct TlsOptions {
    certificates: Pem,
    key: Pem,
    client_ca: Option<Pem>,
}

/// PEM text, and what to call it when it is wrong.
#[derive(Clone)]
struct Pem {
    bytes: Vec<u8>,
    origin: String,
}

impl TlsOptions {
    /// Takes the server's certificate chain and private key from memory.
    pub fn from_pem(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            certificates: Pem::new(certificates, "the server's certificate chain"),
            key: Pem::new(key, "the server's private key"),
            client_ca: None,
        }
    }

    /// Reads the server's certificate chain and private key from files.
    ///
    /// # Errors
    /// `Config`, naming the file, if one cannot be read. What is in them is checked when the
    /// server is built.
    pub fn from_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        Ok(Self {
            certificates: Pem::read(certificates.as_ref())?,
            key: Pem::read(key.as_ref())?,
            client_ca: None,
        })
    }

    /// Lets in only clients with a certificate of one of these authorities: mutual TLS.
    #[must_use]
    pub fn client_ca_pem(self, authorities: impl Into<Vec<u8>>) -> Self {
        let client_ca = Some(Pem::new(authorities, "the client certificate authorities"));
        Self { client_ca, ..self }
    }

    /// As [`client_ca_pem`](Self::client_ca_pem), from a file.
    ///
    /// # Errors
    /// `Config`, naming the file, if it cannot be read.
    pub fn client_ca_file(self, authorities: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { client_ca: Some(Pem::read(authorities.as_ref())?), ..self })
    }

    /// Whether one of the authorities in PEM lets clients in: what it signs for others is then good for both.
    pub fn lets_in_what_is_signed_by(&self, authorities: &[u8]) -> bool {
        let certificates = |pem: &Pem| pem.certificates().unwrap_or_default();
        let others = certificates(&Pem::new(authorities, "the other authorities"));
        let own = self.client_ca.as_ref().map(certificates).unwrap_or_default();
        own.iter().any(|own| others.contains(own))
    }

    /// Checks everything without listening; building a server does so, too.
    ///
    /// # Errors
    /// `Config`, naming what is wrong: the file, if it was read from one.
    pub fn check(&self) -> Result<()> {
        self.acceptor().map(drop)
    }

    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| config("TLS cannot be set up", &error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in pem.certificates()? {
                    roots.add(certificate).map_err(|error| pem.refused(&error))?;
                }
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| pem.refused(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key.bytes)
            .map_err(|error| self.key.refused(&error))?;
        let mut server =
            builder.with_single_cert(self.certificates.certificates()?, key).map_err(|error| {
                let what =
                    format!("{} does not go with {}", self.key.origin, self.certificates.origin);
                config(&what, &error)
            })?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(server)))
    }
}

/// Keys never show.
impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("certificates", &self.certificates.origin)
            .field("key", &self.key.origin)
            .field("client_ca", &self.client_ca.as_ref().map(|pem| &pem.origin))
            .finish()
    }
}

impl Pem {
    fn new(bytes: impl Into<Vec<u8>>, origin: &str) -> Self {
        Self { bytes: bytes.into(), origin: origin.into() }
    }

    fn read(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let bytes =
            fs::read(path).map_err(|error| config(&format!("cannot read {origin}"), &error))?;
        Ok(Self { bytes, origin })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let found = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.refused(&error))?;
        match found.is_empty() {
            true => Err(self.refused(&"it holds no certificate in PEM")),
            false => Ok(found),
        }
    }

    fn refused(&self, reason: &dyn fmt::Display) -> Error {
        config(&format!("{} cannot be used for TLS", self.origin), reason)
    }
}

fn config(what: &str, reason: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("{what}: {reason}"))
}
