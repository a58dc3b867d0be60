//! The service of a node, as contenders probe it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tsoracle_testbed::proxy::Proxy;

/// What an HTTP/2 server says first: empty settings.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// A service behind a proxy of its own. Its threads last as long as the test program.
pub(crate) struct Service {
    pub(crate) proxy: Proxy,
    asked: Arc<AtomicU64>,
}

impl Service {
    /// Answers contenders on `port` if it is free, or on another one.
    pub(crate) fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        let proxy = Proxy::at(super::member(port), server);
        let proxy = proxy.or_else(|_| Proxy::to(server)).unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let counter = asked.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let counter = counter.clone();
                thread::spawn(move || {
                    if answer(stream).is_ok() {
                        counter.fetch_add(1, Ordering::AcqRel);
                    }
                });
            }
        });
        Self { proxy, asked }
    }

    pub(crate) fn port(&self) -> u16 {
        self.proxy.address().port()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.proxy.address().to_string()
    }

    /// How many contenders have got an answer.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }
}

fn answer(mut contender: TcpStream) -> std::io::Result<()> {
    // The beginning of what it sends is enough, and it closes once it has read the answer.
    let _ = contender.read(&mut [0; 64])?;
    contender.write_all(SETTINGS)?;
    let _ = contender.read(&mut [0; 64])?;
    Ok(())
}
