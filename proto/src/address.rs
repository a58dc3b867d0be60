use std::fmt;
use std::sync::Arc;

use tonic::codegen::http::Uri;

use crate::DEFAULT_PORT;

/// Whether connections are encrypted. A client speaks one or the other, never both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// None is.
    Plaintext,
    /// All are.
    Tls,
}

impl Scheme {
    /// As a URI has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "http",
            Self::Tls => "https",
        }
    }
}

/// Where a server listens: `host:port`, in lower case and without a scheme, or `unix:path`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address(Arc<str>);

/// What an endpoint begins with that is a socket in the file system.
const SOCKET: &str = "unix:";

impl Address {
    /// Reads what a user names: a socket of this machine, `unix:path`, for a client that does not encrypt; or else what
    /// [`parse`](Self::parse) reads.
    ///
    /// # Errors
    /// What is wrong, with the text.
    pub fn of_user(text: &str, scheme: Scheme) -> Result<Self, String> {
        let Some(path) = text.trim().strip_prefix(SOCKET) else { return Self::parse(text, scheme) };
        let path = path.strip_prefix("//").unwrap_or(path);
        match (path, scheme) {
            ("", _) => Err(format!("endpoint {text:?} names no socket: the form is unix:path")),
            (_, Scheme::Tls) => Err(format!(
                "endpoint {text:?} is a socket, where nothing is encrypted: leave out the TLS options"
            )),
            (path, Scheme::Plaintext) => Ok(Self(format!("{SOCKET}{path}").into())),
        }
    }

    /// As tonic takes it.
    #[must_use]
    pub fn uri(&self, scheme: Scheme) -> String {
        match self.0.starts_with(SOCKET) {
            true => self.to_string(),
            false => format!("{}://{self}", scheme.as_str()),
        }
    }

    /// Reads `host`, `host:port` or either with `http://` or `https://` before it, for a client that
    /// speaks `scheme`. No server's hint leads to a socket, which would be one of the client's machine.
    ///
    /// A scheme other than the client's is refused: leader hints come through here too, and must
    /// never lead a TLS client to plaintext.
    ///
    /// # Errors
    /// What is wrong, with the text.
    pub fn parse(text: &str, scheme: Scheme) -> Result<Self, String> {
        let (named, rest) = match text.trim().split_once("://") {
            None => (None, text.trim()),
            Some(("http", rest)) => (Some(Scheme::Plaintext), rest),
            Some(("https", rest)) => (Some(Scheme::Tls), rest),
            Some((other, _)) => {
                return Err(format!("endpoint {text:?} has scheme {other:?}: use http or https"));
            }
        };
        match (named, scheme) {
            (Some(Scheme::Tls), Scheme::Plaintext) => {
                return Err(format!("endpoint {text:?} is https: set the TLS options to use it"));
            }
            (Some(Scheme::Plaintext), Scheme::Tls) => {
                return Err(format!(
                    "endpoint {text:?} is http, but TLS options are set: use https or leave them out"
                ));
            }
            _ => {}
        }
        let malformed = || format!("endpoint {text:?} is not of the form host:port");
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| malformed())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
        let is_bare = uri.path() == "/" && uri.query().is_none();
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let has_bad_port = match uri.port_u16() {
            Some(port) => port == 0,
            None => !rest.trim_end_matches('/').ends_with(host),
        };
        let is_v6 = host.starts_with('[') && host.ends_with(']');
        let has_bad_host = !is_v6 && host.contains(['[', ']']);
        // It could not be told from a socket.
        let is_unix = host.eq_ignore_ascii_case("unix");
        if !is_bare || has_user || has_bad_host || is_unix {
            return Err(malformed());
        }
        if has_bad_port {
            return Err(format!("endpoint {text:?} has no port from 1 to 65535 behind its host"));
        }
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self(format!("{}:{port}", host.to_ascii_lowercase()).into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn plain(text: &str) -> String {
        Address::parse(text, Scheme::Plaintext).unwrap().to_string()
    }

    #[test]
    fn the_forms_an_endpoint_may_have() {
        assert_eq!(plain("10.0.0.7:50551"), "10.0.0.7:50551");
        assert_eq!(plain("http://Node-1.example:7000"), "node-1.example:7000");
        assert_eq!(plain("http://localhost:7000/"), "localhost:7000");
        assert_eq!(plain(" localhost "), "localhost:50551");
        assert_eq!(plain("[::1]:7"), "[::1]:7");
        assert_eq!(plain("[::1]"), "[::1]:50551");
        let secure = Address::parse("https://node:1", Scheme::Tls).unwrap();
        assert_eq!(secure, Address::parse("node:1", Scheme::Tls).unwrap());
    }

    #[test]
    fn what_is_no_endpoint() {
        for text in [
            "",
            ":1",
            "http://",
            "a:b",
            "a:70000",
            "a:99999",
            "a:65536",
            "a:-1",
            "a:0",
            "a:",
            "[::1]:0",
            "a/b",
            "a:1/b",
            "a:1?q",
            "u@a:1",
            "ftp://a:1",
            "::1",
            "a[::1]b:1",
        ] {
            assert!(Address::parse(text, Scheme::Plaintext).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_socket_is_named_by_users_alone() {
        let socket =
            |text| Address::of_user(text, Scheme::Plaintext).map(|named| named.to_string());
        assert_eq!(socket("unix:/run/Oracle.sock").as_deref(), Ok("unix:/run/Oracle.sock"));
        assert_eq!(socket("unix:///run/o").as_deref(), Ok("unix:/run/o"));
        assert_eq!(socket("unix:o").as_deref(), Ok("unix:o"));
        assert!(socket("unix:").is_err() && socket("unix://").is_err());
        assert!(Address::of_user("unix:/run/o", Scheme::Tls).unwrap_err().contains("encrypted"));
        for scheme in [Scheme::Plaintext, Scheme::Tls] {
            assert!(Address::parse("unix:/run/o", scheme).is_err(), "a hint");
            assert!(Address::parse("unix:///run/o", scheme).is_err(), "a hint");
            assert!(
                Address::parse("unix:50551", scheme).is_err()
                    && Address::parse("Unix", scheme).is_err()
            );
        }
    }

    #[test]
    fn a_client_keeps_to_its_scheme() {
        assert!(Address::parse("http://a:1", Scheme::Tls).is_err());
        assert!(Address::parse("https://a:1", Scheme::Plaintext).is_err());
    }
}
