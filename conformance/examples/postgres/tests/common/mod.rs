//! A PostgreSQL for the tests.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};
use tsoracle_core::{Clock, SystemClock};

/// How long to wait for what must come. It is there for what never does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a server, prints its process id, and ends it as a power loss does when the test's end of the pipe
/// closes, however the test ends: its processes exit at once, and what was not written yet is lost.
const KEEPER: &str = r#"exec 3<&0; "$@" </dev/null >/dev/null 2>>"$LOG" & child=$!; echo $child
cat <&3 >/dev/null; kill -QUIT $child; wait $child"#;

/// For servers that start often. A server that ends loses nothing that it has written, synced or not.
const UNSYNCED: &[&str] = &["-c", "fsync=off"];

/// How a server is started that listens at `address`, with its state in `directory`.
pub(crate) fn server(directory: &Path, address: SocketAddr) -> Command {
    let mut command = state(directory);
    command.args([address.ip().to_string(), address.port().to_string()]);
    command
}

fn state(directory: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres.sh")).arg(directory);
    command
}

/// The state that a server begins with, to be copied.
#[derive(Debug)]
pub(crate) struct Template(TempDir);

impl Template {
    pub(crate) fn new() -> Self {
        let directory = directory();
        let made = state(&directory.path().join("data")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(directory)
    }

    /// A server with a copy of it.
    pub(crate) async fn server(&self) -> Server {
        let directory = directory();
        let from = self.0.path().join("data");
        let copied = Command::new("cp").arg("-a").arg(from).arg(directory.path()).status();
        assert!(copied.unwrap().success(), "the state is not copied");
        Server::over(directory, UNSYNCED).await
    }
}

fn directory() -> TempDir {
    TempDir::with_prefix("tsoracle-postgres-").unwrap()
}

/// A server with a state of its own, both of which end with this.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    options: &'static [&'static str],
    running: Option<(Child, ChildStdin)>,
    directory: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::over(directory(), &[]).await
    }

    async fn over(directory: TempDir, options: &'static [&str]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut server = Self { address, options, running: None, directory };
        server.run().await;
        server
    }

    /// Has it lose what it has not written, and begin again.
    pub(crate) async fn lose_power(&mut self) {
        self.stop();
        self.run().await;
    }

    async fn run(&mut self) {
        let directory = self.directory.path();
        let program = server(&directory.join("data"), self.address);
        let log = directory.join("log");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(program.get_program())
            .args(program.get_args())
            .args(self.options)
            .env("LOG", &log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pipe = keeper.stdin.take().unwrap();
        self.running = Some((keeper, pipe));
        let until = SystemClock.now().boot + PATIENCE;
        while tokio_postgres::connect(&string(self.address), NoTls).await.is_err() {
            let runs = Path::new("/proc").join(pid.trim()).exists();
            let is_over = !runs || SystemClock.now().boot > until;
            assert!(!is_over, "{}", std::fs::read_to_string(log).unwrap());
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it, as a power loss does.
    pub(crate) fn stop(&mut self) {
        if let Some((mut keeper, pipe)) = self.running.take() {
            drop(pipe);
            keeper.wait().unwrap();
        }
    }

    /// A session that goes past every driver.
    pub(crate) async fn client(&self) -> Client {
        client(self.address).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) async fn client(address: SocketAddr) -> Client {
    let (client, connection) = tokio_postgres::connect(&string(address), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// How to connect to a server of the tests.
pub(crate) fn string(address: SocketAddr) -> String {
    format!("host={} port={} user=tsoracle dbname=postgres", address.ip(), address.port())
}
