use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::{runtime::Builder, time::timeout};
use tsoracle_core::{
    ConsensusDriver, DriverConfig, Error, ErrorKind, LocalDriver, OpenContext, Registry, Result,
    SeqStore,
};

use crate::{Action, Config, Fixture, fixture::Shared};

/// The directory of a state that has not crashed.
const STATE: &str = "state";

/// How long a driver may take to stop when its check is over.
const STOPPING: Duration = Duration::from_secs(5);

type OpenStore = Arc<dyn Fn(&Path) -> Result<Box<dyn OpenedStore>> + Send + Sync>;
type ConfigOf = Arc<dyn Fn(&Path) -> String + Send + Sync>;
type Damage = Arc<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// The fixture of a driver that keeps its state in a directory, which one process owns.
///
/// Each check gets a directory of its own. A crash goes on with a copy of the directory, taken while
/// the driver is open: just what `kill -9` leaves.
///
/// ```no_run
/// use std::process::ExitCode;
/// use tsoracle_conformance::{Local, run};
///
/// fn main() -> ExitCode {
///     run(|| Local::config(|directory| format!("file:{}", directory.display())).fixture())
/// }
/// ```
#[derive(Clone, Default)]
pub struct Local {
    config: Option<ConfigOf>,
    store: Option<OpenStore>,
    damage: Option<Damage>,
    registry: Option<Registry>,
    forgets: bool,
}

impl Local {
    /// Opens the driver by the config string of a directory, from the drivers linked in.
    pub fn config(string: impl Fn(&Path) -> String + Send + Sync + 'static) -> Self {
        Self { config: Some(Arc::new(string)), ..Self::default() }
    }

    /// Opens a store in a directory, and wraps it in a [`LocalDriver`].
    pub fn store<S: SeqStore>(open: impl Fn(&Path) -> Result<S> + Send + Sync + 'static) -> Self {
        Self::default().with_store(open)
    }

    /// Lets the suite look at the store itself, below the driver.
    #[must_use]
    pub fn with_store<S: SeqStore>(
        mut self,
        open: impl Fn(&Path) -> Result<S> + Send + Sync + 'static,
    ) -> Self {
        self.store = Some(Arc::new(move |directory| Ok(Box::new(open(directory)?))));
        self
    }

    /// Damages what a driver left in a directory, as a bad disk would.
    #[must_use]
    pub fn with_damage(
        mut self,
        damage: impl Fn(&Path) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.damage = Some(Arc::new(damage));
        self
    }

    /// Says that the driver keeps nothing when it stops.
    #[must_use]
    pub fn that_forgets(mut self) -> Self {
        self.forgets = true;
        self
    }

    /// Looks for the driver in `registry` instead of those linked in.
    #[must_use]
    pub fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }
}

impl Local {
    /// A fixture in a directory of its own.
    pub fn fixture(&self) -> Fixture {
        let keeps = !self.forgets;
        let directory = Shared::new(Directory {
            local: self.clone(),
            temporary: None,
            state: PathBuf::new(),
            generation: 0,
            opened: vec![],
            crashed: vec![],
        });
        Fixture {
            reopens: keeps,
            locks: keeps,
            crash: keeps.then(|| directory.action(|directory, ()| Box::pin(directory.crash()))),
            damage: self.damage.clone().map(|damage| {
                directory.action(move |directory, ()| {
                    let damaged = directory.state().and_then(|state| Ok(damage(&state)?));
                    Box::pin(async { damaged })
                })
            }),
            store: self.store.clone().map(|open| {
                directory.action(move |directory, ()| {
                    let opened = directory.state().and_then(|state| Ok(open(&state)?.into_store()));
                    Box::pin(async { opened })
                })
            }),
            config: self.config.clone().map(|config| -> Action<(), Config> {
                directory.action(move |directory, ()| {
                    let string = directory.state().map(|state| config(&state));
                    Box::pin(async { Ok(Config { string: string?, service_endpoint: None }) })
                })
            }),
            process: keeps && self.config.is_some(),
            registry: self.registry.clone(),
            ..Fixture::new(directory.action(|directory, ()| Box::pin(directory.open())))
        }
    }
}

/// A directory with the state of a driver.
struct Directory {
    local: Local,
    /// Made when it is first needed.
    temporary: Option<TempDir>,
    /// The first one, or the copy that the last crash left.
    state: PathBuf,
    generation: u32,
    /// What crashed is neither stopped nor dropped before the check has ended.
    opened: Vec<Arc<dyn ConsensusDriver>>,
    crashed: Vec<Arc<dyn ConsensusDriver>>,
}

impl Directory {
    fn state(&mut self) -> Result<PathBuf> {
        if self.temporary.is_none() {
            let root = TempDir::new()?;
            self.state = root.path().join(STATE);
            fs::create_dir(&self.state)?;
            self.temporary = Some(root);
        }
        Ok(self.state.clone())
    }

    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        let state = self.state()?;
        let driver = match (&self.local.config, &self.local.store) {
            (Some(config), _) => {
                let config = DriverConfig::parse(&config(&state))?;
                let registry = self.local.registry.clone().map_or_else(Registry::linked, Ok)?;
                registry.open(config, OpenContext::default()).await?
            }
            (None, Some(open)) => open(&state)?.wrap().await?,
            (None, None) => {
                return Err(Error::new(ErrorKind::Config, "there is no driver to open"));
            }
        };
        self.opened.push(driver.clone());
        Ok(driver)
    }

    async fn crash(&mut self) -> Result<()> {
        self.generation += 1;
        let copy = self.state()?.with_file_name(format!("after-crash-{}", self.generation));
        copy_directory(&self.state, &copy)?;
        self.state = copy;
        self.crashed.append(&mut self.opened);
        Ok(())
    }
}

/// Once the check is over, everything is stopped and waited for: a store that is still closing while
/// the process ends may bring it down.
impl Drop for Directory {
    fn drop(&mut self) {
        let drivers: Vec<_> = self.opened.drain(..).chain(self.crashed.drain(..)).collect();
        let stopping = thread::spawn(move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                for driver in drivers {
                    // What it ends with is of no interest any more.
                    let _ = timeout(STOPPING, driver.shutdown()).await;
                }
            });
            runtime.shutdown_background();
        });
        // A panic in a driver has been seen by the check already.
        let _ = stopping.join();
    }
}

/// How often a copy is begun again.
const COPIES: usize = 10;

/// Copies a directory whose store may be at work. A file that was listed may be gone when it is copied, since a
/// store clears away what it does not need any more: then the copy is begun again.
fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    for _ in 1..COPIES {
        match try_copy(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir_all(to)?,
            copied => return copied,
        }
    }
    try_copy(from, to)
}

fn try_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => try_copy(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

/// A store whose type is not known any more, but was when this was made.
#[async_trait]
trait OpenedStore: Send {
    async fn wrap(self: Box<Self>) -> Result<Arc<dyn ConsensusDriver>>;
    fn into_store(self: Box<Self>) -> Box<dyn SeqStore>;
}

#[async_trait]
impl<S: SeqStore> OpenedStore for S {
    async fn wrap(self: Box<Self>) -> Result<Arc<dyn ConsensusDriver>> {
        Ok(LocalDriver::open(*self).await?)
    }

    fn into_store(self: Box<Self>) -> Box<dyn SeqStore> {
        self
    }
}
