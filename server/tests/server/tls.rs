//! TLS and mutual TLS.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};
use tsoracle_core::{Reload, Reloader};
use tsoracle_proto::v1::{self, tso_service_client::TsoServiceClient};
use tsoracle_server::{Access, Audit, Limits, Policy, PolicyConfig, Rules, Server, TlsOptions};

use crate::common::{Running, memory};

/// How long new files may take to be found.
const MOST: Duration = Duration::from_secs(30);

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Issued {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("a valid certificate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a valid certificate"))
                .expect("a valid certificate"),
        )
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate().expect("a valid certificate");
        let params = CertificateParams::new(vec![name.into()]).expect("a valid certificate");
        let cert = params.signed_by(&key, &self.0).expect("a valid certificate");
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }
}

async fn serve(tls: TlsOptions) -> Running {
    Running::start(Server::builder().driver(memory().await).tls(tls)).await
}

async fn ask(server: &Running, tls: ClientTlsConfig) -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = Channel::from_shared(format!("https://localhost:{}", server.address.port()))?;
    let channel = endpoint.tls_config(tls)?.connect().await?;
    TsoServiceClient::new(channel).get_ts(v1::GetTsRequest { count: 1 }).await?;
    Ok(())
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()))
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_served() {
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let server = serve(TlsOptions::from_pem(own.cert, own.key)).await;
    ask(&server, trusting(&authority)).await.unwrap();
    ask(&server, trusting(&Authority::new())).await.unwrap_err();
    let plain = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = plain.connect_lazy();
    TsoServiceClient::new(channel).get_ts(v1::GetTsRequest { count: 1 }).await.unwrap_err();
    ask(&server, trusting(&authority)).await.unwrap();
}

#[tokio::test]
async fn certificates_prove_identities_to_a_policy() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let own = authority.issue("localhost");
    let tls = TlsOptions::from_pem(own.cert, own.key).client_ca_pem(clients.pem());
    let policy = r#"{"identities": {"shop": ["ts"], "idle": []}}"#;
    let policy = Policy::new(&serde_json::from_str::<PolicyConfig>(policy).unwrap()).unwrap();
    let access = Access::new(Rules::new(Some(policy), None).unwrap(), Audit::default());
    let builder = Server::builder().driver(memory().await).access(access);
    let server = Running::start(builder.tls(tls.clients_without_certificates())).await;
    let with =
        |issued: Issued| trusting(&authority).identity(Identity::from_pem(issued.cert, issued.key));
    ask(&server, with(clients.issue("shop"))).await.unwrap();
    let denied = async |tls| {
        let error = ask(&server, tls).await.unwrap_err();
        error.downcast_ref::<tonic::Status>().map(tonic::Status::code)
    };
    assert_eq!(denied(with(clients.issue("idle"))).await, Some(Code::PermissionDenied));
    assert_eq!(denied(with(clients.issue("unlisted"))).await, Some(Code::PermissionDenied));
    assert_eq!(denied(trusting(&authority)).await, Some(Code::Unauthenticated));
    // It is not let in at all.
    let stranger = denied(with(strangers.issue("shop"))).await;
    assert!(
        !matches!(stranger, Some(Code::PermissionDenied | Code::Unauthenticated)),
        "{stranger:?}"
    );
}

#[tokio::test]
async fn mutual_tls_lets_in_only_its_own() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let own = authority.issue("localhost");
    let tls = TlsOptions::from_pem(own.cert, own.key).client_ca_pem(clients.pem());
    let server = serve(tls).await;
    let identity = |issued: Issued| Identity::from_pem(issued.cert, issued.key);
    let known = trusting(&authority).identity(identity(clients.issue("a")));
    ask(&server, known.clone()).await.unwrap();
    ask(&server, trusting(&authority)).await.unwrap_err();
    let strange = trusting(&authority).identity(identity(strangers.issue("a")));
    ask(&server, strange).await.unwrap_err();
    ask(&server, known).await.unwrap();
}

#[tokio::test]
async fn a_slow_handshake_is_cut_off() {
    let authority = Authority::new();
    let own = authority.issue("localhost");
    let handshake_time = std::time::Duration::from_millis(50);
    let limits = Limits { handshake_time, ..Limits::default() };
    let server = Server::builder()
        .driver(memory().await)
        .tls(TlsOptions::from_pem(own.cert, own.key))
        .limits(limits);
    let server = Running::start(server).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let _ = silent.read_to_end(&mut Vec::new()).await;
}

/// A certificate in files, which can be replaced.
struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, issued: &Issued) {
        fs::write(self.path("cert.pem"), &issued.cert).expect("the directory is writable");
        fs::write(self.path("key.pem"), &issued.key).expect("the directory is writable");
    }

    async fn serve(&self, reload: Reload) -> Running {
        let tls = TlsOptions::from_files(self.path("cert.pem"), self.path("key.pem"));
        let tls = tls.expect("both can be read");
        Running::start(Server::builder().driver(memory().await).tls(tls).reload(reload)).await
    }
}

/// Asks until it is answered by a server whose certificate is of this authority.
async fn is_reached(server: &Running, authority: &Authority) {
    let asking = async { while ask(server, trusting(authority)).await.is_err() {} };
    timeout(MOST, asking).await.expect("the new certificate is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_count_for_connections_from_then_on_and_no_other_is_dropped() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files(TempDir::new().unwrap());
    files.write(&old.issue("localhost"));
    let reloader = Reloader::default();
    let server = files.serve(reloader.subscribe()).await;
    let endpoint = format!("https://localhost:{}", server.address.port());
    let endpoint = Channel::from_shared(endpoint).unwrap().tls_config(trusting(&old)).unwrap();
    let mut connected = TsoServiceClient::new(endpoint.connect().await.unwrap());
    connected.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();

    files.write(&new.issue("localhost"));
    reloader.request();
    is_reached(&server, &new).await;
    ask(&server, trusting(&old)).await.unwrap_err();
    // A new connection would not trust what the server shows now.
    connected.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_found_without_a_request() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files(TempDir::new().unwrap());
    files.write(&old.issue("localhost"));
    let server = files.serve(Reload::default()).await;
    ask(&server, trusting(&old)).await.unwrap();
    files.write(&new.issue("localhost"));
    is_reached(&server, &new).await;
}

#[test]
fn wrong_files_are_named() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let authority = Authority::new();
    let (own, other) = (authority.issue("localhost"), authority.issue("localhost"));
    let cert = write("cert.pem", &own.cert);
    let key = write("key.pem", &own.key);
    let other_key = write("other-key.pem", &other.key);
    let nothing = write("nothing.pem", "nothing");
    let broken =
        write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let missing = directory.path().join("missing.pem");
    let check = |cert: &PathBuf, key: &PathBuf, ca: Option<&PathBuf>| {
        let tls = TlsOptions::from_files(cert, key)?;
        let tls = match ca {
            Some(ca) => tls.client_ca_file(ca)?,
            None => tls,
        };
        tls.check()
    };
    check(&cert, &key, Some(&cert)).unwrap();
    for (cert, key, ca, named) in [
        (&missing, &key, None, "missing.pem"),
        (&cert, &missing, None, "missing.pem"),
        (&cert, &key, Some(&missing), "missing.pem"),
        (&nothing, &key, None, "nothing.pem"),
        (&broken, &key, None, "broken.pem"),
        (&cert, &nothing, None, "nothing.pem"),
        (&cert, &cert, None, "cert.pem"),
        (&cert, &key, Some(&nothing), "nothing.pem"),
        (&cert, &other_key, None, "other-key.pem"),
    ] {
        let error = check(cert, key, ca).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn keys_never_show() {
    let own = Authority::new().issue("localhost");
    let tls = TlsOptions::from_pem(own.cert, own.key);
    assert!(!format!("{tls:?}").contains("PRIVATE"));
}
