use std::path::Path;

use rustls::ServerConfig;
use tsoracle_core::{Clock as _, Result, SystemClock};
use tsoracle_tls::{Callers, Source, Sources, Watched};

/// How the server proves who it is, and whether its clients must. All in PEM.
///
/// What comes from files is read again when they change: see [`Builder::reload`](crate::Builder::reload).
#[derive(Clone, Debug)]
pub struct TlsOptions {
    sources: Sources,
    callers: Callers,
}

impl TlsOptions {
    /// Takes the server's certificate chain and private key from memory.
    pub fn from_pem(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let certificates = Source::memory(certificates, "the server's certificate chain");
        let key = Source::memory(key, "the server's private key");
        Self::of(Sources { authorities: None, identity: Some((certificates, key)) })
    }

    /// Reads the server's certificate chain and private key from files.
    ///
    /// # Errors
    /// `Config`, naming the file, if one cannot be read. What is in them is checked when the
    /// server is built.
    pub fn from_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        let identity = (certificates.as_ref().into(), key.as_ref().into());
        let sources = Sources::files(None, Some(identity));
        sources.read().map(|_| Self::of(sources))
    }

    /// Lets in only clients with a certificate of one of these authorities: mutual TLS.
    #[must_use]
    pub fn client_ca_pem(self, authorities: impl Into<Vec<u8>>) -> Self {
        let authorities = Source::memory(authorities, "the client certificate authorities");
        let sources = Sources { authorities: Some(authorities), ..self.sources };
        Self { sources, ..self }
    }

    /// As [`client_ca_pem`](Self::client_ca_pem), from a file.
    ///
    /// # Errors
    /// `Config`, naming the file, if it cannot be read.
    pub fn client_ca_file(self, authorities: impl AsRef<Path>) -> Result<Self> {
        let authorities = Some(Source::File(authorities.as_ref().into()));
        let sources = Sources { authorities, ..self.sources };
        sources.read().map(|_| Self { sources, callers: self.callers })
    }

    /// Lets in clients without a certificate as well: what they may do is for the server's
    /// [access](crate::Builder::access) to say.
    #[must_use]
    pub fn clients_without_certificates(self) -> Self {
        Self { callers: Callers::Any, ..self }
    }

    fn of(sources: Sources) -> Self {
        Self { sources, callers: Callers::Certified }
    }

    /// Whether one of the authorities in PEM lets clients in: what it signs for others is then good for both.
    pub fn lets_in_what_is_signed_by(&self, authorities: &[u8]) -> bool {
        let certificates = |sources: &Sources| {
            let read = sources.read();
            read.and_then(|credentials| credentials.authorities()).unwrap_or_default()
        };
        let others = Source::memory(authorities, "the other authorities");
        let others = certificates(&Sources { authorities: Some(others), identity: None });
        certificates(&Sources { identity: None, ..self.sources.clone() })
            .iter()
            .any(|own| others.contains(own))
    }

    /// Checks everything without listening; building a server does so, too.
    ///
    /// # Errors
    /// `Config`, naming what is wrong: the file, if it was read from one.
    pub fn check(&self) -> Result<()> {
        let credentials = self.sources.read()?;
        credentials.server_config_for(self.callers)?;
        credentials.check(SystemClock.now().wall_ms)
    }

    /// `name` says in a log what for.
    pub(crate) fn open(&self, name: &'static str) -> Result<Watched<ServerConfig>> {
        let callers = self.callers;
        Watched::open(name, self.sources.clone(), move |credentials| {
            credentials.server_config_for(callers)
        })
    }
}
