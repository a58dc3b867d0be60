use std::{
    env::{self, VarError},
    error::Error as _,
    fs,
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use tonic::{
    Request, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tsoracle_client::{Client, ErrorKind, TlsOptions};
use tsoracle_core::on_one_line;
use tsoracle_proto::{Address, Authorized, Bearer, Scheme, with_advice};
use tsoracle_server::token_mistake;

use crate::{failure::Failure, time::some_time};

/// The variable with a token, for those who have no file for it. It is no option, since all users see those.
const TOKEN: &str = "TSORACLE_TOKEN";

/// Which servers to ask, and how.
#[derive(Args, Clone, Debug)]
pub struct Endpoints {
    /// A server, as HOST:PORT, or unix:PATH for one of this machine; repeat it, or separate by commas, to
    /// name several of a cluster
    #[arg(
        long = "endpoint",
        value_name = "PLACE",
        env = "TSORACLE_ENDPOINT",
        value_parser = endpoints,
        default_value = "127.0.0.1:50551"
    )]
    named: Vec<String>,

    /// How long to try before giving up, connecting included
    #[arg(
        long,
        value_name = "DURATION",
        env = "TSORACLE_TIMEOUT",
        value_parser = some_time,
        default_value = "5s"
    )]
    pub timeout: Duration,

    /// Encrypt, and trust servers with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_TLS_CA")]
    pub tls_ca: Option<PathBuf>,

    /// This client's certificate chain (PEM), for servers that ask for one
    #[arg(
        long,
        value_name = "FILE",
        env = "TSORACLE_CLIENT_TLS_CERT",
        requires = "tls_ca",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// The private key that goes with --tls-cert (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_CLIENT_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Prove an identity by the token in this file; without it, by that in TSORACLE_TOKEN if there is one
    #[arg(long, value_name = "FILE", env = "TSORACLE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// Which sequences are elsewhere.
#[derive(Args, Clone, Default, Debug)]
pub struct Routes {
    /// Servers of another oracle, for sequences whose keys begin with PREFIX; repeat it for more
    /// prefixes
    #[arg(long = "route", value_name = "PREFIX=HOST:PORT[,HOST:PORT…]", value_parser = route)]
    routes: Vec<(String, Vec<String>)>,
}

fn route(text: &str) -> Result<(String, Vec<String>), String> {
    let (prefix, named) = text.rsplit_once('=').ok_or("a route is PREFIX=HOST:PORT")?;
    let named = endpoints(named)?;
    Ok((prefix.into(), names(&named).map(Into::into).collect()))
}

/// Checks that text names endpoints, whichever scheme the connections to them have.
fn endpoints(text: &str) -> Result<String, String> {
    let mut count = 0;
    for name in names(text) {
        let scheme = if name.starts_with("https://") { Scheme::Tls } else { Scheme::Plaintext };
        Address::of_user(name, scheme)?;
        count += 1;
    }
    match count {
        0 => Err("name at least one endpoint, as HOST:PORT or unix:PATH".into()),
        _ => Ok(text.into()),
    }
}

/// What stands between commas. A comma too many names none.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}

impl Endpoints {
    /// Their names, of which there is one at least.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().flat_map(|text| names(text))
    }

    /// To connect to them without the client.
    pub fn dialer(&self) -> Result<Dialer, Failure> {
        let mut dialer = Dialer { tls: None, token: None, timeout: self.timeout };
        if let Some(token) = self.token()? {
            dialer.token = Some(Bearer::new(&token).map_err(Failure::usage)?);
        }
        if let Some(ca) = &self.tls_ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
                tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
            }
            dialer.tls = Some(tls);
        }
        for name in self.names() {
            dialer.uri(name).map_err(Failure::usage)?;
        }
        Ok(dialer)
    }

    /// Servers on this machine, separated by commas.
    pub fn local(address: &str) -> Self {
        Self {
            named: vec![address.into()],
            timeout: Duration::from_secs(5),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            token_file: None,
        }
    }

    /// What proves who asks, besides a certificate.
    pub fn token(&self) -> Result<Option<String>, Failure> {
        let (token, place) = match &self.token_file {
            Some(file) => {
                let text = String::from_utf8_lossy(&read(file)?).trim().to_owned();
                (text, format!("--token-file {}", file.display()))
            }
            None => match env::var(TOKEN) {
                Ok(token) if !token.is_empty() => (token, TOKEN.into()),
                Ok(_) | Err(VarError::NotPresent) => return Ok(None),
                Err(VarError::NotUnicode(_)) => {
                    return Err(Failure::usage(format!("{TOKEN} holds no token: it is no text")));
                }
            },
        };
        match token_mistake(&token) {
            None => Ok(Some(token)),
            Some(mistake) => Err(Failure::usage(format!("{place} holds no token: {mistake}"))),
        }
    }

    /// Connects to any of them.
    pub async fn connect(&self) -> Result<Client, Failure> {
        self.connect_with(Routes::default()).await
    }

    /// Connects to any of them, and to those of routes when they are needed.
    pub async fn connect_with(&self, routes: Routes) -> Result<Client, Failure> {
        let mut builder = Client::builder().endpoints(self.names()).timeout(self.timeout);
        if let Some(ca) = &self.tls_ca {
            let mut tls = TlsOptions::from_file(ca);
            if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
                tls = tls.identity_files(cert, key);
            }
            builder = builder.tls(tls);
        }
        builder = match (self.token()?, &self.token_file) {
            (Some(_), Some(file)) => builder.token_file(file),
            (Some(token), None) => builder.token(token),
            (None, _) => builder,
        };
        for (prefix, endpoints) in routes.routes {
            builder = builder.route(prefix, endpoints);
        }
        builder.connect().await.map_err(|error| match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Timeout => {
                Failure::failed(format!("{error:#}; is a server running there?"))
            }
            _ => error.into(),
        })
    }
}

/// A connection, over which every call brings the token along.
pub type Channel = Authorized<tonic::transport::Channel>;

/// Makes plain connections, for questions that the client does not ask.
#[derive(Clone, Debug)]
pub struct Dialer {
    tls: Option<ClientTlsConfig>,
    token: Option<Bearer>,
    pub timeout: Duration,
}

impl Dialer {
    /// Connects to `endpoint`, or says in one line why that cannot be.
    pub async fn dial(&self, endpoint: &str) -> Result<Channel, String> {
        let dialled = Endpoint::from_shared(self.uri(endpoint)?)
            .and_then(|dialled| match &self.tls {
                Some(tls) => dialled.tls_config(tls.clone()),
                None => Ok(dialled),
            })
            .map_err(|error| on_one_line(&error))?;
        let dialled = dialled.connect_timeout(self.timeout).tcp_nodelay(true);
        let connected = dialled.connect().await;
        let connected = connected.map_err(|error| with_advice(&on_one_line(&error)))?;
        Ok(Channel::new(connected, self.token.clone()))
    }
}

impl Dialer {
    fn uri(&self, endpoint: &str) -> Result<String, String> {
        let scheme = if self.tls.is_some() { Scheme::Tls } else { Scheme::Plaintext };
        Ok(Address::of_user(endpoint, scheme)?.uri(scheme))
    }
}

/// A request that is answered within `timeout`, or not at all.
pub(crate) fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// What a server says about a call, or what the connection to it came to and what a person does about that.
pub(crate) fn said(status: &Status) -> String {
    match status.source() {
        Some(source) => with_advice(&on_one_line(source)),
        None => with_advice(status.message()),
    }
}

/// A file's content.
pub fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error:#}", path.display())))
}
