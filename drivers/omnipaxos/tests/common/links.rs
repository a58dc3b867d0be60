//! The network between the nodes of a test: a proxy per direction, which can be cut.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The way from one node to another. What is sent while it is cut waits, as in a network that has
/// lost a cable; connections stay.
pub(crate) struct Link {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
    target: Arc<watch::Sender<SocketAddr>>,
    /// Counts how often all connections were ended.
    breaks: Arc<watch::Sender<u32>>,
    accepting: JoinHandle<()>,
}

impl Link {
    pub(crate) async fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, target) = (watch::Sender::new(true), watch::Sender::new(target));
        let (open, target) = (Arc::new(open), Arc::new(target));
        let breaks = Arc::new(watch::Sender::new(0));
        let accepting =
            tokio::spawn(accept(listener, open.clone(), target.clone(), breaks.clone()));
        Self { address, open, target, breaks, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub(crate) fn break_connections(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    open: Arc<watch::Sender<bool>>,
    target: Arc<watch::Sender<SocketAddr>>,
    breaks: Arc<watch::Sender<u32>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (open, target, mut breaks) = (open.subscribe(), target.clone(), breaks.subscribe());
        connections.spawn(async move {
            tokio::select! {
                _ = breaks.changed() => {}
                _ = connect(stream, open, target) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(
    near: TcpStream,
    mut open: watch::Receiver<bool>,
    target: Arc<watch::Sender<SocketAddr>>,
) -> Option<()> {
    open.wait_for(|open| *open).await.ok()?;
    let target = *target.borrow();
    let far = TcpStream::connect(target).await.ok()?;
    near.set_nodelay(true).ok()?;
    far.set_nodelay(true).ok()?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // The end of either direction ends the connection.
    tokio::select! {
        () = pass(near_in, far_out, open.clone()) => {}
        () = pass(far_in, near_out, open) => {}
    }
    Some(())
}

async fn pass(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if open.wait_for(|open| *open).await.is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
