//! The suite's own test: every sabotage is caught by the check that names it, and by few others, while
//! sound drivers pass again and again.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod contender;
mod disk;
mod nodes;
mod sabotage;
mod shared;
mod table;

use std::{panic, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinSet};
use tsoracle_conformance::{Check, Cluster, Fixture};

use crate::sabotage::{On, SABOTAGES, Sabotage};

/// How long a check may take over a driver with a flaw, which may leave it waiting for ever.
const BOUND: Duration = Duration::from_secs(5);

/// How many checks run at once.
const AT_ONCE: usize = 16;

/// How often the sound drivers must pass, unless told otherwise.
const ROUNDS: usize = 3;

/// How often the sound drivers must pass, if it is set.
const ROUNDS_VARIABLE: &str = "TSORACLE_CONFORMANCE_ROUNDS";

/// When it is set, every check that catches a sabotage is listed.
const LIST: &str = "TSORACLE_CONFORMANCE_LIST";

fn main() -> ExitCode {
    // Tasks of drivers with a flaw panic, and what comes of that is told by the checks.
    panic::set_hook(Box::new(|_| ()));
    let mut trials = vec![
        Trial::test("a_sound_driver_over_a_store_passes", || {
            sound(&Check::<Fixture>::all(), Arc::new(|| disk::fixture(None)))
        }),
        Trial::test("sound_drivers_that_contend_pass", || {
            sound(&Check::<Fixture>::all(), Arc::new(|| shared::fixture(None)))
        }),
        Trial::test("a_cluster_of_sound_drivers_passes", || {
            sound(&Check::<Cluster>::all(), Arc::new(nodes::cluster))
        }),
        Trial::test("the_table_in_the_docs_is_up_to_date", table::is_up_to_date),
    ];
    for sabotage in SABOTAGES {
        let does = sabotage.does.replace(", ", " ").replace(' ', "_");
        trials.push(Trial::test(format!("caught::a_driver_that_{does}"), || caught(sabotage)));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A check that did not pass, and why.
struct Failure {
    check: String,
    reason: String,
}

type Make<F> = Arc<dyn Fn() -> F + Send + Sync>;

/// Runs every check that the fixture can do. Returns how many there were, and which failed.
fn run<F: 'static>(
    checks: &[Check<F>],
    make: &Make<F>,
    bound: Duration,
) -> Result<(usize, Vec<Failure>), Failed> {
    let runtime = Runtime::new()?;
    let failures = runtime.block_on(async {
        let fixture = make();
        let checks = checks.iter().filter(|check| check.lacks(&fixture).is_none());
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for &check in checks {
            let (make, permits) = (make.clone(), permits.clone());
            running.spawn(async move {
                let _permit = permits.acquire_owned().await;
                let outcome = check.run(make, bound).await;
                let reason = |error| format!("{error:#}");
                outcome.err().map(reason).map(|reason| Failure { check: check.name(), reason })
            });
        }
        running.join_all().await
    });
    runtime.shutdown_background();
    Ok((failures.len(), failures.into_iter().flatten().collect()))
}

fn sound<F: 'static>(checks: &[Check<F>], make: Make<F>) -> Result<(), Failed> {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|rounds| rounds.parse().ok());
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let (all, failures) = run(checks, &make, Duration::from_secs(60))?;
        if !failures.is_empty() {
            return Err(format!("round {round} of {all} checks:\n{}", list(&failures)).into());
        }
    }
    Ok(())
}

fn caught(sabotage: &'static Sabotage) -> Result<(), Failed> {
    let make: Make<Fixture> = match sabotage.on {
        On::Disks => Arc::new(|| disk::fixture(Some(sabotage.flaw))),
        On::Contenders => Arc::new(|| shared::fixture(Some(sabotage.flaw))),
    };
    let (all, failures) = run(&Check::<Fixture>::all(), &make, BOUND)?;
    let names = list(&failures);
    if !failures.iter().any(|failure| failure.check == sabotage.caught_by) {
        return Err(format!("not caught by {}, but by:\n{names}", sabotage.caught_by).into());
    }
    // A driver that fails everything shows nothing.
    let others = failures.len() - 1;
    if others * 3 > all - 1 {
        return Err(format!("{others} of {} others failed too:\n{names}", all - 1).into());
    }
    if std::env::var_os(LIST).is_some() {
        println!("{}, caught by:\n{names}", sabotage.does);
    }
    Ok(())
}

fn list(failures: &[Failure]) -> String {
    let lines = failures.iter().map(|failure| format!("{}: {}", failure.check, failure.reason));
    lines.collect::<Vec<_>>().join("\n")
}
