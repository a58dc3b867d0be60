use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tsoracle_core::{ErrorKind, ManualClock, Result};
use x509_parser::prelude::ASN1Time;

use crate::{Credentials, Sources, Watched};

const DAY: i64 = 24 * 3_600;

/// In November 2026.
const NOW: i64 = 1_795_000_000;

/// When a certificate is valid, in days from now on.
type Days = (i64, i64);

struct Files {
    directory: TempDir,
    clock: ManualClock,
}

impl Files {
    fn new() -> Self {
        let clock = ManualClock::new(NOW as u64 * 1_000);
        Self { directory: tempfile::tempdir().unwrap(), clock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A new authority, and a certificate by it with its key.
    fn issue(&self, authority: Days, own: Days) {
        let (ca, cert, key) = issued(authority, own);
        self.write("ca.pem", &ca);
        self.write("cert.pem", &cert);
        self.write("key.pem", &key);
    }

    fn sources(&self) -> Sources {
        let identity = (self.path("cert.pem"), self.path("key.pem"));
        Sources::files(Some(self.path("ca.pem")), Some(identity))
    }

    /// Makes the own certificates as they are in the file.
    fn open(&self) -> Result<Watched<Vec<u8>>> {
        let make = |credentials: &Credentials| {
            credentials.server_config()?;
            credentials.client_config()?;
            Ok(credentials.identity_pem().unwrap().0.to_vec())
        };
        Watched::open_by(Arc::new(self.clock.clone()), "a test", self.sources(), Box::new(make))
    }

    fn in_use(&self, watched: &Watched<Vec<u8>>) -> bool {
        *watched.current() == fs::read(self.path("cert.pem")).unwrap()
    }
}

fn params((from, to): Days) -> CertificateParams {
    let at = |days: i64| ASN1Time::from_timestamp(NOW + days * DAY).unwrap().to_datetime();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    (params.not_before, params.not_after) = (at(from), at(to));
    params
}

fn issued(authority: Days, own: Days) -> (String, String, String) {
    let mut ca = params(authority);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = params(own).signed_by(&key, &ca).unwrap();
    (ca.pem(), cert.pem(), key.serialize_pem())
}

/// What is said to be wrong.
fn wrong(watched: &Watched<Vec<u8>>) -> Vec<String> {
    watched.report().findings.into_iter().map(|found| found.what).collect()
}

#[test]
fn what_changes_is_taken_up_and_what_is_of_no_use_is_not() {
    let files = Files::new();
    files.issue((-1, 900), (-1, 800));
    let watched = files.open().unwrap();
    assert!(files.in_use(&watched));
    let first = watched.current();
    watched.look(true);
    assert!(Arc::ptr_eq(&first, &watched.current()), "nothing has changed");

    files.issue((-1, 900), (-1, 800));
    watched.look(false);
    assert!(files.in_use(&watched));
    assert_eq!(wrong(&watched), [""; 0]);

    // The key is still that of the certificate before.
    let second = watched.current();
    let (_, cert, key) = issued((-1, 900), (-1, 800));
    files.write("cert.pem", &cert);
    watched.look(false);
    assert_eq!(wrong(&watched), [""; 0], "the key may come next");
    assert!(Arc::ptr_eq(&second, &watched.current()));
    watched.look(false);
    let troubles = wrong(&watched);
    assert!(troubles[0].contains("key.pem does not go with"), "{troubles:?}");
    assert!(Arc::ptr_eq(&second, &watched.current()));
    files.write("key.pem", &key);
    watched.look(false);
    assert!(files.in_use(&watched));
    assert_eq!(wrong(&watched), [""; 0]);
}

#[test]
fn whatever_a_file_holds_the_old_ones_stay_in_use() {
    let files = Files::new();
    files.issue((-1, 900), (-1, 800));
    let watched = files.open().unwrap();
    let current = watched.current();
    let (_, expired, key) = issued((-900, 900), (-800, -1));
    let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    for (name, text) in [
        ("ca.pem", ""),
        ("ca.pem", broken),
        ("cert.pem", "nothing"),
        ("key.pem", "nothing"),
        ("cert.pem", &expired),
    ] {
        let before = fs::read_to_string(files.path(name)).unwrap();
        let key_before = fs::read_to_string(files.path("key.pem")).unwrap();
        files.write(name, text);
        if text == expired {
            files.write("key.pem", &key);
        }
        watched.look(true);
        assert!(Arc::ptr_eq(&current, &watched.current()), "{name}: {text}");
        let troubles = wrong(&watched).join("\n");
        assert!(troubles.contains(name), "{troubles}");
        files.write(name, &before);
        files.write("key.pem", &key_before);
        watched.look(true);
        assert_eq!(wrong(&watched), [""; 0]);
    }
    fs::remove_file(files.path("ca.pem")).unwrap();
    watched.look(true);
    assert!(wrong(&watched)[0].contains("cannot read"), "{:?}", wrong(&watched));
    assert!(Arc::ptr_eq(&current, &watched.current()));
}

#[test]
fn what_is_not_valid_now_is_refused_with_the_date() {
    let refused = |authority: Days, own: Days| {
        let files = Files::new();
        files.issue(authority, own);
        let error = files.open().map(drop).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let error = refused((-900, 900), (-800, -1));
    assert!(error.contains("cert.pem") && error.contains("expired on 2026-11-17T"), "{error}");
    let error = refused((-900, 900), (1, 800));
    assert!(error.contains("cert.pem") && error.contains("valid from 2026-11-19T"), "{error}");
    assert!(error.contains("the clock shows 2026-11-18T"), "{error}");
    let error = refused((-900, -1), (-1, 800));
    assert!(error.contains("ca.pem") && error.contains("expired on 2026-11-17T"), "{error}");
}

#[test]
fn an_old_authority_may_stand_beside_its_successor() {
    let files = Files::new();
    files.issue((-1, 900), (-1, 800));
    let (old, ..) = issued((-900, -1), (-900, -1));
    let new = fs::read_to_string(files.path("ca.pem")).unwrap();
    files.write("ca.pem", &format!("{old}{new}"));
    let watched = files.open().unwrap();
    let troubles = wrong(&watched);
    assert_eq!(troubles.len(), 1);
    assert!(troubles[0].contains("ca.pem") && troubles[0].contains("expired"), "{troubles:?}");
}

#[test]
fn an_end_is_warned_of_from_thirty_days_before_it() {
    let files = Files::new();
    files.issue((-1, 900), (-1, 31));
    let watched = files.open().unwrap();
    assert_eq!(wrong(&watched), [""; 0]);
    let day = Duration::from_secs(DAY as u64);
    files.clock.advance(day * 2);
    let troubles = wrong(&watched);
    assert!(troubles[0].contains("expires in 29 days, on 2026-12-19T"), "{troubles:?}");
    files.clock.advance(day * 30);
    assert!(wrong(&watched)[0].contains("expired on 2026-12-19T"), "{:?}", wrong(&watched));
    files.issue((-1, 900), (-1, 800));
    watched.look(false);
    assert_eq!(wrong(&watched), [""; 0]);
}
