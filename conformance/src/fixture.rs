use std::{fmt, future::Future, pin::Pin, sync::Arc};

use tokio::sync::Mutex;
use tsoracle_core::{ConsensusDriver, Registry, Result, SeqStore};

/// The future of an [`Action`].
pub type Acting<'a, O> = Pin<Box<dyn Future<Output = Result<O>> + Send + 'a>>;

/// How the suite gets at a driver: a state of its own, and what can be done with it.
///
/// Each check has one of its own, made by the function that [`run`](crate::run) is given. What is not
/// there is what this fixture cannot do: the checks that need it are named at the end of the output as
/// skipped. Authors of a driver that keeps its state in a directory use [`Local`](crate::Local) instead.
///
/// ```
/// use tsoracle_conformance::{Action, Fixture};
/// use tsoracle_core::{LocalDriver, MemoryStore};
///
/// let open = Action::new(|()| Box::pin(async {
///     Ok(LocalDriver::open(MemoryStore::default()).await? as _)
/// }));
/// let fixture = Fixture { reopens: false, ..Fixture::new(open) };
/// assert!(fixture.crash.is_none());
/// ```
#[derive(Debug)]
pub struct Fixture {
    /// Opens a driver: over nothing at first, later over what is there. While one is open already,
    /// a contender.
    pub open: Action<(), Arc<dyn ConsensusDriver>>,
    /// What a driver left when it was shut down is there when the next one opens.
    pub reopens: bool,
    /// A driver keeps any other out for as long as it lives.
    pub locks: bool,
    /// Several drivers may be open at once, of which one leads.
    pub contends: bool,
    /// Ends all open drivers as `kill -9` would: no shutdown, nothing flushed. They may be leaked, but
    /// not asked to do anything.
    pub crash: Option<Action>,
    /// As `crash`, and loses what was not synced.
    pub lose_power: Option<Action>,
    /// Cuts the driver with the given number, counted from 0 since the last crash, off from
    /// everything else; begins once it does not lead any more as far as the others can tell.
    pub cut_off: Option<Fault<usize>>,
    /// Has what the driver with that number sends arrive and be carried out, and keeps the answers back.
    pub lose_answers: Option<Fault<usize>>,
    /// Makes the next write to the storage fail, once.
    pub fail_storage: Option<Action>,
    /// Changes some of what is stored while no driver is open, as a bad disk would.
    pub damage: Option<Action>,
    /// Opens the store below the driver; no driver is open meanwhile.
    pub store: Option<Action<(), Box<dyn SeqStore>>>,
    /// The config string that opens a driver over this state.
    pub config: Option<Action<(), Config>>,
    /// Another process can open the config string too, and be killed.
    pub process: bool,
    /// The drivers that a config string can name, if not those linked in.
    pub registry: Option<Registry>,
}

impl Fixture {
    /// A driver that finds its state again when it is reopened, and nothing else.
    pub fn new(open: Action<(), Arc<dyn ConsensusDriver>>) -> Self {
        Self {
            open,
            reopens: true,
            locks: false,
            contends: false,
            crash: None,
            lose_power: None,
            cut_off: None,
            lose_answers: None,
            fail_storage: None,
            damage: None,
            store: None,
            config: None,
            process: false,
            registry: None,
        }
    }
}

/// How another process opens a driver.
#[derive(Clone, Debug)]
pub struct Config {
    /// The config string.
    pub string: String,
    /// `host:port` of the service that the driver announces, if any.
    pub service_endpoint: Option<String>,
}

/// Something that can be done, to what an `I` names.
pub struct Action<I = (), O = ()>(Box<dyn Fn(I) -> Acting<'static, O> + Send + Sync>);

/// Something that can be done to a thing, and undone.
#[derive(Debug)]
pub struct Fault<I = ()> {
    /// Begins it.
    pub begin: Action<I>,
    /// Ends it.
    pub end: Action<I>,
}

impl<I, O> Action<I, O> {
    /// Does what `act` does.
    pub fn new(act: impl Fn(I) -> Acting<'static, O> + Send + Sync + 'static) -> Self {
        Self(Box::new(act))
    }

    /// Does it.
    ///
    /// # Errors
    /// The driver's, or what kept the fixture from doing it.
    pub async fn run(&self, on: I) -> Result<O> {
        (self.0)(on).await
    }
}

impl<I, O> fmt::Debug for Action<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action")
    }
}

/// What the actions of one fixture share. It is dropped with the last one of them.
#[derive(Debug)]
pub struct Shared<S>(Arc<Mutex<S>>);

impl<S: Send + 'static> Shared<S> {
    /// Shares `state`.
    pub fn new(state: S) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// Does what `act` does, which has the state for itself meanwhile.
    pub fn action<I, O, A>(&self, act: A) -> Action<I, O>
    where
        I: Send + 'static,
        O: 'static,
        A: for<'a> Fn(&'a mut S, I) -> Acting<'a, O> + Send + Sync + 'static,
    {
        let (state, act) = (self.0.clone(), Arc::new(act));
        Action::new(move |on| {
            let (state, act) = (state.clone(), act.clone());
            Box::pin(async move { act(&mut *state.lock().await, on).await })
        })
    }
}

/// Whether a fixture has something.
pub(crate) trait Offered {
    fn is_offered(&self) -> bool;
}

impl Offered for bool {
    fn is_offered(&self) -> bool {
        *self
    }
}

impl<T> Offered for Option<T> {
    fn is_offered(&self) -> bool {
        self.is_some()
    }
}

impl<T> Offered for Vec<T> {
    fn is_offered(&self) -> bool {
        !self.is_empty()
    }
}

/// What a check needs of a fixture.
#[derive(Debug)]
pub(crate) struct Need<F> {
    pub(crate) name: &'static str,
    pub(crate) is_met: fn(&F) -> bool,
}

impl<F> Clone for Need<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Need<F> {}

/// Declares needs by the fields of a fixture.
macro_rules! needs {
    ($fixture:ty: $($need:ident),*) => {
        &[$($crate::fixture::Need {
            name: stringify!($need),
            is_met: |fixture: &$fixture| $crate::fixture::Offered::is_offered(&fixture.$need),
        }),*]
    };
}
pub(crate) use needs;

/// An ability that a check has declared that it needs.
pub(crate) fn the<T>(ability: &Option<T>) -> anyhow::Result<&T> {
    anyhow::Context::context(ability.as_ref(), "the check does not say that it needs this ability")
}
