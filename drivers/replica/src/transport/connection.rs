//! The connections below HTTP/2: TLS, the secret, and what HTTP/2 begins with, all of it within bounded time.

use std::{io, time::Duration};

use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split},
    net::TcpStream,
    time::timeout,
};
use tsoracle_tls::why_refused;

use super::{Inner, secret};
use crate::Cluster;

/// A peer on a LAN is there at once, or not.
const CONNECT: Duration = Duration::from_millis(500);

/// How long a caller may take until HTTP/2 begins, and this node as one.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// What HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection, whatever protects it.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Duplex for S {}

/// What is known of a caller before it says anything in a frame.
#[derive(Clone, Default, Debug)]
pub(super) struct Caller {
    pub(super) certificate: Option<CertificateDer<'static>>,
    /// Which node it is, as it has proven by the secret.
    pub(super) proven: Option<u32>,
}

impl Caller {
    /// Whether it has proven anything.
    pub(super) fn is_known(&self) -> bool {
        self.certificate.is_some() || self.proven.is_some()
    }
}

/// Takes a connection, up to where HTTP/2 begins. Returns why it is refused.
pub(super) async fn take(
    cluster: &Cluster,
    stream: TcpStream,
) -> Result<(Box<dyn Duplex>, Caller), String> {
    match timeout(HANDSHAKE, agree(cluster, stream)).await {
        Ok(agreed) => agreed,
        Err(_) => Err("a caller took too long to say who it is".into()),
    }
}

async fn agree(cluster: &Cluster, stream: TcpStream) -> Result<(Box<dyn Duplex>, Caller), String> {
    let ended = |error: io::Error| format!("a caller ended before it had said who it is: {error}");
    stream.set_nodelay(true).map_err(ended)?;
    let mut caller = Caller::default();
    let mut stream: Box<dyn Duplex> = match &cluster.tls {
        None => Box::new(stream),
        Some(tls) => {
            let agreed = tls.acceptor().accept(stream).await.map_err(|error| {
                let reason = reason(&error);
                format!("a caller does not agree on TLS, with a certificate of peer_ca: {reason}")
            })?;
            let shown = agreed.get_ref().1.peer_certificates();
            caller.certificate = shown.and_then(|shown| Some(shown.first()?.clone().into_owned()));
            Box::new(agreed)
        }
    };
    let mut preface = [0; PREFACE.len()];
    let (magic, rest) = preface.split_at_mut(secret::MAGIC.len());
    stream.read_exact(magic).await.map_err(ended)?;
    let has_secret = *magic == secret::MAGIC;
    match &cluster.secret {
        Some(secret) if has_secret => {
            let (name, own) = (&cluster.name, cluster.node);
            caller.proven = Some(secret::answer(&mut stream, secret, name, own).await?);
            stream.read_exact(magic).await.map_err(ended)?;
        }
        None if has_secret => {
            return Err(
                "a caller has a `peer_secret_file`, and this node has none; give it the same one"
                    .into(),
            );
        }
        Some(_) if *magic == PREFACE[..magic.len()] => {
            return Err("a caller has no secret; give all nodes the same `peer_secret_file`".into());
        }
        _ => {}
    }
    stream.read_exact(rest).await.map_err(ended)?;
    if preface != *PREFACE {
        return Err("a caller does not speak as a node does".into());
    }
    // HTTP/2 reads it once more.
    let (read, write) = split(stream);
    Ok((Box::new(join(io::Cursor::new(preface).chain(read), write)), caller))
}

fn reason(error: &io::Error) -> String {
    why_refused(error).unwrap_or_else(|| error.to_string())
}

/// Connects to node `node` at `address`, up to where HTTP/2 begins. Returns why that fails.
pub(super) async fn connect(
    cluster: &Cluster,
    node: u32,
    address: &str,
) -> Result<Box<dyn Duplex>, String> {
    let failed = |error: io::Error| error.to_string();
    let late = |what: &'static str| move |_| format!("it takes too long to {what}");
    let connecting = timeout(CONNECT, TcpStream::connect(address)).await;
    let stream = connecting.map_err(late("be reached"))?.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let proving = timeout(HANDSHAKE, prove(cluster, (node, address), stream)).await;
    proving.map_err(late("say who it is"))?
}

async fn prove(
    cluster: &Cluster,
    (node, address): (u32, &str),
    stream: TcpStream,
) -> Result<Box<dyn Duplex>, String> {
    let mut stream: Box<dyn Duplex> = match &cluster.tls {
        None => Box::new(stream),
        Some(tls) => {
            let name = tls.name(node, address).map_err(|error| format!("{error:#}"))?;
            let agreed = tls.connector().connect(name, stream).await;
            Box::new(agreed.map_err(|error| reason(&error))?)
        }
    };
    if let Some(secret) = &cluster.secret {
        secret::call(&mut stream, secret, &cluster.name, (cluster.node, node)).await?;
    }
    Ok(stream)
}

impl Inner {
    /// Whether a caller may call itself `node`.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn check_caller(&self, caller: &Caller, node: u32) -> Result<(), String> {
        if let Some(proven) = caller.proven.filter(|proven| *proven != node) {
            return Err(format!("a caller is node {proven}, and calls itself node {node} now"));
        }
        let (Some(tls), Some(certificate)) = (&self.cluster.tls, &caller.certificate) else {
            return Ok(());
        };
        let known = self.peer(node).ok().map(|peer| peer.address().to_owned());
        let known = known.or_else(|| self.handler().ok().and_then(|handler| handler.address(node)));
        // One that waits to be added may know no address but its own. It has nothing to lose yet.
        if known.is_none() && self.cluster.join {
            return Ok(());
        }
        tls.check(certificate, node, known.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;
    use crate::Config;

    /// Why a node without a secret refuses a caller that says so much.
    async fn refusal(says: &[u8]) -> Option<String> {
        let peers = "1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1".into();
        let cluster = Config { node: 1, peers, ..Config::default() }.check().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        caller.write_all(says).await.unwrap();
        let taken = take(&cluster, listener.accept().await.unwrap().0).await;
        taken.map(drop).err()
    }

    #[tokio::test]
    async fn a_caller_that_does_not_speak_as_a_node_does_is_refused() {
        assert_eq!(refusal(PREFACE).await, None);
        for at in [0, secret::MAGIC.len() - 1, secret::MAGIC.len(), PREFACE.len() - 1] {
            let mut other = *PREFACE;
            other[at] ^= 1;
            let why = refusal(&other).await.unwrap();
            assert!(why.contains("does not speak as a node does"), "{at}: {why}");
        }
    }

    #[tokio::test]
    async fn one_with_a_secret_is_told_that_there_is_none_here() {
        let why = refusal(&secret::MAGIC).await.unwrap();
        assert!(why.contains("this node has none"), "{why}");
    }
}
