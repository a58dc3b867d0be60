//! What stands between a driver and the rest of the world, and can be cut: a proxy before a member of
//! etcd, and a service that answers contenders. On threads of their own, so that neither a busy runtime
//! nor the end of one stops them.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// What an HTTP/2 server says first: empty settings.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Open,
    /// Nothing passes, and nothing breaks: what was sent waits.
    Stalled,
    /// What is sent passes, what comes back waits.
    Muted,
    /// Whatever was connected is broken, and nothing connects any more.
    Closed,
}

/// A proxy or a service. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    mode: Mutex<Mode>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    /// How many bytes came back.
    answered: AtomicU64,
    /// How many questions were answered.
    asked: AtomicU64,
}

impl Line {
    /// Passes on what comes to a port of its own.
    pub(crate) fn to(upstream: u16) -> Self {
        Self::pass_on(upstream, || None)
    }

    /// As [`to`](Self::to), but keeps back that a request was given up: it arrives as if its sender still
    /// waited for the answer.
    pub(crate) fn that_gives_nothing_up(upstream: u16) -> Self {
        Self::pass_on(upstream, || Some(Frames::default()))
    }

    fn pass_on(upstream: u16, frames: fn() -> Option<Frames>) -> Self {
        Self::listen(0, move |state, stream| {
            let upstream = SocketAddr::from(([127, 0, 0, 1], upstream));
            let Ok(there) = TcpStream::connect(upstream) else { return };
            stream.set_nodelay(true).unwrap();
            there.set_nodelay(true).unwrap();
            state.keep(&stream);
            state.keep(&there);
            let (from, back) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
            let (forth, mine) = (there, stream);
            let requests = state.clone();
            thread::spawn(move || requests.copy(from, forth, frames(), false));
            thread::spawn(move || state.copy(back, mine, None, true));
        })
    }

    /// Answers contenders as a service does, on `port` if it is free, or on another one.
    pub(crate) fn service(port: u16) -> Self {
        Self::listen(port, |state, mut stream| {
            state.keep(&stream);
            thread::spawn(move || {
                if stream.read(&mut [0; 64]).is_ok() && state.passes(true) {
                    let _ = stream.write_all(SETTINGS);
                    // The contender closes once it has read that.
                    let _ = stream.read(&mut [0; 64]);
                    state.asked.fetch_add(1, Ordering::AcqRel);
                }
            });
        })
    }

    fn listen(port: u16, serve: impl Fn(Arc<State>, TcpStream) + Send + 'static) -> Self {
        let bind = |port| TcpListener::bind(("127.0.0.1", port));
        let listener = bind(port).or_else(|_| bind(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            mode: Mutex::new(Mode::Open),
            changed: Condvar::new(),
            streams: Mutex::default(),
            answered: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        });
        let line = Self { port, state: state.clone() };
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // Connections that come while it is stalled wait as well.
                if !state.passes(false) {
                    return;
                }
                serve(state.clone(), stream);
            }
        });
        line
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
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Has the listener see it, and go.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }

    /// How many contenders have got an answer.
    pub(crate) fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::Acquire)
    }

    /// How many bytes came back through it.
    pub(crate) fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Acquire)
    }
}

impl State {
    fn set(&self, mode: Mode) {
        let mut now = self.mode.lock().unwrap();
        if *now != Mode::Closed {
            *now = mode;
        }
        self.changed.notify_all();
    }

    /// Waits while it is stalled. False if it is closed.
    fn passes(&self, back: bool) -> bool {
        let waits = |mode: &mut Mode| *mode == Mode::Stalled || (back && *mode == Mode::Muted);
        let mode = self.mode.lock().unwrap();
        *self.changed.wait_while(mode, waits).unwrap() != Mode::Closed
    }

    fn keep(&self, stream: &TcpStream) {
        self.streams.lock().unwrap().push(stream.try_clone().unwrap());
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, mut frames: Option<Frames>, back: bool) {
        let mut buffer = [0; 16_384];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            let passed = match &mut frames {
                None => buffer[..bytes].to_vec(),
                Some(frames) => frames.without_resets(&buffer[..bytes]),
            };
            if !self.passes(back) || to.write_all(&passed).is_err() {
                break;
            }
            if back {
                self.answered.fetch_add(bytes as u64, Ordering::AcqRel);
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// The frames of what an HTTP/2 client sends.
#[derive(Default)]
struct Frames {
    greeted: bool,
    rest: Vec<u8>,
}

impl Frames {
    /// The whole frames there are by now, but for those that reset a stream.
    fn without_resets(&mut self, bytes: &[u8]) -> Vec<u8> {
        const GREETING: usize = 24;
        const HEADER: usize = 9;
        const RST_STREAM: u8 = 3;
        self.rest.extend_from_slice(bytes);
        let mut passed = Vec::new();
        if !self.greeted && self.rest.len() >= GREETING {
            self.greeted = true;
            passed.extend(self.rest.drain(..GREETING));
        }
        while self.greeted && self.rest.len() >= HEADER {
            let length = u32::from_be_bytes([0, self.rest[0], self.rest[1], self.rest[2]]) as usize;
            if self.rest.len() < HEADER + length {
                break;
            }
            let is_reset = self.rest[3] == RST_STREAM;
            let frame = self.rest.drain(..HEADER + length);
            if !is_reset {
                passed.extend(frame);
            }
        }
        passed
    }
}
