//! Encrypted connections, and that nothing leads away from them.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tsoracle_client::{Client, ErrorKind, TlsOptions};
use tsoracle_types::on_one_line;

use crate::black_hole;
use crate::node::Node;
use crate::step::not_leader;

/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self, name: &str) -> ServerTlsConfig {
        let (certificate, key) = self.issue(name);
        ServerTlsConfig::new().identity(Identity::from_pem(certificate, key))
    }
}

fn client(endpoint: String, tls: TlsOptions) -> Client {
    let builder = Client::builder().endpoints([endpoint]).tls(tls);
    builder.attempt_timeout(Duration::from_millis(500)).build().unwrap()
}

/// What a person reads of a call at this endpoint.
async fn told(endpoint: String, tls: Option<TlsOptions>) -> String {
    let builder =
        Client::builder().endpoints([endpoint]).attempt_timeout(Duration::from_millis(500));
    let builder = tls.into_iter().fold(builder, |builder, tls| builder.tls(tls));
    let client = builder.build().unwrap().with_timeout(Duration::from_secs(1));
    on_one_line(&client.get_ts().await.unwrap_err())
}

/// An HTTP server, of HTTP/1.1 as most are.
async fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let page =
                "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Type: text/html\r\n\r\n<html>";
            let _ = stream.write_all(page.as_bytes()).await;
            let _ = stream.read(&mut [0; 1_024]).await;
        }
    });
    address
}

#[tokio::test]
async fn misunderstandings_are_explained() {
    let authority = Authority::new();
    let encrypted = Node::builder().tls(authority.server("127.0.0.1")).start().await;
    let wants =
        authority.server("127.0.0.1").client_ca_root(Certificate::from_pem(authority.pem()));
    let mutual = Node::builder().tls(wants).start().await;
    let plain = Node::serving().await;
    let trusting = || Some(TlsOptions::new(authority.pem()));

    let line = told(encrypted.address(), None).await;
    assert!(line.contains("does it expect TLS"), "{line}");
    let line = told(plain.address(), trusting()).await;
    assert!(line.contains("does not speak TLS"), "{line}");
    let line = told(encrypted.address(), Some(TlsOptions::new(Authority::new().pem()))).await;
    assert!(line.contains("not from an authority that this client trusts"), "{line}");
    let line = told(mutual.address(), trusting()).await;
    assert!(line.contains("ask") && line.contains("certificate"), "{line}");
    let line = told(web_server().await, None).await;
    assert!(line.contains("another program"), "{line}");
}

#[tokio::test]
async fn servers_are_verified() {
    let authority = Authority::new();
    let node = Node::builder().tls(authority.server("127.0.0.1")).start().await;
    client(node.address(), TlsOptions::new(authority.pem())).get_ts().await.unwrap();

    let stranger = client(node.address(), TlsOptions::new(Authority::new().pem()));
    let error = stranger.with_timeout(Duration::from_secs(1)).get_ts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(on_one_line(&error).contains("certificate"), "{error:?}");
}

#[tokio::test]
async fn the_name_to_verify_may_be_given() {
    let authority = Authority::new();
    let node = Node::builder().tls(authority.server("oracle.example")).start().await;
    let tls = TlsOptions::new(authority.pem()).domain_name("oracle.example");
    client(node.address(), tls).get_ts().await.unwrap();
}

#[tokio::test]
async fn clients_prove_who_they_are() {
    let authority = Authority::new();
    let tls = authority.server("127.0.0.1").client_ca_root(Certificate::from_pem(authority.pem()));
    let node = Node::builder().tls(tls).start().await;
    let (certificate, key) = authority.issue("a client");
    let options = TlsOptions::new(authority.pem());
    let known = client(node.address(), options.clone().identity(certificate, key));
    known.get_ts().await.unwrap();
    assert_eq!(known.get_seq("orders", 4).await.unwrap().range(), 0..4);

    let unknown = client(node.address(), options).with_timeout(Duration::from_millis(500));
    assert!(unknown.get_ts().await.is_err());
    assert_eq!(node.seen().timestamps, 1);
}

#[tokio::test]
async fn files_are_read_for_each_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    let tls = new.server("127.0.0.1").client_ca_root(Certificate::from_pem(new.pem()));
    let node = Node::builder().tls(tls).start().await;
    let directory = tempfile::tempdir().unwrap();
    let write = |names: [&str; 3], authority: &Authority| {
        let (certificate, key) = authority.issue("a client");
        for (name, text) in names.into_iter().zip([authority.pem(), certificate, key]) {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
    };
    let names = ["ca.pem", "client.pem", "client.key"];
    write(names, &old);
    let [ca, certificate, key] = names.map(|name| directory.path().join(name));
    let options = TlsOptions::from_file(&ca).identity_files(&certificate, &key);
    let client = client(node.address(), options).with_timeout(Duration::from_secs(2));
    client.get_ts().await.unwrap_err();
    // The server is trusted now, and does not trust the client.
    write(["ca.pem", "unused", "unused.key"], &new);
    client.get_ts().await.unwrap_err();
    std::fs::write(&ca, "").unwrap();
    write(names, &new);
    client.with_timeout(Duration::from_secs(60)).get_ts().await.unwrap();

    std::fs::remove_file(&key).unwrap();
    let again = TlsOptions::from_file(&ca).identity_files(&certificate, &key);
    let again = Client::builder().endpoints([node.address()]).tls(again).build();
    assert!(on_one_line(&again.unwrap_err()).contains("client.key"));
    std::fs::write(&ca, "nothing").unwrap();
    let again = Client::builder().endpoints([node.address()]).tls(TlsOptions::from_file(&ca));
    assert!(on_one_line(&again.build().unwrap_err()).contains("ca.pem"));
}

#[tokio::test]
async fn a_hint_never_leads_to_plaintext() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hinted = listener.local_addr().unwrap().to_string();
    let (sender, first_byte) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        sender.send(stream.read_u8().await.unwrap()).unwrap();
    });
    let node = Node::builder().tls(authority.server("127.0.0.1")).start().await;
    // Nodes give addresses without a scheme; one that gives one all the same is not followed.
    node.script([not_leader(&format!("http://{hinted}"), 1), not_leader(&hinted, 1)]);
    client(node.address(), TlsOptions::new(authority.pem())).get_ts().await.unwrap();
    assert_eq!(first_byte.await.unwrap(), HANDSHAKE);
    assert_eq!(node.seen().timestamps, 3);
}

#[tokio::test]
async fn the_deadline_covers_the_handshake() {
    let builder = Client::builder()
        .endpoints([black_hole().await.to_string()])
        .tls(TlsOptions::new(Authority::new().pem()))
        .connect_timeout(Duration::from_secs(3_600))
        .timeout(Duration::from_millis(300));
    let error = builder.clone().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let error = builder.build().unwrap().get_seq("orders", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "nothing was sent");
}

#[tokio::test]
async fn options_are_checked_and_keep_their_secrets() {
    let authority = Authority::new();
    let build = |endpoint: &str, tls: TlsOptions| {
        Client::builder().endpoints([endpoint]).tls(tls).build().map(|_| ())
    };
    let (certificate, key) = authority.issue("a client");
    let good = TlsOptions::new(authority.pem()).identity(certificate.clone(), key.clone());
    build("https://a:1", good.clone()).unwrap();
    assert!(!format!("{good:?}").contains("PRIVATE"));
    let bad = [
        ("http://a:1", good),
        ("a:1", TlsOptions::new("no certificate")),
        ("a:1", TlsOptions::new(authority.pem()).identity(certificate, "no key")),
        ("a:1", TlsOptions::new(authority.pem()).identity("no certificate", key)),
        ("a:1", TlsOptions::new(authority.pem()).domain_name("not a name")),
    ];
    for (endpoint, tls) in bad {
        assert_eq!(build(endpoint, tls).unwrap_err().kind(), ErrorKind::Config);
    }
}
