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

/// Starts a server, prints its process id, and ends it when the test's end of the pipe closes, however the
/// test ends.
const KEEPER: &str = r#"exec 3<&0; "$@" </dev/null >/dev/null 2>"$LOG" & child=$!; echo $child
cat <&3 >/dev/null; kill -QUIT $child; wait $child"#;

/// How a server is started that listens at `address`, with its state in `directory`.
pub(crate) fn server(directory: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new("sh");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres.sh")).arg(directory);
    command.args([address.ip().to_string(), address.port().to_string()]);
    command
}

/// A server, which ends with this.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    keeper: Child,
    pipe: Option<ChildStdin>,
    _directory: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let directory = TempDir::with_prefix("tsoracle-postgres-").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let program = server(&directory.path().join("data"), address);
        let log = directory.path().join("log");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(program.get_program())
            .args(program.get_args())
            .env("LOG", &log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pipe = keeper.stdin.take();
        let server = Self { address, keeper, pipe, _directory: directory };
        let until = SystemClock.now().boot + PATIENCE;
        while tokio_postgres::connect(&string(address), NoTls).await.is_err() {
            let runs = Path::new("/proc").join(pid.trim()).exists();
            let is_over = !runs || SystemClock.now().boot > until;
            assert!(!is_over, "{}", std::fs::read_to_string(log).unwrap());
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
        server
    }

    /// A session that goes past every driver.
    pub(crate) async fn client(&self) -> Client {
        client(self.address).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.keeper.wait();
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
