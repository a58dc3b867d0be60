use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
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

/// By this a server knows that the client takes a denial for one.
const USER_AGENT: &str = concat!("tsoracle/", env!("CARGO_PKG_VERSION"));

/// Makes connections, all with the same options.
pub(crate) struct Dialer {
    tls: Option<TlsOptions>,
    token: Option<Bearer>,
    timeout: Duration,
}

impl Dialer {
    pub(crate) fn new(tls: Option<TlsOptions>, token: Option<Bearer>, timeout: Duration) -> Self {
        Self { tls, token, timeout }
    }

    pub(crate) fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Tls } else { Scheme::Plaintext }
    }

    /// Checks everything that can be checked without dialling.
    pub(crate) fn endpoint(&self, address: &Address) -> Result<Endpoint, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(address.uri(self.scheme()))?
            .user_agent(USER_AGENT)?
            .tcp_nodelay(true)
            .connect_timeout(self.timeout)
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .keep_alive_timeout(PROBE_TIMEOUT)
            .keep_alive_while_idle(true);
        match &self.tls {
            None => Ok(endpoint),
            Some(tls) => endpoint.tls_config(tls.to_tonic(self.timeout)),
        }
    }

    /// Dials in a task of its own: a caller that gives up leaves the connection to the next one.
    pub(super) fn dial(&self, address: &Address) -> Connection {
        let endpoint = self.endpoint(address);
        let (timeout, token) = (self.timeout, self.token.clone());
        let dial = async move {
            let endpoint = endpoint.map_err(|error| DialError::from(on_one_line(&error)))?;
            match tokio::time::timeout(timeout, endpoint.connect()).await {
                Ok(Ok(channel)) => Ok(Channel::new(channel, token)),
                Ok(Err(error)) => Err(DialError::from(on_one_line(&error))),
                Err(_) => Err(format!("no connection within {timeout:?}").into()),
            }
        };
        let task = tokio::spawn(dial);
        let channel = async move {
            task.await.unwrap_or_else(|_| Err("the runtime is shutting down".into()))
        };
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
