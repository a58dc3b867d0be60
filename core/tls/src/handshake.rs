use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::date;

/// Why the other side and this one do not agree on TLS, in words that are the same each time; `None` if the other
/// side has only gone, as a probe does that tries whether a port is open.
pub fn why_refused(error: &io::Error) -> Option<String> {
    let is_gone = matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    );
    if is_gone {
        return None;
    }
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return Some(error.to_string());
    };
    Some(match tls {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "it does not speak TLS".into(),
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        Error::InvalidCertificate(reason) => refused(reason),
        Error::AlertReceived(alert) => alerted(*alert),
        other => other.to_string(),
    })
}

fn refused(reason: &CertificateError) -> String {
    let on = |seconds: u64| date(i64::try_from(seconds).unwrap_or(i64::MAX));
    match reason {
        CertificateError::UnknownIssuer => {
            "its certificate is of no authority that is trusted here".into()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired on {}", on(not_after.as_secs()))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is valid from {} on only", on(not_before.as_secs()))
        }
        other => format!("its certificate is refused: {other}"),
    }
}

/// What the other side says of the certificate of this one.
fn alerted(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "it does not trust the authority of this node's certificate".into()
        }
        AlertDescription::CertificateExpired => {
            "it takes this node's certificate for expired".into()
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            format!("it refuses this node's certificate ({alert:?})")
        }
        AlertDescription::CertificateRequired => "it wants a certificate of this node".into(),
        other => format!("it ends the handshake ({other:?})"),
    }
}
