//! What stands between a driver and the server, and can be cut. On threads of their own, so that neither a
//! busy runtime nor the end of one stops them.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Nothing passes, and nothing breaks: what was sent waits.
    Stalled,
    /// What is sent passes, what comes back waits.
    Muted,
    /// Whatever was connected is broken, and nothing connects any more.
    Closed,
}

/// Clones are the same one.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    mode: Mutex<Mode>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Passes on what comes to an address of its own.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, changed, streams) = (Mutex::new(Mode::Open), Condvar::new(), Mutex::default());
        let state = Arc::new(State { mode, changed, streams });
        let proxy = Self { address, state: state.clone() };
        thread::spawn(move || {
            while let Ok((here, _)) = listener.accept() {
                if !state.passes(false) {
                    return;
                }
                let Ok(there) = TcpStream::connect(server) else { continue };
                for stream in [&here, &there] {
                    stream.set_nodelay(true).unwrap();
                    state.streams.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let (from, back) = (here.try_clone().unwrap(), there.try_clone().unwrap());
                let (forth, same) = (state.clone(), state.clone());
                thread::spawn(move || forth.copy(from, there, false));
                thread::spawn(move || same.copy(back, here, true));
            }
        });
        proxy
    }

    pub(crate) fn stall(&self) {
        self.state.set(Mode::Stalled);
    }

    pub(crate) fn mute(&self) {
        self.state.set(Mode::Muted);
    }

    pub(crate) fn open(&self) {
        self.state.set(Mode::Open);
    }

    /// Breaks it for good.
    pub(crate) fn close(&self) {
        self.state.set(Mode::Closed);
        self.cut();
        // Has the listener notice, and end.
        let _ = TcpStream::connect(self.address);
    }

    /// Breaks whatever is connected.
    pub(crate) fn cut(&self) {
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
        self.changed.notify_all();
    }

    /// Waits while nothing passes. False if it is closed.
    fn passes(&self, back: bool) -> bool {
        let waits = |mode: &mut Mode| *mode == Mode::Stalled || (back && *mode == Mode::Muted);
        let mode = self.mode.lock().unwrap();
        *self.changed.wait_while(mode, waits).unwrap() != Mode::Closed
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, back: bool) {
        let mut buffer = [0; 16_384];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            if !self.passes(back) || to.write_all(&buffer[..bytes]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
