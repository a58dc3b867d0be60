use std::{fmt, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tsoracle_core::{Clock as _, SystemClock};
use tsoracle_tls::{Sources, Validity, date};
use x509_parser::time::ASN1Time;

use super::files::Pair;
use crate::failure::Failure;

/// One of the two authorities.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// What its files are called.
    pub(super) stem: &'static str,
    /// What it signs.
    of: &'static str,
}

/// Nodes trust each other by it, and clients trust nodes.
pub(super) const NODES: Kind = Kind { stem: "ca", of: "nodes" };

/// Servers trust clients by it.
pub(super) const CLIENTS: Kind = Kind { stem: "client-ca", of: "clients" };

/// Makes an authority: its certificate and its key.
pub(super) fn make(kind: Kind, validity: (i64, i64)) -> Result<(String, String), Failure> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    let id = params.key_identifier(&key);
    // Two of one kind have names of their own, which an error can tell apart.
    let id: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = named(&format!("tsoracle {} {id}", kind.of));
    set_validity(&mut params, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key).map_err(failed)?.pem(), key.serialize_pem()))
}

/// An authority that was made, and can sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The last second of its validity, since 1970.
    pub(super) until: i64,
}

impl Authority {
    pub(super) fn load(directory: &Path, kind: Kind) -> Result<Self, Failure> {
        let Pair { certificate, key } = Pair::new(directory, kind.stem);
        let of = kind.of;
        if !certificate.exists() && !key.exists() {
            return Err(Failure::failed(format!(
                "there is no authority of {of} in {0}; make one with `tsoracle cert ca --dir {0}`",
                directory.display()
            )));
        }
        let place = certificate.display().to_string();
        let files = Sources::files(Some(certificate.clone()), Some((certificate, key)));
        let unusable =
            |error| Failure::failed(format!("the authority of {of} cannot be used: {error:#}"));
        let read = files.read().map_err(unusable)?;
        // This finds out whether the two go together.
        read.server_config().map_err(unusable)?;
        read.check(SystemClock.now().wall_ms).map_err(unusable)?;
        let authorities = read.authorities().map_err(unusable)?;
        let (Some(own), Some((_, key))) = (authorities.first(), read.identity_pem()) else {
            return Err(Failure::failed(format!("{place} holds no certificate")));
        };
        let until = Validity::of(own, &place).map_err(unusable)?.not_after;
        let key = KeyPair::from_pem(&String::from_utf8_lossy(key)).map_err(failed)?;
        Ok(Self { issuer: Issuer::from_ca_cert_der(own, key).map_err(failed)?, until })
    }

    /// Signs, and returns the certificate.
    pub(super) fn signs(
        &self,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<String, Failure> {
        params.signed_by(key, &self.issuer).map(|signed| signed.pem()).map_err(failed)
    }
}

/// From when until when it is valid, in seconds since 1970.
pub(super) fn set_validity(
    params: &mut CertificateParams,
    (from, until): (i64, i64),
) -> Result<(), Failure> {
    let at = |seconds| match ASN1Time::from_timestamp(seconds) {
        Ok(time) => Ok(time.to_datetime()),
        Err(_) => Err(failed(format!("no certificate has the date {}", date(seconds)))),
    };
    (params.not_before, params.not_after) = (at(from)?, at(until)?);
    Ok(())
}

/// A subject with this name.
pub(super) fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

pub(super) fn failed(error: impl fmt::Display) -> Failure {
    Failure::failed(format!("cannot make a certificate: {error}"))
}
