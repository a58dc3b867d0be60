//! HTTP/2 by hand, for what no client library lets one send or see.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) http_status: u16,
    /// Headers, and trailers if there were any.
    pub(crate) metadata: HeaderMap,
    /// Messages, with their prefixes.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn grpc_status(&self) -> Option<&str> {
        self.metadata.get("grpc-status")?.to_str().ok()
    }

    pub(crate) fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.grpc_status(), Some("0"), "{self:?}");
        M::decode(&self.body[5..]).expect("a valid message")
    }
}

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection(SendRequest<Bytes>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// How many streams the server allows, as far as it has said yet.
    pub(crate) fn max_streams(&self) -> usize {
        self.0.current_max_send_streams()
    }

    /// Sends one message, with more headers than usual, and returns once it is sent.
    pub(crate) async fn send(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        message: &impl Message,
    ) -> Result<Pending, h2::Error> {
        let mut request = Request::post(format!("http://server/{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a valid request");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a valid value");
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        let mut sender = self.0.clone().ready().await?;
        let (answer, mut body) = sender.send_request(request, false)?;
        body.send_data(framed(message), true)?;
        Ok(Pending(answer))
    }

    /// The HTTP status of what is no call of gRPC.
    pub(crate) async fn status_of(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        message: &impl Message,
    ) -> u16 {
        let mut request = Request::builder().method(method).uri(format!("http://server/{path}"));
        if let Some(kind) = content_type {
            request = request.header("content-type", kind);
        }
        let request = request.body(()).expect("a valid request");
        let mut sender = self.0.clone().ready().await.expect("the connection is open");
        let (answer, mut body) = sender.send_request(request, false).expect("a stream is free");
        body.send_data(framed(message), true).expect("the stream is open");
        answer.await.expect("an answer").status().as_u16()
    }

    pub(crate) async fn call(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        message: &impl Message,
    ) -> Result<Answer, h2::Error> {
        self.send(path, headers, message).await?.answer().await
    }
}

/// A call under way. Dropped, it is cancelled.
#[derive(Debug)]
pub(crate) struct Pending(h2::client::ResponseFuture);

impl Pending {
    pub(crate) async fn answer(self) -> Result<Answer, h2::Error> {
        let (head, mut rest) = self.0.await?.into_parts();
        let (mut metadata, mut body) = (head.headers, Vec::new());
        while let Some(chunk) = rest.data().await {
            let chunk = chunk?;
            rest.flow_control().release_capacity(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        metadata.extend(rest.trailers().await?.unwrap_or_default());
        Ok(Answer { http_status: head.status.as_u16(), metadata, body })
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// A client that begins as every one does, and never answers anything: returns once it is sent away.
pub(crate) async fn falls_silent(address: SocketAddr) {
    let mut silent = TcpStream::connect(address).await.expect("it listens");
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    silent.write_all(greeting).await.expect("it reads");
    // However it ends, it ends.
    let _ = silent.read_to_end(&mut Vec::new()).await;
}
