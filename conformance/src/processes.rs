//! Clusters whose nodes are processes: `tsoracle serve`, killed, paused and cut off for real.
//!
//! A test program of its own, without cargo's harness, names the drivers and [runs](run) the checks of
//! clusters over each. Where the system lets it (Linux, as root or with user namespaces), the program
//! runs itself anew in namespaces of its own: each node gets a network with one link to its peers and
//! another one to its clients, nothing outside is touched, and all that was started ends with the
//! program however that ends. Elsewhere nodes are on loopback, and cannot be cut off.

mod cluster;
mod deployed;
mod disk;
mod network;
mod node;
mod remote;
mod sandbox;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use async_trait::async_trait;
use libtest_mimic::{Arguments, Trial};
use tsoracle_core::{ConsensusDriver, Error, ErrorKind, Result};

use crate::{Ability, Check, Cluster, Harness, Place, suite::trial};

pub use deployed::{Companion, Site};
pub use sandbox::enter as enter_sandbox;

/// How many clusters there are at once, unless told otherwise.
const AT_ONCE: usize = 2;

/// How often a cluster on loopback is tried, whose ports were free when they were looked for.
const ATTEMPTS: usize = 3;

type ConfigOf = Arc<dyn Fn(&Site, usize) -> String + Send + Sync>;
type CompanionOf = Arc<dyn Fn(&Site, usize) -> Companion + Send + Sync>;

/// The harness of a driver whose nodes are processes.
#[derive(Clone)]
pub struct Processes {
    name: String,
    binary: PathBuf,
    config: ConfigOf,
    companions: Option<Companions>,
    state_file: Option<String>,
    has_members: bool,
}

/// Programs beside the nodes.
#[derive(Clone)]
struct Companions {
    count: usize,
    ports: usize,
    one: CompanionOf,
}

/// Runs the checks of clusters over each driver, as the whole of a test program.
///
/// In the crate's `Cargo.toml` the test is given `harness = false`.
pub fn run(drivers: impl IntoIterator<Item = Processes>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list {
        enter_sandbox();
    }
    arguments.test_threads.get_or_insert(AT_ONCE);
    let trials = drivers.into_iter().flat_map(Processes::trials).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
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
            companions: None,
            state_file: None,
            has_members: false,
        }
    }

    /// Tells what the name of the file begins with, anywhere below a node's directory, that a node syncs
    /// before it acknowledges anything. With that, the disks of nodes can be made to hang.
    #[must_use]
    pub fn with_state_file(mut self, name: &str) -> Self {
        self.state_file = Some(name.into());
        self
    }

    /// So many programs that run beside the nodes for as long as these do, each by its number and
    /// with so many addresses. A node that is cut off reaches none of them. Of three or more, the
    /// nodes must be able to spare any one.
    #[must_use]
    pub fn with_companions(
        mut self,
        count: usize,
        ports: usize,
        one: impl Fn(&Site, usize) -> Companion + Send + Sync + 'static,
    ) -> Self {
        self.companions = Some(Companions { count, ports, one: Arc::new(one) });
        self
    }

    /// The driver's members can be changed while it runs, which hands the lead over as well.
    #[must_use]
    pub fn with_members(mut self) -> Self {
        self.has_members = true;
        self
    }

    /// What the driver is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn trials(self) -> Vec<Trial> {
        let harness: Arc<dyn Harness> = Arc::new(self.clone());
        let checks = Check::all().into_iter().filter(|check| check.area() == "cluster");
        checks
            .map(|check| trial(format!("{}::{}", self.name, check.name()), check, harness.clone()))
            .collect()
    }
}

#[async_trait]
impl Harness for Processes {
    fn lacks(&self, ability: Ability) -> Option<String> {
        match ability {
            Ability::Cluster | Ability::Pause | Ability::Wipe | Ability::Client => None,
            Ability::Partition => sandbox::lacking().map(Into::into),
            Ability::HangDisk if self.state_file.is_none() => {
                Some("the nodes keep no state of their own".into())
            }
            Ability::HangDisk => disk::lacking().map(Into::into),
            Ability::Transfer => {
                (!self.has_members).then(|| "its members cannot be changed".into())
            }
            Ability::Companion if self.companions.as_ref().is_some_and(|all| all.count >= 3) => {
                None
            }
            Ability::Companion => Some("the nodes rest on nothing else of which one can go".into()),
            _ => Some("the driver is in other processes".into()),
        }
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(Elsewhere))
    }

    async fn cluster(&self, nodes: usize) -> Result<Box<dyn Cluster>> {
        let mut attempts = if sandbox::is_inside() { 1 } else { ATTEMPTS };
        loop {
            attempts -= 1;
            match cluster::Processes::start(self, nodes).await {
                Ok(cluster) => return Ok(Box::new(cluster)),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// Where no driver can be opened.
struct Elsewhere;

#[async_trait]
impl Place for Elsewhere {
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        Err(Error::new(ErrorKind::Config, "drivers are opened by the nodes only"))
    }
}

/// What this rig itself could not do.
fn failed(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Fatal, what.to_string())
}
