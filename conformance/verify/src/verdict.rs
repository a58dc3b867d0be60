use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    MAX_OPERATIONS, Options,
    load::{
        Load,
        judge::{INVALID, TROUBLE},
    },
};
use tsoracle_history::{self as history, Call, Check, Operation, Outcome};

const LOAD: &str = "timestamps and sequences are served to many callers at once";

/// What was found out about a deployment.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether every promise held.
    pub held: bool,
    /// As they were named.
    pub endpoints: Vec<String>,
    /// What all keys that were used begin with.
    pub prefix: String,
    /// How many called at the same time.
    pub callers: usize,
    /// How long they did, in seconds.
    pub seconds: f64,
    /// How many operations were recorded.
    pub operations: usize,
    /// Whether the load ended early, because no more is recorded.
    pub is_full: bool,
    /// How often calls failed, by call and code.
    pub failures: BTreeMap<String, u64>,
    /// Each promise: those about single answers, then those about the history.
    pub checks: Vec<Check>,
}

impl Verdict {
    pub(super) fn new(options: &Options, prefix: &str, wire: Vec<Check>, load: &Load) -> Self {
        let mut checks = wire;
        if let Some(call) = load.refused {
            let mut check = Check::new("load", LOAD);
            check.status = history::Status::NotOffered;
            check.note = Some(format!("{call} is not offered to this client"));
            checks.push(check);
        } else if !options.duration.is_zero() {
            checks.extend([served(&load.history), failed(&load.history)]);
            checks.extend(history::check(&load.history).checks);
        }
        Self {
            held: checks.iter().all(Check::held),
            endpoints: options.endpoints.clone(),
            prefix: prefix.to_owned(),
            callers: options.callers,
            seconds: load.lasted.as_secs_f64(),
            operations: load.history.len(),
            is_full: load.is_full,
            failures: failures(&load.history),
            checks,
        }
    }
}

/// The call, and why it failed if it did.
fn kind(operation: &Operation) -> (&'static str, Option<&str>) {
    fn why<T>(outcome: &Outcome<T>) -> Option<&str> {
        match outcome {
            Outcome::Answered(_) => None,
            Outcome::Refused(why) | Outcome::Uncertain(why) => Some(why),
        }
    }
    match &operation.call {
        Call::GetTs { outcome, .. } => ("GetTs", why(outcome)),
        Call::GetSeq { outcome, .. } => ("GetSeq", why(outcome)),
        Call::ReadSeq { outcome, .. } => ("ReadSeq", why(outcome)),
        Call::SeedSeq { outcome, .. } => ("SeedSeq", why(outcome)),
        Call::DeleteSeq { outcome, .. } => ("DeleteSeq", why(outcome)),
    }
}

fn failures(history: &[Operation]) -> BTreeMap<String, u64> {
    let mut failures = BTreeMap::new();
    for (call, why) in history.iter().map(kind) {
        if let Some(why) = why {
            *failures.entry(format!("{call} {why}")).or_default() += 1;
        }
    }
    failures
}

fn served(history: &[Operation]) -> Check {
    let mut check = Check::new("load", LOAD);
    for wanted in ["GetTs", "GetSeq"] {
        let answered = history.iter().filter(|one| kind(one) == (wanted, None)).count();
        check.saw(answered);
        if answered == 0 {
            check.violated(&[], || format!("no {wanted} was answered"));
        }
    }
    check
}

fn failed(history: &[Operation]) -> Check {
    let promise = "valid requests fail only with the codes of a deployment in trouble";
    let mut check = Check::new("load failures", promise);
    check.saw(history.len());
    for operation in history {
        let (call, why) = kind(operation);
        if let Some(why) = why.filter(|why| *why != INVALID && !TROUBLE.contains(why)) {
            check.violated(&[operation], || format!("{call} failed with {why}"));
        }
    }
    check
}

/// A report for people: a line per promise.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: all keys begin with {:?}", self.endpoints.join(", "), self.prefix)?;
        if self.operations > 0 {
            let (callers, seconds, operations) = (self.callers, self.seconds, self.operations);
            write!(f, "{callers} callers for {seconds:.1} s, {operations} operations")?;
            if self.is_full {
                write!(f, ", ended early: no more than {MAX_OPERATIONS} are recorded")?;
            }
            for (failure, times) in &self.failures {
                write!(f, ", {failure} {times} times")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for check in &self.checks {
            writeln!(f, "{check}")?;
        }
        let held = self.checks.iter().filter(|check| check.status == history::Status::Held).count();
        let broken: Vec<_> = self.checks.iter().filter(|check| !check.held()).collect();
        write!(f, "\n{held} promises held")?;
        if !broken.is_empty() {
            let names: Vec<_> = broken.iter().map(|check| check.name).collect();
            write!(f, ", {} BROKEN: {}", names.len(), names.join(", "))?;
        }
        Ok(())
    }
}
