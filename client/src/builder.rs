use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tsoracle_proto::Bearer;
use tsoracle_types::{Clock, MAX_KEY_BYTES, SystemClock};

use crate::call::{Cluster, Oracles};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::peers::{Address, Dialer, Token};
use crate::tls::TlsOptions;

impl Client {
    /// Connects to a cluster, or a single server, with default options and without encryption.
    ///
    /// `endpoints` are some or all of the nodes, as `host:port`; the port may be left out if it is
    /// 50551. Further ones are found through the nodes themselves.
    ///
    /// # Errors
    /// `Config` if an endpoint is malformed, `Unavailable` or `Timeout` if none can be reached in
    /// time.
    pub async fn connect<I>(endpoints: I) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::builder().endpoints(endpoints).connect().await
    }

    /// Options, to set before connecting.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }
}

/// Options of a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    /// By prefix, the endpoints of another oracle.
    routes: BTreeMap<String, Vec<String>>,
    tls: Option<TlsOptions>,
    token: Option<TokenSource>,
    timeout: Duration,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    unary: bool,
    clock: Arc<dyn Clock>,
}

/// Where a token comes from.
#[derive(Clone)]
enum TokenSource {
    Text(String),
    File(PathBuf),
}

/// Tokens never show.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("endpoints", &self.endpoints)
            .field("routes", &self.routes)
            .field("tls", &self.tls)
            .field("has_token", &self.token.is_some())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            routes: BTreeMap::new(),
            tls: None,
            token: None,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(2),
            unary: false,
            clock: Arc::new(SystemClock),
        }
    }
}

impl ClientBuilder {
    /// Adds nodes, as `host:port`; the port may be left out if it is 50551. Name some or all of
    /// them: further ones are found through the nodes themselves. `unix:path` is one of this machine that
    /// listens at a socket, to which connections are not encrypted.
    #[must_use]
    pub fn endpoints<I>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// Sends requests for sequences whose keys begin with `prefix` to another oracle, a cluster or a
    /// single server of its own, with these nodes. The longest prefix that fits decides; called again
    /// with the same one, this adds nodes.
    ///
    /// Timestamps, stamping leases, and sequences without a route stay with
    /// [`endpoints`](Self::endpoints). The oracles know nothing of each other: no order holds between
    /// them, no batch spans two of them, and each fails alone. All clients that use a sequence
    /// must have the same routes, or two oracles hand out the same values: the operations guide
    /// explains how to move a prefix.
    #[must_use]
    pub fn route<I>(mut self, prefix: impl Into<String>, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let route = self.routes.entry(prefix.into()).or_default();
        route.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// Encrypts every connection. Without this, none is encrypted.
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sends this token with every call, to prove an identity to the servers. Use it with encryption: without, the token
    /// can be read on its way.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(TokenSource::Text(token.into()));
        self
    }

    /// The same with the token in a file. It is read for each connection, and once a server does not take it any more, the
    /// next call makes a new one: a client that runs takes up a new token.
    #[must_use]
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token = Some(TokenSource::File(file.into()));
        self
    }

    /// How long a call may take as a whole, connecting and retries included: 5 s by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long connecting to one address may take: 1 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one attempt of a call waits for its answer before another is made, maybe at another node:
    /// 2 s by default, at most a minute, and less when little of the call's time is left. A server
    /// that does not know the leader keeps a request waiting for up to 1 s; allow more than that.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sends every request as a unary call, where those of many callers would share a stream otherwise.
    /// Slower; for servers behind proxies that do not pass streams on.
    #[must_use]
    pub fn unary(mut self, unary: bool) -> Self {
        self.unary = unary;
        self
    }

    /// The clock that bounds how late a request may be sent again. For tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes a client that connects at its first call.
    ///
    /// # Errors
    /// `Config` if there is no endpoint, or an option is wrong.
    pub fn build(self) -> Result<Client> {
        for (name, value) in [
            ("timeout", self.timeout),
            ("connect timeout", self.connect_timeout),
            ("attempt timeout", self.attempt_timeout),
        ] {
            if value.is_zero() {
                return Err(config(format!("the {name} is 0: allow some time")));
            }
        }
        if let Some(tls) = &self.tls {
            tls.check().map_err(config)?;
        }
        let main = self.oracle(&self.endpoints)?;
        let mut routes = Vec::with_capacity(self.routes.len());
        for (prefix, endpoints) in &self.routes {
            if prefix.is_empty() || prefix.len() > MAX_KEY_BYTES {
                let context = format!(
                    "a route for keys that begin with {prefix:?}: name 1 to {MAX_KEY_BYTES} bytes \
                     that keys begin with"
                );
                return Err(config(context));
            }
            let oracle = self.oracle(endpoints).map_err(|error| {
                Error::new(error.kind(), format!("the route {prefix:?} cannot be used"))
                    .with_source(error)
            })?;
            routes.push((prefix.clone(), oracle));
        }
        Ok(Client::new(Oracles::new(main, routes), self.clock, self.timeout))
    }

    /// The oracle with these nodes.
    fn oracle(&self, endpoints: &[String]) -> Result<Cluster> {
        let token = match &self.token {
            None => None,
            Some(TokenSource::Text(text)) => Some(Token::Given(Bearer::new(text).map_err(config)?)),
            Some(TokenSource::File(file)) => Some(Token::File(file.clone())),
        };
        token.as_ref().map(Token::read).transpose().map_err(config)?;
        let dialer = Dialer::new(self.tls.clone(), token, self.connect_timeout);
        let mut addresses = Vec::with_capacity(endpoints.len());
        for text in endpoints {
            let address = Address::of_user(text, dialer.scheme()).map_err(config)?;
            dialer.endpoint(&address).map_err(|error| {
                config(format!("endpoint {text:?} cannot be used")).with_source(error)
            })?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(config("there is no endpoint: name at least one, as host:port".into()));
        }
        let (attempt_timeout, clock) = (self.attempt_timeout, self.clock.clone());
        Ok(Cluster::new(dialer, &addresses, attempt_timeout, self.unary, clock))
    }

    /// Makes a client and waits until there is a connection to any of the endpoints. Those of routes are
    /// connected to at the first call, so that no oracle that is down keeps a client from starting.
    ///
    /// # Errors
    /// As of [`build`](Self::build); `Unavailable` or `Timeout` if no endpoint can be reached within
    /// the timeout.
    pub async fn connect(self) -> Result<Client> {
        let client = self.build()?;
        client.wait_for_connection().await?;
        Ok(client)
    }
}

fn config(context: String) -> Error {
    Error::new(ErrorKind::Config, context)
}
