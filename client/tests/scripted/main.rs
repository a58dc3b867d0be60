//! The client against servers that follow a script.

#![allow(clippy::unwrap_used)]

mod discovery;
mod node;
mod ranges;
mod sequences;
mod shared;
mod state;
mod step;
mod streams;
mod threads;
mod tls;
mod waits;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tsoracle_client::{Client, ClientBuilder};

/// A client of these endpoints that soon tries the next one.
fn builder<const N: usize>(endpoints: [String; N]) -> ClientBuilder {
    Client::builder()
        .endpoints(endpoints)
        .timeout(Duration::from_secs(20))
        .attempt_timeout(Duration::from_millis(300))
}

fn client<const N: usize>(endpoints: [String; N]) -> Client {
    builder(endpoints).build().unwrap()
}

/// An address where no server listens.
async fn closed_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// Accepts connections and never answers on them.
async fn black_hole() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

/// Passes each new connection on to where it points then.
struct Balancer {
    address: SocketAddr,
    target: watch::Sender<SocketAddr>,
}

impl Balancer {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, pointed) = watch::channel(target);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *pointed.borrow();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(target).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { address, target }
    }

    fn point_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
}
