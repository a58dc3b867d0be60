//! TLS, users and passwords of a real etcd.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{
    Etcd,
    node::{Asker, is, open, take, version},
};
use etcd_client::{Permission, PermissionType, RoleRevokePermissionOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::time::timeout;
use tsoracle_core::{Clock as _, Error, ErrorKind, SystemClock};

/// How long new files may take to be found.
const MOST: Duration = Duration::from_secs(30);

/// Writes the files of an authority, a server and a client.
fn certificates(directory: &Path) {
    let authority = || {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ca, other) = (authority(), authority());
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    fs::write(directory.join("other.pem"), other.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_certificates_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let etcd = Etcd::single(&[
        format!("--cert-file={}", file("server.pem")),
        format!("--key-file={}", file("server.key")),
        format!("--trusted-ca-file={}", file("ca.pem")),
        "--client-cert-auth".into(),
    ])
    .await;
    let config = format!("etcd://{}/p?timeout=5s", etcd.authority());
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let driver = open(&format!("{config}&ca={ca}&cert={cert}&key={key}"), "").await.unwrap();
    assert_eq!(take(&driver, "orders", 1).await.unwrap().0, 0);
    // Without a certificate that etcd trusts, or trust in etcd's, nothing goes.
    let other = file("other.pem");
    for trust in [format!("ca={ca}"), format!("ca={other}&cert={cert}&key={key}")] {
        let config = format!("{config}&{trust}").replace("timeout=5s", "timeout=200ms");
        let driver = open(&config, "").await.unwrap();
        let error = version(&driver).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "{trust}: {error}");
    }
    let config_error = |error: &Error| *error.kind() == ErrorKind::Config;
    let error = is(open(&format!("{config}&ca=/nowhere.pem"), "").await, config_error, "no file");
    assert!(error.to_string().contains("/nowhere.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_change_are_taken_up() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let server = [
        format!("--cert-file={}", file("server.pem")),
        format!("--key-file={}", file("server.key")),
    ];
    let etcd = Etcd::single(&server).await;
    fs::copy(file("other.pem"), file("trusted.pem")).unwrap();
    let trust = format!("timeout=200ms&ca={}", file("trusted.pem"));
    let driver = open(&format!("etcd://{}/p?{trust}", etcd.authority()), "").await.unwrap();
    let error = version(&driver).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    fs::copy(file("ca.pem"), file("trusted.pem")).unwrap();
    let reached = async { while version(&driver).await.is_err() {} };
    timeout(MOST, reached).await.expect("the new authority is trusted");
    // What is of no use changes nothing.
    fs::write(file("trusted.pem"), "nothing").unwrap();
    let said = async {
        while driver.report(SystemClock.now().boot).findings.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(MOST, said).await.expect("what is wrong is said");
    version(&driver).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_needs_no_more_than_the_prefix() {
    let mut etcd = Etcd::single(&[]).await;
    let mut client = etcd.client().await;
    client.user_add("root", "r", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("tso", "s3cret", None).await.unwrap();
    client.role_add("tso").await.unwrap();
    let below = Permission::new(PermissionType::Readwrite, "p/").with_prefix();
    client.role_grant_permission("tso", below).await.unwrap();
    client.user_grant_role("tso", "tso").await.unwrap();
    client.auth_enable().await.unwrap();

    let members = etcd.authority();
    let config_error = |error: &Error| *error.kind() == ErrorKind::Config;
    for (config, what) in [
        (format!("etcd://{members}/p?timeout=5s"), "no user"),
        (format!("etcd://{members}/p?timeout=5s&user=tso&password=wr0ng"), "a wrong password"),
        (format!("etcd://nobody:s3cret@{members}/p?timeout=5s"), "an unknown user"),
        (format!("etcd://tso:s3cret@{members}/q?timeout=5s"), "another prefix"),
    ] {
        let error = is(open(&config, "").await, config_error, what);
        assert!(error.to_string().contains(&members), "{what}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{what}: {error}");
    }
    let config = format!("etcd://{members}/p?timeout=5s&user=tso&password=s3cret");
    let driver = open(&config, "").await.unwrap();
    assert!(!format!("{driver:?}").contains("s3cret"));
    driver.shutdown().await.unwrap();
    let mut asker = Asker::over(&config, "s").await;
    asker.ask(5).await;
    // etcd forgets whom it has let in when it is restarted, and when permissions change.
    etcd.members[0].kill();
    etcd.members[0].start();
    asker.ask(5).await;
    let options = etcd_client::ConnectOptions::new().with_user("root", "r");
    let mut root = etcd_client::Client::connect([&members], Some(options)).await.unwrap();
    root.role_add("more").await.unwrap();
    let more = Permission::new(PermissionType::Read, "q/").with_prefix();
    root.role_grant_permission("more", more).await.unwrap();
    asker.ask(5).await;
    let options = RoleRevokePermissionOptions::new().with_prefix();
    root.role_revoke_permission("more", "q/", Some(options)).await.unwrap();
    asker.ask(5).await;
    asker.stop().await;
}
