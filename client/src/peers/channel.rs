use std::fmt;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request, Response, header};
use tonic::transport;

/// What a client proves its identity with, besides a certificate.
#[derive(Clone)]
pub(crate) struct Token(HeaderValue);

impl Token {
    /// Checks what can be checked without a server.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.contains(char::is_whitespace) {
            return Err("a token is one word".into());
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
            .map_err(|_| String::from("a token has no such characters"))?;
        // It shows in no log.
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Tokens never show.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A connection, over which every call brings the token along.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    transport: transport::Channel,
    token: Option<Token>,
}

impl Channel {
    pub(crate) fn new(transport: transport::Channel, token: Option<Token>) -> Self {
        Self { transport, token }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = <transport::Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.transport, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(Token(value)) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        self.transport.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_shows_nowhere() {
        let token = Token::new(" tso_12\n").unwrap();
        assert_eq!(token.0, "Bearer tso_12");
        assert_eq!(format!("{token:?} {:?}", token.0), "Token Sensitive");
        for wrong in ["", " ", "a b", "a\nb", "a\u{0}"] {
            assert!(Token::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
