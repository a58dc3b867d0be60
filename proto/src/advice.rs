//! What a person does about a connection that came to nothing.

/// By words in what the libraries below say of it, which tell how the two sides misunderstood each other.
const ADVICE: [(&str, &str); 14] = [
    (
        "frame with invalid size",
        "it does not speak plain HTTP/2: does it expect TLS, or is it another program?",
    ),
    ("InvalidContentType", "it does not speak TLS"),
    ("CertificateRequired", "it asks this client for a certificate"),
    ("CertificateUnknown", "it does not accept this client's certificate"),
    ("UnknownCA", "it does not accept this client's certificate"),
    ("BadCertificate", "it does not accept this client's certificate"),
    (
        "broken pipe",
        "it closed the connection: does it expect TLS, or ask this client for a certificate?",
    ),
    (
        "operation was canceled: connection",
        "it closed the connection: does it expect TLS, or ask this client for a certificate?",
    ),
    ("UnknownIssuer", "its certificate is not from an authority that this client trusts"),
    ("BadSignature", "its certificate is not from an authority that this client trusts"),
    ("NotValidForName", "its certificate is for another name"),
    ("certificate: Expired", "its certificate has expired, or the clock here is wrong"),
    ("invalid compression flag", "what answers there is no gRPC server"),
    ("mapped from HTTP status code", "an HTTP server or proxy answers there, and not tsoracle"),
];

/// A cause, with what it most likely means for people.
#[must_use]
pub fn with_advice(cause: &str) -> String {
    match ADVICE.iter().find(|(words, _)| cause.contains(words)) {
        Some((_, advice)) => format!("{cause} ({advice})"),
        None => cause.to_owned(),
    }
}
