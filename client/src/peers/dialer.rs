use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::task::spawn_blocking;
use tonic::transport::Endpoint;
use tsoracle_proto::{Address, Authorized, Bearer, Scheme};
use tsoracle_types::on_one_line;

use crate::tls::TlsOptions;

/// How often a connection is probed. Together with [`PROBE_TIMEOUT`], this bounds how long a peer can be gone
/// without being noticed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a probe may stay unanswered.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, over which every call brings the token along.
pub(crate) type Channel = Authorized<tonic::transport::Channel>;

/// Why there is no connection any more.
const STOPPING: &str = "the runtime is shutting down";

/// By this a server knows that the client takes a denial for one.
const USER_AGENT: &str = concat!("tsoracle/", env!("CARGO_PKG_VERSION"));

/// Makes connections, all with the same options.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Option<TlsOptions>,
    token: Option<Token>,
    timeout: Duration,
}

/// What proves to servers who the client is.
#[derive(Clone)]
pub(crate) enum Token {
    Given(Bearer),
    /// In a file, which is read for each connection.
    File(PathBuf),
}

impl Token {
    pub(crate) fn read(&self) -> Result<Bearer, String> {
        match self {
            Self::Given(bearer) => Ok(bearer.clone()),
            Self::File(path) => {
                let place = path.display();
                let text = fs::read_to_string(path);
                let text = text.map_err(|error| format!("cannot read {place}: {error}"))?;
                Bearer::new(&text).map_err(|mistake| format!("{place} holds no token: {mistake}"))
            }
        }
    }
}

impl Dialer {
    pub(crate) fn new(tls: Option<TlsOptions>, token: Option<Token>, timeout: Duration) -> Self {
        Self { tls, token, timeout }
    }

    /// Whether the next connection may prove something else than the one before.
    pub(crate) fn may_prove_more(&self) -> bool {
        matches!(self.token, Some(Token::File(_)))
            || self.tls.as_ref().is_some_and(TlsOptions::has_identity_files)
    }

    pub(crate) fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Tls } else { Scheme::Plaintext }
    }

    /// Checks everything that can be checked without dialling.
    pub(crate) fn endpoint(&self, address: &Address) -> Result<Endpoint, String> {
        let endpoint = Endpoint::from_shared(address.uri(self.scheme()))
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(|error| on_one_line(&error))?
            .tcp_nodelay(true)
            .connect_timeout(self.timeout)
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .keep_alive_timeout(PROBE_TIMEOUT)
            .keep_alive_while_idle(true);
        match &self.tls {
            None => Ok(endpoint),
            Some(tls) => {
                let dialled = endpoint.tls_config(tls.to_tonic(self.timeout)?);
                dialled.map_err(|error| on_one_line(&error))
            }
        }
    }

    /// All that a connection is made with, as it is now in files.
    fn prepared(&self, address: &Address) -> Result<(Endpoint, Option<Bearer>), String> {
        let token = self.token.as_ref().map(Token::read).transpose()?;
        Ok((self.endpoint(address)?, token))
    }

    /// Dials in a task of its own: a caller that gives up leaves the connection to the next one.
    pub(super) fn dial(&self, address: &Address) -> Connection {
        let (dialer, to, timeout) = (self.clone(), address.clone(), self.timeout);
        let dial = async move {
            // The disk may hang.
            let prepared = spawn_blocking(move || dialer.prepared(&to)).await;
            let (endpoint, token) = prepared.unwrap_or_else(|_| Err(STOPPING.into()))?;
            match tokio::time::timeout(timeout, endpoint.connect()).await {
                Ok(Ok(channel)) => Ok(Channel::new(channel, token)),
                Ok(Err(error)) => Err(DialError::from(on_one_line(&error))),
                Err(_) => Err(format!("no connection within {timeout:?}").into()),
            }
        };
        let task = tokio::spawn(dial);
        let channel = async move { task.await.unwrap_or_else(|_| Err(STOPPING.into())) };
        Connection { address: address.clone(), channel: channel.boxed().shared() }
    }
}

/// Reason why there is no connection. Nothing was sent, for certain.
pub(crate) type DialError = Arc<str>;

/// A connection to an address, or the attempt to make one. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(super) address: Address,
    channel: Shared<BoxFuture<'static, Result<Channel, DialError>>>,
}

impl Connection {
    /// Waits until the connection is made. All callers share one dial, and its failure.
    pub(crate) async fn channel(&self) -> Result<Channel, DialError> {
        self.channel.clone().await
    }

    /// The channel, if the connection is made already.
    pub(crate) fn channel_now(&self) -> Option<&Channel> {
        self.channel.peek()?.as_ref().ok()
    }
}
