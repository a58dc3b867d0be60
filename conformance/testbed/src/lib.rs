//! Clusters whose nodes are processes: `tsoracle serve`, killed, paused and cut off for real.
//!
//! A test program of its own, without cargo's harness, names the drivers and [runs](run) the checks of
//! clusters over each. Where the system lets it (Linux, as root or with user namespaces), the program
//! runs itself again in namespaces of its own: each node gets a network with one link to its peers and
//! another one to its clients, nothing outside is touched, and all that was started ends with the
//! program however that ends. Elsewhere nodes are on loopback, and cannot be cut off.

#![allow(clippy::print_stderr, reason = "it is part of test programs")]

mod clock;
mod cluster;
mod deployed;
mod disk;
mod network;
mod node;
pub mod proxy;
mod remote;
mod sandbox;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use tsoracle_conformance::Cluster;
use tsoracle_core::{Error, ErrorKind};

pub use clock::WallClock;
pub use deployed::{BackingService, Site};
pub use disk::FaultyDisk;
pub use sandbox::enter as enter_sandbox;

/// How many clusters there are at once, unless set otherwise.
const AT_ONCE: usize = 2;

type ConfigOf = Arc<dyn Fn(&Site, usize) -> String + Send + Sync>;
type ServiceOf = Arc<dyn Fn(&Site, usize) -> BackingService + Send + Sync>;

/// How a driver is started whose nodes are processes.
#[derive(Clone)]
pub struct Processes {
    name: String,
    binary: PathBuf,
    config: ConfigOf,
    backing_services: Option<Services>,
    state_file: Option<String>,
    hung_files: Vec<HungFiles>,
    has_members: bool,
    has_doubles: bool,
}

/// Calls of a node to its files that can be made to hang.
#[derive(Clone, Copy, Debug)]
pub struct HungFiles {
    /// What is said of it.
    pub word: &'static str,
    /// Which calls, a letter each: open, read, write, sync, truncate, move, delete.
    pub operations: &'static str,
    /// What is in the names of these files, below the directory of the node; `*` is in all.
    pub name: &'static str,
    /// Whether a node that writes much can commit nothing more then, soon.
    pub ends_commits: bool,
}

/// Programs beside the nodes.
#[derive(Clone)]
struct Services {
    count: usize,
    ports: usize,
    one: ServiceOf,
}

/// Runs the checks of clusters over each driver, as the whole of a test program.
///
/// In the crate's `Cargo.toml` the test is given `harness = false`.
pub fn run(drivers: impl IntoIterator<Item = Processes>) -> ExitCode {
    let drivers = drivers.into_iter();
    let clusters = drivers.map(|driver| (driver.name.clone(), move || driver.cluster()));
    tsoracle_conformance::run_clusters(clusters, AT_ONCE, enter_sandbox)
}

impl Processes {
    /// Nodes that run `binary`, each with the config string that it is given by its number.
    pub fn new(
        name: &str,
        binary: impl AsRef<Path>,
        config: impl Fn(&Site, usize) -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            binary: binary.as_ref().into(),
            config: Arc::new(config),
            backing_services: None,
            state_file: None,
            hung_files: vec![],
            has_members: false,
            has_doubles: false,
        }
    }

    /// How the name of the file begins, anywhere below a node's directory, that a node syncs before it
    /// acknowledges anything. With that, the disks of nodes can be made to hang.
    #[must_use]
    pub fn with_state_file(mut self, name: &str) -> Self {
        self.state_file = Some(name.into());
        self
    }

    /// What of the files of a node with a [state file](Self::with_state_file) is to hang.
    #[must_use]
    pub fn with_hung_files(mut self, kinds: impl IntoIterator<Item = HungFiles>) -> Self {
        self.hung_files = kinds.into_iter().collect();
        self
    }

    /// Programs that run beside the nodes for as long as these do: `count` of them, numbered from 0, with
    /// `ports` addresses each. A node that is cut off reaches none of them. Of three or more, the
    /// nodes must be able to spare any one.
    #[must_use]
    pub fn with_backing_services(
        mut self,
        count: usize,
        ports: usize,
        one: impl Fn(&Site, usize) -> BackingService + Send + Sync + 'static,
    ) -> Self {
        self.backing_services = Some(Services { count, ports, one: Arc::new(one) });
        self
    }

    /// A node can be started a second time, beside itself: its config says where that one
    /// [listens](Site::double).
    #[must_use]
    pub fn with_doubles(mut self) -> Self {
        self.has_doubles = true;
        self
    }

    /// The driver's members can be changed while it runs, which transfers leadership as well. A node that comes
    /// in the place of another one has another [id](Site::id), and [joins](Site::joins).
    #[must_use]
    pub fn with_members(mut self) -> Self {
        self.has_members = true;
        self
    }

    /// What the driver is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A cluster of such nodes, none of which runs yet.
    pub fn cluster(&self) -> Cluster {
        cluster::cluster(self)
    }
}

/// What this fixture itself could not do.
fn failed(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Fatal, what.to_string())
}
