use std::{
    collections::BTreeMap, future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::anyhow;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

use crate::{Cluster, Fixture, checks, fixture::Need, model, worker};

/// How long one check may take. It is there for what hangs; most take milliseconds.
const BOUND: Duration = Duration::from_secs(60);

/// As [`BOUND`], for a check that has a cluster go through several faults.
const BOUND_OF_CLUSTERS: Duration = Duration::from_secs(280);

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Makes a fixture, whose state no other one shares.
pub(crate) type Make<F> = Arc<dyn Fn() -> F + Send + Sync>;

/// One sentence of the contract, and how to find out whether a driver keeps it: over a [`Fixture`], or
/// over a [`Cluster`].
#[derive(Debug)]
pub struct Check<F: 'static> {
    area: &'static str,
    sentence: &'static str,
    needs: &'static [Need<F>],
    run: fn(Make<F>) -> Running,
}

impl Check<Fixture> {
    /// Every check of a driver.
    pub fn all() -> Vec<Self> {
        checks::of_drivers()
    }

    fn bound(&self) -> Duration {
        // As many steps as were asked for take as long as they do.
        let is_long = model::steps().is_some() && self.sentence.starts_with("random_");
        if is_long { BOUND_OF_CLUSTERS * 10 } else { BOUND }
    }
}

impl Check<Cluster> {
    /// Every check of a cluster.
    pub fn all() -> Vec<Self> {
        checks::of_clusters()
    }
}

impl<F: 'static> Check<F> {
    pub(crate) const fn new(
        area: &'static str,
        sentence: &'static str,
        needs: &'static [Need<F>],
        run: fn(Make<F>) -> Running,
    ) -> Self {
        Self { area, sentence, needs, run }
    }

    /// `area::sentence`.
    pub fn name(&self) -> String {
        format!("{}::{}", self.area, self.sentence)
    }

    /// What the contract says, in words.
    pub fn sentence(&self) -> String {
        self.sentence.replace('_', " ")
    }

    /// The field of the fixture for want of which this check cannot be done, if there is one.
    pub fn lacks(&self, fixture: &F) -> Option<&'static str> {
        self.needs.iter().find(|need| !(need.is_met)(fixture)).map(|need| need.name)
    }

    /// Finds out, in `bound` at most.
    ///
    /// # Errors
    /// What the driver did that breaks the sentence, or what kept it from being checked.
    pub async fn run(
        &self,
        make: Arc<dyn Fn() -> F + Send + Sync>,
        bound: Duration,
    ) -> anyhow::Result<()> {
        // In a task of its own, so that a panic is a failure like any other.
        let running = tokio::spawn((self.run)(make));
        let abort = running.abort_handle();
        match tokio::time::timeout(bound, running).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(anyhow!("the check panicked: {panic}")),
            Err(_) => {
                abort.abort();
                Err(anyhow!("the check did not end within {bound:?}"))
            }
        }
    }

    fn trial(self, name: String, make: Make<F>, bound: Duration) -> Trial {
        Trial::test(name, move || {
            let outcome = runtime()?.block_on(self.run(make, bound));
            outcome.map_err(|error| {
                Failed::from(format!("the contract says: {}\nbut: {error:?}", self.sentence()))
            })
        })
    }
}

impl<F: 'static> Clone for Check<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: 'static> Copy for Check<F> {}

/// Tests, and those that cannot be done, by what there is not.
#[derive(Default)]
struct Plan {
    trials: Vec<Trial>,
    skipped: BTreeMap<&'static str, Vec<String>>,
}

impl Plan {
    fn add<F: 'static>(
        &mut self,
        prefix: &str,
        make: &Make<F>,
        checks: impl IntoIterator<Item = (Check<F>, Duration)>,
    ) {
        let fixture = make();
        for (check, bound) in checks {
            let name = format!("{prefix}{}", check.name());
            match check.lacks(&fixture) {
                Some(field) => self.skipped.entry(field).or_default().push(name),
                None => self.trials.push(check.trial(name, make.clone(), bound)),
            }
        }
    }

    fn add_clusters(&mut self, prefix: &str, make: &Make<Cluster>) {
        let checks = Check::<Cluster>::all().into_iter();
        self.add(prefix, make, checks.map(|check| (check, BOUND_OF_CLUSTERS)));
    }

    /// Runs the tests, and names at the end what was skipped.
    fn run(self, arguments: &Arguments) -> ExitCode {
        let conclusion = libtest_mimic::run(arguments, self.trials);
        if !self.skipped.is_empty() && !arguments.list && !arguments.exact {
            let by_field = self.skipped.iter();
            let by_field = by_field.map(|(field, names)| format!("{field}: {}", names.join(", ")));
            println!("skipped, for want of {}\n", by_field.collect::<Vec<_>>().join("; of "));
        }
        conclusion.exit_code()
    }
}

/// Runs the checks of a driver as the whole of a test program, with the arguments of `cargo test`.
/// Each check has a fixture of its own, which opens nothing before it is asked to.
///
/// In the crate's `Cargo.toml` the test is given `harness = false`.
pub fn run(make: impl Fn() -> Fixture + Send + Sync + 'static) -> ExitCode {
    if let Some(role) = worker::Role::of_this_process() {
        return role.run(make().registry);
    }
    let make: Make<Fixture> = Arc::new(make);
    let mut plan = Plan::default();
    let checks = Check::<Fixture>::all().into_iter();
    plan.add("", &make, checks.map(|check| (check, check.bound())));
    plan.run(&Arguments::from_args())
}

/// Runs the checks of clusters over each driver that is named, at most `at_once` clusters at a time, as the
/// whole of a test program. `prepare` is called before, unless the checks are only listed.
///
/// In the crate's `Cargo.toml` the test is given `harness = false`.
pub fn run_clusters<M: Fn() -> Cluster + Send + Sync + 'static>(
    drivers: impl IntoIterator<Item = (String, M)>,
    at_once: usize,
    prepare: impl FnOnce(),
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list {
        prepare();
    }
    arguments.test_threads.get_or_insert(at_once);
    let mut plan = Plan::default();
    for (name, make) in drivers {
        plan.add_clusters(&format!("{name}::"), &(Arc::new(make) as _));
    }
    plan.run(&arguments)
}

pub(crate) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
