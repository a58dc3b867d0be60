//! What is counted, until it is scraped.
//!
//! Counters and gauges are those of the `metrics` crate's exporter for Prometheus. Its histograms keep every value until
//! somebody asks, which is memory without a bound under load; here a value is two atomic additions, to the buckets of a
//! [`Series`](tsoracle_core::series::Series).

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tsoracle_core::series::{self, Kind, SECONDS};

use crate::failure::Failure;

static IS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// Whether what is counted can be seen.
pub(crate) fn is_installed() -> bool {
    IS_INSTALLED.load(Ordering::Relaxed)
}

/// Counts all that is counted from now on.
///
/// # Errors
/// Something else does so already.
pub(crate) fn install() -> Result<Scrape, Failure> {
    let exporter = PrometheusBuilder::new().build_recorder();
    let histograms = Arc::<Histograms>::default();
    let scrape = Scrape { exporter: exporter.handle(), histograms: histograms.clone() };
    metrics::set_global_recorder(Recording { exporter, histograms })
        .map_err(|error| Failure::failed(format!("cannot count: {error}")))?;
    series::describe_all();
    IS_INSTALLED.store(true, Ordering::Relaxed);
    Ok(scrape)
}

/// Shows what is counted.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    exporter: PrometheusHandle,
    histograms: Arc<Histograms>,
}

impl Scrape {
    /// All series, in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        let mut text = in_order(&self.exporter.render());
        self.histograms.render(&mut text);
        text
    }

    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        let exporter = PrometheusBuilder::new().build_recorder().handle();
        Self { exporter, histograms: Arc::default() }
    }

    /// Takes together what was counted lately. Meant to be called now and then.
    pub(crate) fn run_upkeep(&self) {
        self.exporter.run_upkeep();
    }
}

/// What the exporter shows, which has it in another order each time, by names and labels.
fn in_order(shown: &str) -> String {
    let mut families = BTreeMap::<&str, (Vec<&str>, Vec<&str>)>::new();
    let mut name = "";
    // What is not a number is not there: a peer that was removed, for one.
    for line in shown.lines().filter(|line| !line.is_empty() && !line.ends_with(" NaN")) {
        if let Some(comment) = line.strip_prefix("# ") {
            name = comment.split(' ').nth(1).unwrap_or_default();
        }
        let (comments, values) = families.entry(name).or_default();
        let lines = if line.starts_with('#') { comments } else { values };
        lines.push(line);
    }
    let mut text = String::with_capacity(shown.len());
    for (comments, mut values) in families.into_values() {
        values.sort_unstable();
        for line in comments.into_iter().chain(values).chain([""]) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Hands out the handles.
struct Recording {
    exporter: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

impl Recorder for Recording {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.histograms.families().entry(key.as_str().into()).or_default().help = description;
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.exporter.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.exporter.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.get(key))
    }
}

/// All histograms, by name and labels.
#[derive(Default, Debug)]
struct Histograms(Mutex<BTreeMap<String, Family>>);

#[derive(Default, Debug)]
struct Family {
    help: SharedString,
    of: BTreeMap<String, Arc<Buckets>>,
}

impl Histograms {
    fn families(&self) -> MutexGuard<'_, BTreeMap<String, Family>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &Key) -> Arc<Buckets> {
        let bounds = match series::named(key.name()).map(|series| series.kind) {
            Some(Kind::Histogram(bounds)) => bounds,
            // Of a library, which names no bounds.
            _ => SECONDS,
        };
        let labels: Vec<_> =
            key.labels().map(|label| label_text(label.key(), label.value())).collect();
        let mut families = self.families();
        let family = families.entry(key.name().into()).or_default();
        let made = || Arc::new(Buckets::new(bounds));
        family.of.entry(labels.join(",")).or_insert_with(made).clone()
    }

    fn render(&self, text: &mut String) {
        for (name, Family { help, of }) in &*self.families() {
            if of.is_empty() {
                continue;
            }
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
            of.iter().for_each(|(labels, buckets)| buckets.render(text, name, labels));
            text.push('\n');
        }
    }
}

fn label_text(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// How many values there were between two bounds.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One more than bounds: the last one is of what is beyond.
    counts: Vec<AtomicU64>,
    /// In billionths.
    sum: AtomicU64,
}

const BILLION: f64 = 1e9;

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn render(&self, text: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".into()]);
        for (count, bound) in self.counts.iter().zip(bounds) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / BILLION;
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_sum{labels} {sum}\n{name}_count{labels} {total}");
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        // What is no duration, since it is negative or not a number, adds nothing.
        self.sum.fetch_add((value * BILLION) as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_their_values_are_in_order() {
        let shown = "# HELP b of b\n# TYPE b gauge\nb{peer=\"2\"} 1\nb{peer=\"3\"} NaN\nb{peer=\"1\"} 7\n\n\
                     # TYPE a counter\na 3\n\n";
        let ordered = "# TYPE a counter\na 3\n\n\
                       # HELP b of b\n# TYPE b gauge\nb{peer=\"1\"} 7\nb{peer=\"2\"} 1\n\n";
        assert_eq!(in_order(shown), ordered);
    }

    #[test]
    fn values_are_counted_at_their_bounds_and_below() {
        let histograms = Histograms::default();
        let name = series::REQUEST_DURATION.name;
        let label =
            |value: &'static str| Key::from_parts(name, vec![metrics::Label::new("method", value)]);
        let buckets = histograms.get(&label("GetTs"));
        for value in [0.000_05, 0.001, 0.001_1, 3.0, 60.0] {
            buckets.record(value);
        }
        histograms.get(&label("a\"b\\\n")).record(1.0);
        assert!(Arc::ptr_eq(&buckets, &histograms.get(&label("GetTs"))));
        let mut text = String::new();
        histograms.render(&mut text);
        for line in [
            format!("# TYPE {name} histogram"),
            format!("{name}_bucket{{method=\"GetTs\",le=\"0.0001\"}} 1"),
            format!("{name}_bucket{{method=\"GetTs\",le=\"0.001\"}} 2"),
            format!("{name}_bucket{{method=\"GetTs\",le=\"0.0025\"}} 3"),
            format!("{name}_bucket{{method=\"GetTs\",le=\"5\"}} 4"),
            format!("{name}_bucket{{method=\"GetTs\",le=\"10\"}} 4"),
            format!("{name}_bucket{{method=\"GetTs\",le=\"+Inf\"}} 5"),
            format!("{name}_sum{{method=\"GetTs\"}} 63.00215"),
            format!("{name}_count{{method=\"GetTs\"}} 5"),
            format!("{name}_count{{method=\"a\\\"b\\\\\\n\"}} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
