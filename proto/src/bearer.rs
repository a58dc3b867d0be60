use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue, errors::InvalidMetadataValue},
    service::Interceptor,
};

/// Has every call bring a token along, if there is one, to prove to a server who makes it.
#[derive(Clone, Default, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// One with a token, which no log shows.
    ///
    /// # Errors
    /// If the token has characters that no header can have.
    pub fn new(token: &str) -> Result<Self, InvalidMetadataValue> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_comes_along_and_shows_nowhere() {
        let mut bearer = Bearer::new("tso_12").unwrap();
        assert!(!format!("{bearer:?}").contains("tso_12"));
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer tso_12");
        let request = Bearer::default().call(Request::new(())).unwrap();
        assert!(request.metadata().is_empty());
        assert!(Bearer::new("a\nb").is_err());
    }
}
