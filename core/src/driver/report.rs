use std::time::Duration;

use crate::{BootTime, LatencySummary};

/// What one node knows of itself and its peers at the moment, for people.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// The nodes of the cluster in the order of their ids, this one among them. None for a driver of a single
    /// node, or whose nodes do not know each other.
    pub members: Vec<MemberReport>,
    /// The certificates in use.
    pub certificates: Vec<Certificate>,
    /// How long writes to the disk of this node take, up to where they are durable.
    pub writes: Option<LatencySummary>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds what another one says.
    pub fn extend(&mut self, other: Self) {
        self.members.extend(other.members);
        self.certificates.extend(other.certificates);
        self.findings.extend(other.findings);
        self.writes = self.writes.or(other.writes);
    }
}

/// A node of a cluster, as another one sees it, or itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberReport {
    /// Its id.
    pub id: u64,
    /// `host:port` where the other nodes reach it.
    pub peer: String,
    /// `host:port` where clients reach it.
    pub service: String,
    /// Whether it has a vote.
    pub votes: bool,
    /// Whether it is the node that reports.
    pub is_own: bool,
    /// Whether it leads, as far as is known.
    pub leads: bool,
    /// Why it is not reached, if it is not.
    pub unreached: Option<Unreached>,
    /// How many entries of the log it lacks, as far as is known: the leader knows it of all, and every node of itself.
    pub lag: Option<u64>,
}

/// A peer that is not spoken with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreached {
    /// Since when.
    pub since: BootTime,
    /// Why, if anything is known.
    pub reason: Option<String>,
}

/// A certificate in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// What for: `TLS of clients`.
    pub used_for: &'static str,
    /// The file that it is from, and its subject.
    pub name: String,
    /// The last second in which it is valid, since 1970.
    pub not_after: i64,
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The kind of it, for programs: `disk_slow`.
    pub kind: &'static str,
    /// What it is about, where there may be several of one kind.
    pub about: String,
    /// What is wrong, in words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Since when, where that is known better than by when it was found.
    pub since: Option<BootTime>,
}

impl Finding {
    /// Something wrong, with what to do about it.
    pub fn new(kind: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (about, what, remedy) = (String::new(), what.into(), remedy.into());
        Self { kind, about, what, remedy, since: None }
    }

    /// The same, about one of several things.
    #[must_use]
    pub fn about(self, about: impl Into<String>) -> Self {
        Self { about: about.into(), ..self }
    }

    /// The same, since then.
    #[must_use]
    pub fn since(self, since: BootTime) -> Self {
        Self { since: Some(since), ..self }
    }

    /// Whether it goes on what another one says.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.about == other.about
    }
}

/// Something that is wrong, and since when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What, and what to do.
    pub finding: Finding,
    /// For how long.
    pub lasts: Duration,
}

/// What is wrong, and what to do, as one line.
impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding { what, remedy, .. } = &self.finding;
        match remedy.is_empty() {
            true => f.write_str(what),
            false => write!(f, "{what}; {remedy}"),
        }
    }
}
