use std::fmt;

use serde::Serialize;

use super::Operation;

/// The most violations of one promise that are kept; further ones are counted.
const MAX_SHOWN: usize = 10;

/// What was checked, promise by promise.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One per promise.
    pub checks: Vec<Check>,
}

/// One promise, and whether it held.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Names the promise, for example `G1 order`.
    pub name: &'static str,
    /// What was promised, in a sentence.
    pub promise: &'static str,
    /// How it went.
    pub status: Status,
    /// How many operations took part.
    pub operations: usize,
    /// How many violations were found.
    pub violated: usize,
    /// The first of them.
    pub violations: Vec<Violation>,
    /// What else there is to know, for example why it was not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was checked, and holds.
    Held,
    /// It was violated.
    Broken,
    /// Nothing happened that it speaks of.
    NotSeen,
    /// The server does not offer what it speaks of.
    NotOffered,
}

/// What is wrong, with the operations that show it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// The one operation that is wrong in itself, or the two that contradict each other.
    pub operations: Vec<Operation>,
}

impl Report {
    /// Whether every promise held.
    pub fn held(&self) -> bool {
        self.checks.iter().all(Check::held)
    }

    /// The names of the promises that did not hold.
    pub fn broken(&self) -> Vec<&'static str> {
        self.checks.iter().filter(|check| !check.held()).map(|check| check.name).collect()
    }
}

impl Check {
    /// A promise of which nothing was seen yet.
    pub fn new(name: &'static str, promise: &'static str) -> Self {
        let (status, violations) = (Status::NotSeen, Vec::new());
        Self { name, promise, status, operations: 0, violated: 0, violations, note: None }
    }

    /// Whether no violation was found.
    pub fn held(&self) -> bool {
        self.status != Status::Broken
    }

    /// That many operations took part, violations or not.
    pub fn saw(&mut self, operations: usize) {
        self.operations += operations;
        if self.operations > 0 && self.status == Status::NotSeen {
            self.status = Status::Held;
        }
    }

    /// One more violation: what it is, and the operations that show it.
    pub fn violated(&mut self, operations: &[&Operation], what: impl FnOnce() -> String) {
        self.status = Status::Broken;
        self.violated += 1;
        if self.violations.len() < MAX_SHOWN {
            let operations = operations.iter().map(|&operation| operation.clone()).collect();
            self.violations.push(Violation { what: what(), operations });
        }
    }
}

/// A line, and below it the violations.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            Status::Held => "held",
            Status::Broken => "BROKEN",
            Status::NotSeen => "not seen",
            Status::NotOffered => "not offered",
        };
        write!(f, "{status:<11}  {:<20}  {}", self.name, self.promise)?;
        if self.operations > 0 {
            write!(f, " ({} checked)", self.operations)?;
        }
        if let Some(note) = &self.note {
            write!(f, "; {note}")?;
        }
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        match self.violated - self.violations.len() {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for operation in &self.operations {
            write!(f, "\n    {operation}")?;
        }
        Ok(())
    }
}
