mod greeted;
mod requests;

use std::{
    io,
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either as Connected;
use tonic::service::Routes;
use tsoracle_core::{Clock as _, Oracle, Refusals, Room, SystemClock};
use tsoracle_tls::{Watched, why_refused};

use self::{greeted::Greeted, requests::Known};
use crate::{
    Limits,
    calls::Calls,
    listener::Stream,
    meters::CallMeters,
    pages::{self, Pages},
    peer::Peer,
    rights::{Access, Session},
};

/// Why a client is not spoken to that does not end its handshake.
const TOO_LONG: &str = "the TLS handshake took too long";

/// What every connection is served with.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) routes: Routes,
    pub(crate) tls: Option<Watched<ServerConfig>>,
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    pub(crate) oracle: Oracle,
    pub(crate) refusals: Refusals,
    /// For calls under way.
    pub(crate) room: Arc<Room>,
    pub(crate) meters: Arc<CallMeters>,
    /// For whatever is not gRPC.
    pub(crate) pages: Option<Pages>,
}

impl Connection {
    fn session(&self, peer: Peer, certificate: Option<&CertificateDer<'_>>) -> Session {
        Session::new(self.access.clone(), self.oracle.clone(), Some(peer), certificate)
    }

    /// Serves one connection until it is closed, or its calls have ended after `stopping`.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        stopping: watch::Receiver<bool>,
    ) {
        if let Err(error) = self.try_serve(stream, peer, stopping).await {
            tracing::debug!(%peer, error, "a connection has ended");
        }
    }

    async fn try_serve(
        &self,
        stream: Stream,
        peer: Peer,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // An answer is small, and must not wait for the acknowledgement of the one before.
        if let Connected::Left(stream) = &stream {
            stream.set_nodelay(true)?;
        }
        match &self.tls {
            None => self.speak(stream, self.session(peer, None), stopping).await,
            Some(tls) => {
                let acceptor = TlsAcceptor::from(tls.current());
                let agreed = timeout(self.limits.handshake_time, acceptor.accept(stream)).await;
                let agreed = agreed.unwrap_or_else(|_| Err(io::Error::other(TOO_LONG)));
                let stream = agreed.inspect_err(|error| self.log_refused(error, peer))?;
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(|certificates| certificates.first());
                let session = self.session(peer, certificate);
                self.speak(stream, session, stopping).await
            }
        }
    }

    /// Logs why a client is not spoken to.
    fn log_refused(&self, error: &io::Error, peer: Peer) {
        let Some(reason) = why_refused(error) else { return };
        let reason = format!("{reason} ({})", peer.host());
        if let Some((reason, left_out)) = self.refusals.to_log(&reason, SystemClock.now().boot) {
            tracing::warn!(reason, left_out, "a client does not agree on TLS");
        }
    }

    /// Speaks HTTP/2, or what else the client speaks where there are pages.
    async fn speak<S>(
        &self,
        stream: S,
        session: Session,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(pages) = &self.pages else { return self.http2(stream, session, stopping).await };
        let begun = timeout(self.limits.handshake_time, pages::begun(stream)).await;
        let (is_http2, stream) = begun??;
        match is_http2 {
            true => self.http2(stream, session, stopping).await,
            false => self.http1(stream, session, pages, stopping).await,
        }
    }

    /// Serves pages alone.
    async fn http1<S>(
        &self,
        stream: S,
        session: Session,
        pages: &Pages,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let known = self.known(session, Arc::default());
        let pages = pages.clone();
        let serving = pages::http1(stream, move |request| known.page(&pages, request));
        tokio::select! {
            served = serving => served,
            // An error means that the server is gone, which is a reason to stop as well.
            _ = stopping.wait_for(|stopping| *stopping) => Ok(()),
        }
    }

    fn known(&self, session: Session, over_share: Arc<AtomicBool>) -> Known {
        let (routes, room, meters) = (self.routes.clone(), self.room.clone(), self.meters.clone());
        Known { session, routes, room, meters, over_share, pages: self.pages.clone() }
    }

    async fn http2<S>(
        &self,
        stream: S,
        session: Session,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        let (mut calls, arrivals) = Calls::new();
        let mut builder = http2::Builder::new(arrivals);
        builder
            .timer(TokioTimer::new())
            // No caller needs it, and to write one panics where the clock is before 1970.
            .auto_date_header(false)
            .max_concurrent_streams(limits.concurrent_streams)
            .max_header_list_size(limits.header_bytes)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        let over_share = Arc::new(AtomicBool::new(false));
        let greeted = Greeted::new(stream, limits.handshake_time, over_share.clone());
        let known = self.known(session, over_share);
        let service = service_fn(move |request| known.answer(request));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(greeted), service));
        tokio::select! {
            ended = calls.carried_out(connection.as_mut()) => return Ok(ended?),
            // An error means that the server is gone, which is a reason to stop as well.
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(calls.carried_out(connection).await?)
    }
}
