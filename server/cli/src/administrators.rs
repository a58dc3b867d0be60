//! The address of administrators, where the oracle is served to them besides that of its clients, and the status page.

use std::future::pending;

use tsoracle_core::{Oracle, Phase, Reload};
use tsoracle_server::{Access, Limits, Listener, Pages, Reloads, Server, TlsOptions, Trust};

use crate::{access, failure::Failure, place, settings::Settings};

/// The most connections of administrators.
const CONNECTIONS: usize = 64;

/// An address that is bound, if there is to be one.
#[derive(Debug)]
pub(crate) struct Administrators(Option<Place>);

#[derive(Debug)]
struct Place {
    listener: Listener,
    trust: Trust,
    tls: Option<TlsOptions>,
}

impl Administrators {
    pub(crate) async fn listen(settings: &Settings) -> Result<Self, Failure> {
        let tls = settings.admin_tls()?;
        let Some(place) = settings.admin_listen.as_deref().map(access::admin_place) else {
            return match tls {
                None => Ok(Self(None)),
                Some(_) => {
                    Err(Failure::usage("--admin-tls-cert is for an address: give --admin-listen"))
                }
            };
        };
        place::check_place("--admin-listen", &place)?;
        let listener = place::open(&place, settings).await?;
        let trust = access::trust_of_administrators(settings, listener.place(), tls.is_some())?;
        Ok(Self(Some(Place { listener, trust, tls })))
    }

    /// Serves an oracle to administrators, for ever: when it fails, the server of its clients says so.
    ///
    /// # Errors
    /// Administrators cannot be served, or are no more.
    pub(crate) async fn serve(
        self,
        oracle: Oracle,
        (access, pages): (&Access, Option<Pages>),
        limits: Limits,
        reload: Reload,
        reloads: Reloads,
    ) -> Result<(), Failure> {
        let Some(Place { listener, trust, tls }) = self.0 else { return pending().await };
        let limits = Limits { connections: CONNECTIONS.min(limits.connections), ..limits };
        let mut server = Server::builder().oracle(oracle).limits(limits);
        server = server.access(access.trusting(trust)).reloads(reloads).for_administrators();
        if let Some(pages) = pages {
            server = server.pages(pages);
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        if let Some(tls) = tls {
            server = server.tls(tls).reload(reload);
        }
        let listening = server.build()?.listen_on(listener);
        let place = listening.place();
        match place.address() {
            Some(address) => {
                tracing::info!(%address, "administrators are served; the status page is {scheme}://{address}/");
            }
            None => tracing::info!(address = %place, "administrators are served"),
        }
        let phase = listening.oracle().phase();
        let served = listening.serve().await;
        let is_over = matches!(*phase.borrow(), Phase::Failed(_) | Phase::Stopping);
        match served {
            Err(error) if !is_over => Err(error.into()),
            _ => pending().await,
        }
    }
}
