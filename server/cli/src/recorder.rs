//! What is counted, until it is scraped.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::failure::Failure;

/// Counts all that is counted from now on.
///
/// # Errors
/// Something else does so already.
pub(crate) fn install() -> Result<Scrape, Failure> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|error| Failure::failed(format!("cannot count: {error}")))?;
    Ok(Scrape(handle))
}

/// Shows what is counted.
#[derive(Clone, Debug)]
pub(crate) struct Scrape(PrometheusHandle);

impl Scrape {
    /// All series, in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        self.0.render()
    }

    /// Takes together what was counted lately. Meant to be called now and then.
    pub(crate) fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}
