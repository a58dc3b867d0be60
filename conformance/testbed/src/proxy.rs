//! A TCP proxy that can be cut, hang, delay and refuse: what stands between a driver and the service it
//! rests on.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tsoracle_core::{BootTime, Clock, SystemClock};

/// How many reads of one direction may be under way, delayed or held back, before the sender is.
const CHUNKS: usize = 256;
const CHUNK_BYTES: usize = 16 << 10;

/// How long to wait for a change of the rules before looking at them again.
const A_WHILE: Duration = Duration::from_secs(60);

/// Rewrites what clients send: the bytes that come in, and those to pass on instead.
pub type Filter = Box<dyn FnMut(&[u8]) -> Vec<u8> + Send>;

/// Passes on what comes to an address of its own, until it is dropped.
///
/// It runs on threads of its own, so that neither a busy runtime nor the end of one stops it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// What takes connections, unless they are refused.
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy)]
enum Direction {
    /// From clients to the server.
    Forth,
    /// From the server to clients.
    Back,
}

/// What happens to what comes, by direction.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    hang: [bool; 2],
    delay: [Duration; 2],
    refuse: bool,
    /// For good.
    closed: bool,
}

struct Shared {
    server: SocketAddr,
    filter: Box<dyn Fn() -> Option<Filter> + Send + Sync>,
    rules: Mutex<Rules>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    answered: AtomicU64,
}

impl Proxy {
    /// A proxy before `server`, on a free port of the loopback address.
    ///
    /// # Errors
    ///
    /// There is no free port.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        Self::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, server, Box::new(|| None))
    }

    /// As [`to`](Self::to), at `address`.
    ///
    /// # Errors
    ///
    /// The address is taken.
    pub fn at(address: SocketAddr, server: SocketAddr) -> io::Result<Self> {
        Self::start(TcpListener::bind(address)?, server, Box::new(|| None))
    }

    /// As [`to`](Self::to), with a filter of its own for each connection.
    ///
    /// # Errors
    ///
    /// There is no free port.
    pub fn filtering(
        server: SocketAddr,
        filter: impl Fn() -> Filter + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let filter = Box::new(move || Some(filter()));
        Self::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, server, filter)
    }

    fn start(
        listener: TcpListener,
        server: SocketAddr,
        filter: Box<dyn Fn() -> Option<Filter> + Send + Sync>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (rules, changed, streams, answered) = Default::default();
        let shared = Arc::new(Shared { server, filter, rules, changed, streams, answered });
        let listening = Mutex::new(Some(shared.clone().listen(listener)));
        Ok(Self { address, shared, listening })
    }

    /// Where clients connect to it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes everything at once again, and takes connections, unless it was [closed](Self::close).
    ///
    /// # Panics
    ///
    /// Connections were refused, and another process has taken the port meanwhile.
    pub fn open(&self) {
        let closed = self.shared.set(|rules| {
            *rules = Rules { closed: rules.closed, refuse: rules.closed, ..Rules::default() };
        });
        let mut listening = lock(&self.listening);
        if !closed && listening.is_none() {
            let listener = TcpListener::bind(self.address).expect("the proxy's port is still free");
            *listening = Some(self.shared.clone().listen(listener));
        }
    }

    /// Nothing passes and nothing breaks: what is sent waits, and so do new connections.
    pub fn hang(&self) {
        self.shared.set(|rules| rules.hang = [true, true]);
    }

    /// What clients send passes, and what comes back waits.
    pub fn hang_answers(&self) {
        self.shared.set(|rules| rules.hang = [false, true]);
    }

    /// Passes everything that much later: what clients send, and what comes back.
    pub fn delay(&self, forth: Duration, back: Duration) {
        self.shared.set(|rules| rules.delay = [forth, back]);
    }

    /// Refuses new connections. Those that are there go on.
    pub fn refuse(&self) {
        self.shared.set(|rules| rules.refuse = true);
        if let Some(listening) = lock(&self.listening).take() {
            // Has the thread notice. It cannot fail otherwise than by being refused.
            let _ = TcpStream::connect(self.address);
            // One that panicked listens no more.
            let _ = listening.join();
        }
    }

    /// Breaks whatever is connected.
    pub fn cut(&self) {
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Breaks whatever is connected and refuses new connections, for good.
    pub fn close(&self) {
        self.shared.set(|rules| rules.closed = true);
        self.refuse();
        self.cut();
    }

    /// How many bytes came back through it.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Whether it is closed.
    fn set(&self, change: impl FnOnce(&mut Rules)) -> bool {
        let mut rules = lock(&self.rules);
        change(&mut rules);
        self.changed.notify_all();
        rules.closed
    }

    fn listen(self: Arc<Self>, listener: TcpListener) -> JoinHandle<()> {
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let rules = lock(&self.rules);
                let waits =
                    |rules: &mut Rules| rules.hang[Direction::Forth as usize] && !rules.refuse;
                let rules = self.changed.wait_while(rules, waits);
                if rules.unwrap_or_else(PoisonError::into_inner).refuse {
                    return;
                }
                // A client whose server is not there is disconnected.
                let _ = self.clone().connect(client);
            }
        })
    }

    fn connect(self: Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            lock(&self.streams).push(stream.try_clone()?);
        }
        let (requests, answers) = (client.try_clone()?, server.try_clone()?);
        self.clone().pass(requests, server, (self.filter)(), Direction::Forth);
        self.pass(answers, client, None, Direction::Back);
        Ok(())
    }

    /// Reads and writes on a thread each, so that what is delayed does not keep the next from coming.
    fn pass(
        self: Arc<Self>,
        from: TcpStream,
        to: TcpStream,
        filter: Option<Filter>,
        direction: Direction,
    ) {
        let (sender, receiver) = sync_channel(CHUNKS);
        let Ok(reading) = from.try_clone() else { return };
        thread::spawn(move || read(reading, &sender, filter));
        thread::spawn(move || {
            self.write(&to, &receiver, direction);
            for stream in [from, to] {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    fn write(&self, mut to: &TcpStream, chunks: &Receiver<Chunk>, direction: Direction) {
        for chunk in chunks {
            if !self.wait_until_due(chunk.read_at, direction) {
                return;
            }
            if matches!(direction, Direction::Back) {
                self.answered.fetch_add(chunk.bytes.len() as u64, Ordering::AcqRel);
            }
            if to.write_all(&chunk.bytes).is_err() {
                return;
            }
        }
    }

    /// Waits while this direction hangs, and for its delay. False once the proxy is closed.
    fn wait_until_due(&self, read_at: BootTime, direction: Direction) -> bool {
        let mut rules = lock(&self.rules);
        loop {
            if rules.closed {
                return false;
            }
            let waited = SystemClock.now().boot.since(read_at);
            let left = rules.delay[direction as usize].saturating_sub(waited);
            let hangs = rules.hang[direction as usize];
            if !hangs && left.is_zero() {
                return true;
            }
            let left = if hangs { A_WHILE } else { left };
            rules =
                self.changed.wait_timeout(rules, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What was read at once.
struct Chunk {
    read_at: BootTime,
    bytes: Vec<u8>,
}

fn read(mut from: TcpStream, to: &SyncSender<Chunk>, mut filter: Option<Filter>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = match &mut filter {
            Some(filter) => filter(&buffer[..count]),
            None => buffer[..count].to_vec(),
        };
        if to.send(Chunk { read_at: SystemClock.now().boot, bytes }).is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("server", &self.server).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "proxy_test.rs"]
mod proxy_test;
