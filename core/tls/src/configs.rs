use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};
use rustls_pki_types::UnixTime;
use tsoracle_core::{Clock as _, Error, Result, SystemClock};

use crate::{Credentials, pem::Pem};

/// The versions of TLS that are spoken.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// What is spoken within TLS: HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// The time that certificates are checked at. That of rustls panics where the clock is before 1970.
#[derive(Debug)]
struct Time;

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = std::time::Duration::from_millis(SystemClock.now().wall_ms);
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// Who is spoken to where there are authorities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Callers {
    /// Those with a certificate of the authorities.
    Certified,
    /// Those without a certificate as well, but nobody with one of somebody else's.
    Any,
}

impl Credentials {
    /// How to take connections: with the own certificate, and from callers with one of the authorities' alone, if
    /// there are any.
    ///
    /// # Errors
    /// `Config`, naming what is wrong: the file, if it was read from one.
    pub fn server_config(&self) -> Result<ServerConfig> {
        self.server_config_for(Callers::Certified)
    }

    /// The same; callers may have to have no certificate, and say otherwise who they are.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn server_config_for(&self, callers: Callers) -> Result<ServerConfig> {
        let provider = provider();
        let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(Time))
            .with_protocol_versions(VERSIONS)
            .map_err(|error| unusable(&error))?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots(pem)?.into(), provider);
                let verifier = match callers {
                    Callers::Certified => verifier,
                    Callers::Any => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(
                    verifier.build().map_err(|error| pem.refused(&error))?,
                )
            }
        };
        let Some((chain, key)) = self.identity()? else {
            return Err(Error::setting("a server cannot speak TLS without a certificate"));
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| self.misfit(&error))?;
        config.alpn_protocols = vec![PROTOCOL.into()];
        Ok(config)
    }

    /// How to connect to those with a certificate of the authorities', with the own one if there is one.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn client_config(&self) -> Result<ClientConfig> {
        let Some(authorities) = &self.authorities else {
            return Err(Error::setting("TLS needs authorities to trust"));
        };
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(Time))
            .with_protocol_versions(VERSIONS)
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots(authorities)?);
        let mut config = match self.identity()? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| self.misfit(&error))?
            }
        };
        config.alpn_protocols = vec![PROTOCOL.into()];
        Ok(config)
    }

    fn misfit(&self, reason: &dyn fmt::Display) -> Error {
        let named = self.identity.as_ref().map(|(chain, key)| (&*key.origin, &*chain.origin));
        let (key, chain) = named.unwrap_or_default();
        Error::setting(format!("{key} does not go with {chain}: {reason}"))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(pem: &Pem) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in pem.certificates()? {
        roots.add(certificate).map_err(|error| pem.refused(&error))?;
    }
    Ok(roots)
}

fn unusable(reason: &dyn fmt::Display) -> Error {
    Error::setting(format!("TLS cannot be set up: {reason}"))
}
