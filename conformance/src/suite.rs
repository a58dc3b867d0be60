use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

use crate::{Ability, Harness, checks, model, rig::Rig, worker};

/// How long one check may take. It is there for what hangs; most take milliseconds.
const BOUND: Duration = Duration::from_secs(60);

/// As [`BOUND`], for a check that has a cluster go through several faults.
const BOUND_OF_CLUSTERS: Duration = Duration::from_secs(280);

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// One sentence of the contract, and how to find out whether a driver keeps it.
#[derive(Clone, Copy)]
pub struct Check {
    area: &'static str,
    sentence: &'static str,
    needs: &'static [Ability],
    run: fn(Rig) -> Running,
}

impl Check {
    pub(crate) const fn new(
        area: &'static str,
        sentence: &'static str,
        needs: &'static [Ability],
        run: fn(Rig) -> Running,
    ) -> Self {
        Self { area, sentence, needs, run }
    }

    /// Every check there is.
    pub fn all() -> Vec<Self> {
        checks::all()
    }

    /// `area::sentence`.
    pub fn name(&self) -> String {
        format!("{}::{}", self.area, self.sentence)
    }

    /// What the contract says, in words.
    pub fn sentence(&self) -> String {
        self.sentence.replace('_', " ")
    }

    /// What the rig must be able to do.
    pub fn needs(&self) -> &'static [Ability] {
        self.needs
    }

    fn bound(&self) -> Duration {
        // As many steps as were asked for take as long as they do.
        if model::steps().is_some() && self.sentence.starts_with("random_") {
            return BOUND_OF_CLUSTERS * 10;
        }
        if self.needs.contains(&Ability::Cluster) { BOUND_OF_CLUSTERS } else { BOUND }
    }

    #[cfg(feature = "processes")]
    pub(crate) fn area(&self) -> &'static str {
        self.area
    }

    /// Why this check cannot be done, if it cannot.
    pub fn skipped(&self, harness: &dyn Harness) -> Option<String> {
        self.needs.iter().find_map(|&ability| {
            harness.lacks(ability).map(|reason| format!("cannot {ability}: {reason}"))
        })
    }

    /// Finds out, in `bound` at most.
    ///
    /// # Errors
    /// What the driver did that breaks the sentence, or what kept it from being checked.
    pub async fn run(&self, harness: Arc<dyn Harness>, bound: Duration) -> anyhow::Result<()> {
        let rig = Rig::new(harness).await.context("no place for the check")?;
        // In a task of its own, so that a panic is a failure like any other.
        let running = tokio::spawn((self.run)(rig));
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
}

/// Runs the suite as the whole of a test program, with the arguments of `cargo test`.
///
/// In the crate's `Cargo.toml` the test is given `harness = false`.
pub fn run(harness: impl Harness) -> ExitCode {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    if let Some(role) = worker::Role::of_this_process() {
        return role.run(&*harness);
    }
    let trials = Check::all().into_iter();
    let trials = trials.map(|check| trial(check.name(), check, harness.clone())).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

pub(crate) fn trial(name: String, check: Check, harness: Arc<dyn Harness>) -> Trial {
    let skipped = check.skipped(&*harness);
    // Nextest takes for passed what says only at run time that it is ignored.
    let ignored = skipped.is_some() && std::env::var_os("NEXTEST").is_some();
    let run = move || match skipped {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => {
            let outcome = runtime()?.block_on(check.run(harness, check.bound()));
            match outcome {
                Ok(()) => Ok(Completion::Completed),
                Err(error) => Err(failed(&check, &error)),
            }
        }
    };
    Trial::ignorable_test(name, run).with_ignored_flag(ignored)
}

fn failed(check: &Check, error: &anyhow::Error) -> Failed {
    format!("the contract says: {}\nbut: {error:?}", check.sentence()).into()
}

pub(crate) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
