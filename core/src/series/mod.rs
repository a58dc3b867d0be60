//! Every series that a tsoracle counts, in one table: name, labels, and what it says.
//!
//! Handles are made once and kept: to count is an atomic addition. Where no `metrics` recorder is installed, it is
//! nothing. Values of labels are bounded: never a key, an address of a client, or free text.

mod table;

use metrics::Label;
pub use metrics::{Counter, Gauge, Histogram};

pub use table::*;

/// A series, or a family of them that differ in their labels.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Series {
    /// What Prometheus calls it.
    pub name: &'static str,
    /// What it counts.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, for a person.
    pub help: &'static str,
}

/// What a series counts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// A value of now. One that is NaN is not shown.
    Gauge,
    /// How many values were at most as large as each of these bounds.
    Histogram(&'static [f64]),
}

/// The bounds of durations: from a sync of a fast disk to the longest that a call takes.
pub const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

impl Series {
    /// The handle of a counter without labels.
    pub fn counter(&self) -> Counter {
        self.counter_of(&[])
    }

    /// The handle of a counter with these values of its labels.
    pub fn counter_of(&self, values: &[&str]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter);
        metrics::counter!(self.name, self.labels(values))
    }

    /// The handle of a gauge without labels.
    pub fn gauge(&self) -> Gauge {
        self.gauge_of(&[])
    }

    /// The handle of a gauge with these values of its labels.
    pub fn gauge_of(&self, values: &[&str]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge);
        metrics::gauge!(self.name, self.labels(values))
    }

    /// The handle of a histogram without labels.
    pub fn histogram(&self) -> Histogram {
        self.histogram_of(&[])
    }

    /// The handle of a histogram with these values of its labels.
    pub fn histogram_of(&self, values: &[&str]) -> Histogram {
        debug_assert!(matches!(self.kind, Kind::Histogram(_)));
        metrics::histogram!(self.name, self.labels(values))
    }

    fn labels(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        self.labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::new(*name, value.to_string()))
            .collect()
    }
}

/// Tells the recorder what each series says.
pub fn describe_all() {
    for series in ALL {
        match series.kind {
            Kind::Counter => metrics::describe_counter!(series.name, series.help),
            Kind::Gauge => metrics::describe_gauge!(series.name, series.help),
            Kind::Histogram(_) => metrics::describe_histogram!(series.name, series.help),
        }
    }
}

/// The series of that name.
pub fn named(name: &str) -> Option<&'static Series> {
    ALL.iter().find(|series| series.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for (index, series) in ALL.iter().enumerate() {
            let Series { name, kind, .. } = series;
            assert!(name.starts_with("tsoracle_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(!series.help.is_empty() && !series.help.contains('\n'), "{name}");
            assert!(ALL[..index].iter().all(|other| other.name != *name), "{name} is there twice");
            if let Kind::Histogram(bounds) = kind {
                assert!(bounds.is_sorted() && name.ends_with("_seconds"), "{name}");
            }
        }
    }
}
