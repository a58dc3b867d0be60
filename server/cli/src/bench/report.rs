use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    Load, Op,
    baseline::{Baseline, median},
    load::Measured,
    targets::Question,
};

/// What `tsoracle bench` found.
#[derive(Serialize, Debug)]
pub(crate) struct Report {
    op: Op,
    unary: bool,
    callers: u32,
    connections: usize,
    batch: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<u64>,
    seconds: f64,
    calls: u64,
    calls_per_second: f64,
    values_per_second: f64,
    latency_us: Latencies,
    longest_pause_ms: f64,
    errors: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Compared>,
}

#[derive(Serialize, Debug)]
struct Latencies {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Serialize, Debug)]
struct Compared {
    echo: Alone,
    fdatasync: Alone,
    ratios: Ratios,
}

#[derive(Serialize, Debug)]
struct Alone {
    calls_per_second: f64,
    latency_us: Latencies,
}

#[derive(Serialize, Debug)]
struct Ratios {
    /// The median of the turns.
    calls_per_second: f64,
    turns: Vec<f64>,
    p50: f64,
    p99_9: f64,
    /// The server's median latency over the echo's plus twice the disk's.
    p50_over_echo_and_two_fdatasyncs: f64,
}

impl Latencies {
    fn of(measured: &Measured) -> Self {
        let quantile = |share| rounded(measured.quantile_us(share), 10.0);
        Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: quantile(1.0),
        }
    }

    fn text(&self) -> String {
        let Self { p50, p90, p99, p99_9, max } = *self;
        let [p50, p90, p99, p99_9, max] = [p50, p90, p99, p99_9, max].map(micros);
        format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p99_9}  max {max}")
    }
}

impl Alone {
    fn of(measured: &Measured) -> Self {
        Self {
            calls_per_second: rounded(measured.calls_per_second(), 10.0),
            latency_us: Latencies::of(measured),
        }
    }
}

impl Report {
    pub(super) fn new(
        load: &Load,
        connections: usize,
        question: Question,
        measured: &Measured,
        baseline: Option<&Baseline>,
    ) -> Self {
        let calls_per_second = measured.calls_per_second();
        Self {
            op: load.op,
            unary: load.unary,
            callers: load.callers,
            connections,
            batch: load.batch,
            keys: (load.op == Op::Seq).then_some(question.keys),
            seconds: measured.elapsed.as_secs_f64(),
            calls: measured.calls,
            calls_per_second: rounded(calls_per_second, 10.0),
            values_per_second: rounded(calls_per_second * f64::from(load.batch), 10.0),
            latency_us: Latencies::of(measured),
            longest_pause_ms: measured.longest_pause.as_secs_f64() * 1e3,
            errors: measured.errors.clone(),
            last_error: measured.last_error.clone(),
            baseline: baseline.map(|baseline| Compared::of(measured, baseline)),
        }
    }

    pub(super) fn text(&self) -> String {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let (op, callers, connections) = (self.op, self.callers, self.connections);
        let mut text = match op {
            Op::Ts => "timestamps".to_owned(),
            Op::Seq => {
                let keys = self.keys.unwrap_or_default();
                format!("sequences, {keys} key{}", plural(keys))
            }
        };
        let through = if self.unary { "unary calls" } else { "the client" };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            ": {callers} caller{}, {connections} connection{}, {through}, {} a call\n\
             calls     {} in {:.1} s: {} calls/s, {} values/s\n\
             latency   {}\n\
             pause     {} without any answer, at the longest\nerrors    {}",
            plural(callers.into()),
            plural(connections as u64),
            self.batch,
            thousands(self.calls as f64),
            self.seconds,
            thousands(self.calls_per_second),
            thousands(self.values_per_second),
            self.latency_us.text(),
            micros(self.longest_pause_ms * 1e3),
            self.errors_text(),
        );
        if let Some(Compared { echo, fdatasync, ratios }) = &self.baseline {
            let turns: Vec<_> = ratios.turns.iter().map(|ratio| format!("{ratio:.2}")).collect();
            let _ = write!(
                text,
                "\necho      {} calls/s, {}\nfdatasync {} a second, {}\n\
                 ratios    {:.2} x the echo's calls/s (turns: {}), {:.2} x its p50, {:.2} x its \
                 p99.9;\n          p50 is {:.2} x (echo + 2 fdatasync)",
                thousands(echo.calls_per_second),
                echo.latency_us.text(),
                thousands(fdatasync.calls_per_second),
                fdatasync.latency_us.text(),
                ratios.calls_per_second,
                turns.join(" "),
                ratios.p50,
                ratios.p99_9,
                ratios.p50_over_echo_and_two_fdatasyncs,
            );
        }
        text
    }

    fn errors_text(&self) -> String {
        if self.errors.is_empty() {
            return "none".into();
        }
        let each = self.errors.iter().map(|(kind, count)| format!("{kind} {count}"));
        let counts = each.collect::<Vec<_>>().join(", ");
        let last = self.last_error.iter().map(|last| format!("; the last one: {last}"));
        counts + &last.collect::<String>()
    }
}

impl Compared {
    fn of(measured: &Measured, baseline: &Baseline) -> Self {
        let Baseline { echo, disk, ratios, .. } = baseline;
        let times = |share| measured.quantile_us(share) / echo.quantile_us(share);
        let two_syncs = echo.quantile_us(0.5) + 2.0 * disk.quantile_us(0.5);
        Self {
            echo: Alone::of(echo),
            fdatasync: Alone::of(disk),
            ratios: Ratios {
                calls_per_second: rounded(median(ratios), 1e4),
                turns: ratios.iter().map(|ratio| rounded(*ratio, 1e4)).collect(),
                p50: rounded(times(0.5), 1e4),
                p99_9: rounded(times(0.999), 1e4),
                p50_over_echo_and_two_fdatasyncs: rounded(
                    measured.quantile_us(0.5) / two_syncs,
                    1e4,
                ),
            },
        }
    }
}

/// Digits beyond what was measured only hide it.
pub fn rounded(figure: f64, parts: f64) -> f64 {
    (figure * parts).round() / parts
}

/// A duration as a person reads it.
pub fn micros(us: f64) -> String {
    match us {
        ..1_000.0 => format!("{us:.0} µs"),
        ..10_000.0 => format!("{:.2} ms", us / 1_000.0),
        ..1_000_000.0 => format!("{:.1} ms", us / 1_000.0),
        _ => format!("{:.2} s", us / 1_000_000.0),
    }
}

/// A whole number, its digits in groups of three.
pub fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        assert_eq!(
            [0.4, 999.0, 1e3, 1_234_567.0].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
        let times = [57.4, 1_234.0, 56_789.0, 2.5e6].map(micros);
        assert_eq!(times, ["57 µs", "1.23 ms", "56.8 ms", "2.50 s"]);
    }
}
