//! What every call has to pass before its message is read: it is gRPC, its client is known, and may make it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::{
    Code, Status,
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tsoracle_core::{Error, Oracle, Result};

use crate::{
    edge::Allowed,
    method,
    peer::Peer,
    rights::{Access, Client, Session},
    status::{Asked, Statuses},
};

/// The calls whose refusal the public client takes for a commit that may have happened.
const TAKEN_FOR_UNCERTAIN: [&str; 2] =
    ["/tsoracle.v1.TsoService/GetSeq", "/tsoracle.v1.TsoService/GetSeqBatch"];

/// Decides who may make a call.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    access: Access,
    oracle: Oracle,
}

/// Why nobody makes this call: what its headers prove is wrong. Travels with the request to where it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub(crate) Error);

impl Gate {
    pub(crate) fn new(access: Access, oracle: Oracle) -> Self {
        Self { access, oracle }
    }

    /// Who makes the call, if it may.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, `PERMISSION_DENIED`, or `RESOURCE_EXHAUSTED` beyond the client's rate.
    pub(crate) fn admit(&self, request: &mut Request<Body>) -> Result<Arc<Client>, Status> {
        let client = match request.extensions().get::<Allowed>() {
            Some(allowed) => allowed.client.clone(),
            None if not_grpc(request).is_some() => {
                return Err(Status::unimplemented("a call is a POST of application/grpc"));
            }
            None => self.of_another_server(request).map_err(|error| status(&error))?,
        };
        let path = request.uri().path();
        // A call that there is not is refused as such.
        let method = method::Method::of(path);
        let Some(rights) = method.rights() else { return Ok(client) };
        if let Err(error) = client.check(rights) {
            let status = status(&error);
            let right = rights.first().map_or("", |right| right.name());
            client.audit().refused(client.who(), right, path, &status);
            return Err(status);
        }
        // Those of streams count as they come, and those of a batch together: a part of them would never be let
        // after another one.
        if !method.counts_itself() {
            client.count(1).map_err(|error| status(&error))?;
        }
        Ok(client)
    }

    /// Where another server than ours has accepted the connection, it says from whom.
    #[cold]
    fn of_another_server(&self, request: &mut Request<Body>) -> Result<Arc<Client>> {
        if let Some(Refused(error)) = request.extensions_mut().remove() {
            return Err(error);
        }
        let extensions = request.extensions();
        let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        let address = match tls {
            Some(tls) => tls.get_ref().remote_addr(),
            None => extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr),
        };
        let certificates = tls.and_then(TlsConnectInfo::peer_certs);
        let certificate = certificates.as_ref().and_then(|certificates| certificates.first());
        let peer = address.map(Peer::Address);
        let session = Session::new(self.access.clone(), self.oracle.clone(), peer, certificate);
        session.client(request.headers())
    }
}

fn status(error: &Error) -> Status {
    Statuses::default().of(error, Asked::Sequences)
}

/// The answer to what is no gRPC. A web page can have its visitor's browser send forms and plain text
/// anywhere, with the visitor's certificate, but not this.
pub(crate) fn not_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let status = match request.headers().get(header::CONTENT_TYPE) {
        _ if request.method() != Method::POST => StatusCode::METHOD_NOT_ALLOWED,
        Some(kind) if is_grpc(kind) => return None,
        _ => StatusCode::UNSUPPORTED_MEDIA_TYPE,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    Some(response)
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let kind = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    [&b"application/grpc"[..], b"application/grpc+proto"].contains(&kind.trim_ascii_end())
}

/// Whether the client would take a denial of this call for a commit that may have happened: the public client
/// does, which proves nothing and tells its name.
pub(crate) fn takes_denial_for_uncertain(path: &str, headers: &HeaderMap) -> bool {
    TAKEN_FOR_UNCERTAIN.contains(&path)
        && !headers.contains_key(header::AUTHORIZATION)
        && headers
            .get(header::USER_AGENT)
            .is_some_and(|agent| agent.as_bytes().starts_with(b"tonic/"))
}

/// What such a client takes for a refusal for good.
pub(crate) fn definite(denied: Status) -> Status {
    match denied.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            Status::failed_precondition(denied.message())
        }
        _ => denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(method: &str, content_type: Option<&str>) -> Option<u16> {
        let mut request = Request::builder().method(method);
        if let Some(kind) = content_type {
            request = request.header("content-type", kind);
        }
        not_grpc(&request.body(()).unwrap()).map(|response| response.status().as_u16())
    }

    #[test]
    fn nothing_but_grpc_is_served() {
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
        {
            assert_eq!(status_of("POST", Some(kind)), None, "{kind}");
        }
        for kind in
            ["text/plain", "application/grpc-web", "application/grpc-web+proto", "application/json"]
        {
            assert_eq!(status_of("POST", Some(kind)), Some(415), "{kind}");
        }
        assert_eq!(status_of("POST", None), Some(415));
        for method in ["GET", "OPTIONS", "PUT", "HEAD"] {
            assert_eq!(status_of(method, Some("application/grpc")), Some(405), "{method}");
        }
    }

    #[test]
    fn only_the_public_client_is_spared_a_denial() {
        let path = "/tsoracle.v1.TsoService/GetSeq";
        let headers = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            });
            pairs.collect::<HeaderMap>()
        };
        let public = headers(&[("user-agent", "tonic/0.14.2")]);
        assert!(takes_denial_for_uncertain(path, &public));
        assert!(!takes_denial_for_uncertain("/tsoracle.v1.TsoService/GetTs", &public));
        for others in [
            headers(&[]),
            headers(&[("user-agent", "tsoracle/0.1.0 tonic/0.14.2")]),
            headers(&[("user-agent", "grpc-python/1.60")]),
            headers(&[("user-agent", "tonic/0.14.2"), ("authorization", "Bearer x")]),
        ] {
            assert!(!takes_denial_for_uncertain(path, &others), "{others:?}");
        }
    }
}
