use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tsoracle_core::{Error, Result};
use x509_parser::parse_x509_certificate;

/// When a certificate is valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Validity {
    /// The file, and which certificate in it.
    pub what: String,
    /// The first second, since 1970.
    pub not_before: i64,
    /// The last one.
    pub not_after: i64,
}

impl Validity {
    /// Of a certificate, which is called `what` when it is wrong.
    ///
    /// # Errors
    /// `Config` if it is no certificate.
    pub fn of(certificate: &CertificateDer<'_>, what: &str) -> Result<Self> {
        let (_, parsed) = parse_x509_certificate(certificate)
            .map_err(|error| Error::setting(format!("{what} is no certificate: {error}")))?;
        let validity = parsed.validity();
        let subject = parsed.subject().to_string();
        let what = match subject.is_empty() {
            true => what.into(),
            false => format!("{what} ({subject})"),
        };
        let (not_before, not_after) = (validity.not_before, validity.not_after);
        Ok(Self { what, not_before: not_before.timestamp(), not_after: not_after.timestamp() })
    }

    /// Whether it is valid when the wall clock shows this, in milliseconds since 1970.
    ///
    /// # Errors
    /// `Config`, with the date, if it is not.
    pub fn check(&self, wall_ms: u64) -> Result<()> {
        let (what, now) = (&self.what, seconds(wall_ms));
        if now > self.not_after {
            return Err(Error::setting(format!(
                "the certificate in {what} expired on {}; give a new one",
                date(self.not_after)
            )));
        }
        if now < self.not_before {
            return Err(Error::setting(format!(
                "the certificate in {what} is valid from {} on only, and the clock shows {}; wait, or set the clock \
                 right",
                date(self.not_before),
                date(now)
            )));
        }
        Ok(())
    }

    /// Whether it was valid, and is no more.
    pub(crate) fn is_over(&self, wall_ms: u64) -> bool {
        seconds(wall_ms) > self.not_after
    }

    /// What to warn of, if it runs out within `ahead`, or has.
    pub(crate) fn warning(&self, wall_ms: u64, ahead: Duration) -> Option<String> {
        let (now, ahead) = (seconds(wall_ms), i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX));
        let (what, date, left) = (&self.what, date(self.not_after), self.not_after - now);
        if left < 0 {
            return Some(format!("the certificate in {what} expired on {date}"));
        }
        (left <= ahead).then(|| {
            let days = left / SECONDS_PER_DAY;
            format!("the certificate in {what} expires in {days} days, on {date}")
        })
    }
}

const SECONDS_PER_DAY: i64 = 86_400;

fn seconds(wall_ms: u64) -> i64 {
    i64::try_from(wall_ms / 1_000).unwrap_or(i64::MAX)
}

/// That second since 1970 as people read it, in UTC.
pub fn date(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds} s since 1970"),
    }
}
