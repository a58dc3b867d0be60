//! etcd processes, and proxies before them.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod frames;
pub(crate) mod liar;
pub(crate) mod node;
pub(crate) mod service;

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;
use tsoracle_core::{Clock, SystemClock};
use tsoracle_testbed::proxy::{Filter, Proxy};

/// How long to wait for what must come. It is there for what never does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs etcd, says its process id, and kills it when the test's end of the pipe closes, however the
/// test ends.
const KEEPER: &str = r#"exec 3<&0; "$@" </dev/null >/dev/null 2>"$TSORACLE_ETCD_LOG" & child=$!; echo $child; cat <&3 >/dev/null; kill -9 $child 2>/dev/null; wait $child 2>/dev/null"#;

/// Without etcd a test has not run, and must not look as if it had.
fn require_etcd() {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    let is_there = IS_THERE.get_or_init(|| {
        Command::new("etcd").arg("--version").output().is_ok_and(|out| out.status.success())
    });
    assert!(is_there, "there is no etcd; Debian's package etcd-server has it");
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn member(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A proxy before the member at `port`.
pub(crate) fn proxy_to(port: u16) -> Proxy {
    Proxy::to(member(port)).unwrap()
}

/// A proxy that keeps back that a request was given up: it arrives as if its sender still waited for the
/// answer.
pub(crate) fn proxy_that_gives_nothing_up(port: u16) -> Proxy {
    let filter = || {
        let mut frames = frames::Frames::default();
        Box::new(move |bytes: &[u8]| frames.without_resets(bytes)) as Filter
    };
    Proxy::filtering(member(port), filter).unwrap()
}

/// A member of an etcd cluster: a process with a directory of its own.
pub(crate) struct Member {
    pub(crate) port: u16,
    peer_port: u16,
    directory: PathBuf,
    extra: Vec<String>,
    keeper: Option<(Child, ChildStdin, u32)>,
}

/// An etcd cluster, which ends with this.
pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
    _directory: TempDir,
}

impl Etcd {
    /// One member, with these options besides, in plain text.
    pub(crate) async fn single(extra: &[String]) -> Self {
        Self::start(1, extra).await
    }

    /// So many members, of which a majority answers.
    pub(crate) async fn start(count: usize, extra: &[String]) -> Self {
        // A port that is not free any more shows in a member that ends.
        for _ in 0..10 {
            let etcd = Self::launch(count, extra);
            if extra.is_empty() && !etcd.answers().await {
                continue;
            }
            return etcd;
        }
        panic!("etcd does not start")
    }

    fn launch(count: usize, extra: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut members: Vec<_> = (0..count)
            .map(|index| Member {
                port: free_port(),
                peer_port: free_port(),
                directory: directory.path().join(format!("m{index}")),
                extra: extra.to_vec(),
                keeper: None,
            })
            .collect();
        let cluster: Vec<_> = members
            .iter()
            .enumerate()
            .map(|(index, member)| format!("m{index}=http://127.0.0.1:{}", member.peer_port))
            .collect();
        for (index, member) in members.iter_mut().enumerate() {
            member.extra.extend([
                format!("--name=m{index}"),
                format!("--initial-cluster={}", cluster.join(",")),
            ]);
            member.start();
        }
        Self { members, _directory: directory }
    }

    async fn answers(&self) -> bool {
        let until = SystemClock.now().boot + PATIENCE;
        let mut client = self.client().await;
        while SystemClock.now().boot < until {
            if client.get("any", None).await.is_ok() {
                return true;
            }
            SystemClock.sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// The members, as a config string names them.
    pub(crate) fn authority(&self) -> String {
        let members: Vec<_> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        members.join(",")
    }

    /// A client that goes past every driver.
    pub(crate) async fn client(&self) -> Client {
        client(self.members[0].port).await
    }
}

pub(crate) async fn client(port: u16) -> Client {
    let options = ConnectOptions::new().with_timeout(Duration::from_secs(5));
    Client::connect([format!("http://127.0.0.1:{port}")], Some(options)).await.unwrap()
}

impl Member {
    pub(crate) fn start(&mut self) {
        require_etcd();
        let scheme = if self.extra.iter().any(|option| option.starts_with("--cert-file")) {
            "https"
        } else {
            "http"
        };
        let (client, peer) = (
            format!("{scheme}://127.0.0.1:{}", self.port),
            format!("http://127.0.0.1:{}", self.peer_port),
        );
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh", "etcd"])
            .arg(format!("--data-dir={}", self.directory.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .args(["--heartbeat-interval=100", "--election-timeout=1000"])
            .args(&self.extra)
            .env("TSORACLE_ETCD_LOG", self.directory.with_extension("log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let stdin = keeper.stdin.take().unwrap();
        self.keeper = Some((keeper, stdin, line.trim().parse().unwrap()));
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some((mut keeper, stdin, _)) = self.keeper.take() {
            drop(stdin);
            keeper.wait().unwrap();
        }
    }

    /// Adds an option, from the next start on.
    pub(crate) fn option(&mut self, option: &str) {
        self.extra.push(option.into());
    }

    /// Kills it, and has it forget everything.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.directory).unwrap();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let (.., pid) = self.keeper.as_ref().unwrap();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
        assert!(sent.unwrap().success(), "{name} was not sent to {pid}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
