use super::{
    Arguments, CLUSTERS, Results,
    records::{Records, Run, Spec},
};
use tsoracle::bench::baseline::median;

/// What a figure must be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// One promise, and what was measured of it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) goal: Goal,
    pub(crate) unit: &'static str,
    pub(crate) runs: Vec<f64>,
}

impl Figure {
    fn new(name: impl Into<String>, goal: Goal, unit: &'static str, runs: Vec<f64>) -> Self {
        Self { name: name.into(), goal, unit, runs }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.runs)
    }

    /// The lowest and the highest one.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        let lowest = self.runs.iter().copied().reduce(f64::min)?;
        Some((lowest, self.runs.iter().copied().reduce(f64::max)?))
    }

    /// Not if it could not be measured.
    pub(crate) fn reached(&self) -> bool {
        match self.goal {
            Goal::AtLeast(goal) => self.median() >= goal,
            Goal::AtMost(goal) => self.median() <= goal,
        }
    }
}

const RATE: fn(&Run) -> f64 = |run| run.calls_per_second;
const P50: fn(&Run) -> f64 = |run| run.p50_us;
const P999: fn(&Run) -> f64 = |run| run.p999_us;

/// Everything that is promised.
pub(crate) fn all(results: &Results, arguments: &Arguments) -> Vec<Figure> {
    let mut figures = unary_timestamps(&results.records);
    figures.extend(client_timestamps(&results.records));
    figures.extend(sequences(&results.records));
    figures.extend(large_store(results, arguments));
    figures.extend(beside_others(&results.records));
    figures.extend(engine_and_idle(results));
    figures
}

/// Run by run, one over the other.
fn over(above: &[f64], below: &[f64]) -> Vec<f64> {
    above.iter().zip(below).map(|(above, below)| above / below).collect()
}

/// A figure of one load over the same of another one.
fn compared(
    records: &Records,
    name: impl Into<String>,
    goal: Goal,
    (above, below): (Spec, Spec),
    figure: fn(&Run) -> f64,
) -> Figure {
    let runs = over(&records.each(above, figure), &records.each(below, figure));
    Figure::new(name, goal, "×", runs)
}

fn unary_timestamps(records: &Records) -> Vec<Figure> {
    let mut figures = Vec::new();
    for callers in [1, 64, 256] {
        for connections in [1, 4] {
            let (ts, echo) = (Spec::ts(callers, connections), Spec::echo(callers, connections));
            let name = ts.name();
            let rates = format!("{name}: calls/s over the echo's");
            figures.push(compared(records, rates, Goal::AtLeast(0.9), (ts, echo), RATE));
            let tails = format!("{name}: p99.9 over the echo's");
            figures.push(compared(records, tails, Goal::AtMost(1.5), (ts, echo), P999));
        }
    }
    for (of, other) in [
        ("a minute in long runs over the echo's", Spec::ECHO_TAIL),
        ("a long run over that of a short one", Spec::ts(64, 1)),
    ] {
        let name = format!("Renewals off the path: p99.9 of {of}");
        figures.push(compared(records, name, Goal::AtMost(1.5), (Spec::TS_TAIL, other), P999));
    }
    figures
}

fn client_timestamps(records: &Records) -> Vec<Figure> {
    let best = records.best_echo();
    let mut figures = Vec::new();
    for (callers, goal) in [(1_024, 70.0), (64, 8.0), (1, 1.0)] {
        let spec = Spec::client_ts(callers);
        let name = format!("{}: calls/s over the unary echo's best", spec.name());
        let runs = over(&records.each(spec, RATE), &best);
        figures.push(Figure::new(name, Goal::AtLeast(goal), "×", runs));
    }
    let one = Spec::client_ts(1);
    let name = format!("{}: calls/s over the unary echo's with 1 caller", one.name());
    figures.push(compared(records, name, Goal::AtLeast(1.0), (one, Spec::echo(1, 1)), RATE));
    figures
}

fn sequences(records: &Records) -> Vec<Figure> {
    let mut figures = Vec::new();
    let echo = records.each(Spec::echo(1, 1), P50);
    let disk = records.each(Spec::DISK, P50);
    let two_syncs: Vec<_> = echo.iter().zip(&disk).map(|(echo, disk)| echo + 2.0 * disk).collect();
    for (spec, goal) in [(Spec::client_seq(1, 1), 0.75), (Spec::seq(1, 1), 1.0)] {
        let name = format!("{}: median latency over (echo + 2 fdatasync)", spec.name());
        let runs = over(&records.each(spec, P50), &two_syncs);
        figures.push(Figure::new(name, Goal::AtMost(goal), "×", runs));
    }
    let (unary, batched) = (Spec::seq(64, 64), Spec::client_seq(64, 64));
    let name = format!("{}: calls/s over the echo's", unary.name());
    figures.push(compared(records, name, Goal::AtLeast(0.75), (unary, Spec::echo(64, 1)), RATE));
    let name = format!("{}: calls/s over the unary figure", batched.name());
    figures.push(compared(records, name, Goal::AtLeast(1.5), (batched, unary), RATE));
    let many = Spec::client_seq(1_024, 1_000);
    figures.push(Figure::new(
        format!("{}: calls/s over the unary echo's best", many.name()),
        Goal::AtLeast(5.0),
        "×",
        over(&records.each(many, RATE), &records.best_echo()),
    ));
    figures
}

fn large_store(results: &Results, arguments: &Arguments) -> Vec<Figure> {
    let keys = arguments.stored_keys;
    let records = &results.records;
    // One long run, beside all of the short ones.
    let beside = median(&records.each(Spec::BESIDE_LARGE, RATE));
    let spread = over(&records.each(Spec::SPREAD, RATE), &[beside]);
    let seconds = arguments.spread.as_secs_f64();
    let large = (Spec::LARGE_STORE, Spec::BESIDE_LARGE);
    let small = format!("{}, over those of a small store", Spec::LARGE_STORE.name());
    let all = format!("{}, for {seconds} s, over 1000 keys of a small store", Spec::SPREAD.name());
    let few = format!("{keys} keys in the store: GetSeq's calls/s over those with 64 keys");
    let pause = "The same: the longest time in which no call was answered";
    let crash = format!("{keys} keys: start-up after `kill -9`");
    vec![
        compared(records, small, Goal::AtLeast(0.9), large, RATE),
        Figure::new(all, Goal::AtLeast(0.6), "×", spread),
        single(results, "longest pause", pause, 100.0, " ms"),
        compared(records, few, Goal::AtLeast(0.5), (Spec::MANY_KEYS, Spec::FEW_KEYS), RATE),
        single(results, "start", format!("{keys} keys: start-up"), 1.0, " s"),
        single(results, "start after a crash", crash, 1.0, " s"),
        single(results, "memory", format!("{keys} keys: resident memory"), 250.0, " MB"),
    ]
}

fn beside_others(records: &Records) -> Vec<Figure> {
    let beside = |above: Spec, below: Spec, goal| {
        let name = format!("{}: calls/s over {}", above.name(), below.name());
        compared(records, name, Goal::AtLeast(goal), (above, below), RATE)
    };
    let clusters = CLUSTERS.iter();
    let mut figures: Vec<_> = clusters
        .map(|driver| beside(Spec::cluster(driver), Spec::beside_cluster(driver), 0.7))
        .collect();
    figures.push(beside(Spec::ETCD_SEQ, Spec::PUTS, 15.0));
    figures.push(beside(Spec::REDIS_BESIDE, Spec::REDIS, 10.0));
    figures.push(beside(Spec::PUBLIC_BESIDE, Spec::PUBLIC, 2.5));
    figures
}

fn engine_and_idle(results: &Results) -> Vec<Figure> {
    vec![
        single(results, "grant", "A grant in the engine, one thread", 100.0, " ns"),
        single(results, "idle memory", "Idle server: resident memory", 30.0, " MB"),
        single(results, "idle writes", "Idle server: bytes written to disk", 0.0, " B"),
    ]
}

fn single(
    results: &Results,
    key: &str,
    name: impl Into<String>,
    most: f64,
    unit: &'static str,
) -> Figure {
    let runs = results.single.get(key).cloned().unwrap_or_default();
    Figure::new(name, Goal::AtMost(most), unit, runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_met_by_the_median() {
        let figure = |goal, runs: &[f64]| Figure::new("f", goal, "×", runs.to_vec());
        assert!(figure(Goal::AtLeast(0.9), &[0.1, 0.9, 1.2]).reached());
        assert!(!figure(Goal::AtLeast(0.9), &[0.8, 0.8, 1.2]).reached());
        assert!(figure(Goal::AtMost(0.0), &[0.0]).reached());
        assert!(!figure(Goal::AtMost(1.5), &[]).reached(), "what is not measured is not reached");
    }

    #[test]
    fn a_single_sequence_is_compared_with_an_echo_and_two_syncs() {
        let mut records = Records::default();
        let run = |p50_us| Run { p50_us, ..Run::default() };
        records.add(Spec::DISK, run(450.0));
        records.add(Spec::echo(1, 1), run(100.0));
        records.add(Spec::client_seq(1, 1), run(750.0));
        let figures = sequences(&records);
        let figure = figures.iter().find(|figure| figure.name.contains("2 fdatasync")).unwrap();
        assert!((figure.median() - 0.75).abs() < 1e-9 && figure.reached(), "{figure:?}");
    }

    #[test]
    fn one_long_run_is_compared_with_the_median_of_the_short_ones() {
        let mut records = Records::default();
        let run = |calls_per_second| Run { calls_per_second, ..Run::default() };
        for rate in [90.0, 100.0, 120.0] {
            records.add(Spec::BESIDE_LARGE, run(rate));
        }
        records.add(Spec::SPREAD, run(60.0));
        let results = Results { records, ..Results::default() };
        let figures = large_store(&results, &Arguments::default());
        let figure = figures.iter().find(|figure| figure.name.contains("small store")).unwrap();
        assert!(!figure.reached(), "{figure:?}");
        let spread = figures.iter().find(|figure| figure.runs == [0.6]).unwrap();
        assert!(spread.reached() && spread.spread() == Some((0.6, 0.6)), "{figures:?}");
    }
}
