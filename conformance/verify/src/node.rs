use std::{error::Error as _, io};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tsoracle_client::{Client, TlsOptions};
use tsoracle_proto::{
    Address, Authorized, Bearer, Scheme,
    v1::{GetCurrentMaxSafeRequest, tso_service_client::TsoServiceClient},
    with_advice,
};
use tsoracle_types::on_one_line;

use super::Options;

/// By this a server knows that a denial is taken for one.
const USER_AGENT: &str = concat!("tsoracle/", env!("CARGO_PKG_VERSION"));

/// Certificates, in PEM.
#[derive(Clone)]
pub struct Tls {
    /// Of the authorities that servers are trusted through.
    pub ca: Vec<u8>,
    /// This side's certificate chain and key, for servers that ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A connection, over which every call brings the token along.
pub(super) type Channel = Authorized<tonic::transport::Channel>;

/// A node that can be reached.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// As it was named.
    pub(super) name: String,
    pub(super) channel: Channel,
}

/// Connects to each endpoint that can be reached.
pub(super) async fn connect(options: &Options) -> io::Result<Vec<Node>> {
    let (mut nodes, bearer) = (Vec::new(), bearer(options)?);
    let mut causes = Vec::new();
    for name in &options.endpoints {
        let endpoint = endpoint(name, options)?;
        match endpoint.connect().await {
            Ok(channel) => {
                let channel = Channel::new(channel, bearer.clone());
                match first_call(&channel).await {
                    Ok(()) => nodes.push(Node { name: name.clone(), channel }),
                    Err(cause) => causes.push(format!("{name}: {cause}")),
                }
            }
            Err(error) => causes.push(format!("{name}: {}", with_advice(&on_one_line(&error)))),
        }
    }
    if nodes.is_empty() {
        let causes = causes.join("; ");
        return Err(io::Error::new(io::ErrorKind::NotConnected, format!("cannot reach {causes}")));
    }
    Ok(nodes)
}

/// Calls what any server has, whatever it answers: some connections fail only then, such as those in plain text to a
/// server that expects TLS.
async fn first_call(channel: &Channel) -> Result<(), String> {
    let request = GetCurrentMaxSafeRequest {};
    match TsoServiceClient::new(channel.clone()).get_current_max_safe(request).await {
        Err(status) => match status.source() {
            Some(source) => Err(with_advice(&on_one_line(source))),
            None => Ok(()),
        },
        Ok(_) => Ok(()),
    }
}

/// Connects to `name` again, on a connection of its own.
pub(super) async fn dial(name: &str, options: &Options) -> io::Result<Channel> {
    let endpoint = endpoint(name, options)?;
    let channel =
        endpoint.connect().await.map_err(|error| io::Error::other(on_one_line(&error)))?;
    Ok(Channel::new(channel, bearer(options)?))
}

/// A client of this project, with connections of its own.
pub(super) fn client(options: &Options) -> io::Result<Client> {
    let mut builder = Client::builder().endpoints(&options.endpoints).timeout(options.timeout);
    if let Some(Tls { ca, identity }) = &options.tls {
        let mut tls = TlsOptions::new(ca.clone());
        if let Some((cert, key)) = identity {
            tls = tls.identity(cert.clone(), key.clone());
        }
        builder = builder.tls(tls);
    }
    if let Some(token) = &options.token {
        builder = builder.token(token);
    }
    builder.build().map_err(invalid)
}

fn bearer(options: &Options) -> io::Result<Option<Bearer>> {
    let bearer = options.token.as_deref().map(Bearer::new).transpose();
    bearer.map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))
}

fn endpoint(name: &str, options: &Options) -> io::Result<Endpoint> {
    let scheme = if options.tls.is_some() { Scheme::Tls } else { Scheme::Plaintext };
    let address = Address::of_user(name, scheme)
        .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
    let mut endpoint = Endpoint::from_shared(address.uri(scheme)).map_err(invalid)?;
    endpoint = endpoint.user_agent(USER_AGENT).map_err(invalid)?;
    if let Some(Tls { ca, identity }) = &options.tls {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        if let Some((cert, key)) = identity {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        endpoint = endpoint.tls_config(tls).map_err(invalid)?;
    }
    Ok(endpoint.connect_timeout(options.timeout).timeout(options.timeout).tcp_nodelay(true))
}

fn invalid(error: impl std::error::Error + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, on_one_line(&error))
}
