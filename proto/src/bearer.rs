use std::{
    fmt,
    task::{Context, Poll},
};

use tonic::codegen::{
    Service,
    http::{HeaderValue, Request, header},
};

/// What proves an identity to a server, besides a certificate. It never shows.
#[derive(Clone)]
pub struct Bearer(HeaderValue);

impl Bearer {
    /// Checks what can be checked without a server.
    ///
    /// # Errors
    /// If the text is not one word that a header can hold.
    pub fn new(token: &str) -> Result<Self, String> {
        let token = token.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err("a token is one word".into());
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| String::from("a token has no such characters"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

/// A connection, over which every call brings the token along, if there is one.
#[derive(Clone, Debug)]
pub struct Authorized<S> {
    connection: S,
    bearer: Option<Bearer>,
}

impl<S> Authorized<S> {
    /// Adds the token to what goes over `connection`.
    pub fn new(connection: S, bearer: Option<Bearer>) -> Self {
        Self { connection, bearer }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Authorized<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connection.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(Bearer(value)) = &self.bearer {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        self.connection.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_shows_nowhere() {
        let bearer = Bearer::new(" tso_12\n").unwrap();
        assert_eq!(bearer.0, "Bearer tso_12");
        assert_eq!(format!("{bearer:?} {:?}", bearer.0), "Bearer Sensitive");
        for wrong in ["", " ", "a b", "a\nb", "a\u{0}"] {
            assert!(Bearer::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
