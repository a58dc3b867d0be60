//! What is counted of the process, and what has to be looked at to be shown.

use std::{convert::Infallible, time::Duration};

use metrics_process::Collector;
use tsoracle_core::{Clock as _, Oracle, SystemClock, series};

use crate::log;

/// How often gauges are brought up to date that change by time alone.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what this is.
pub(crate) fn show_build(driver: &str) {
    series::BUILD_INFO.gauge_of(&[env!("CARGO_PKG_VERSION"), driver]).set(1.0);
}

/// Keeps up what is shown of an oracle and of the process, for ever.
pub(crate) async fn keep_up(oracle: Oracle) -> Infallible {
    let process = Collector::default();
    process.describe();
    let lost = series::LOG_LINES_LOST.counter();
    #[cfg(feature = "otlp")]
    let spans = (series::SPANS_SENT.counter(), series::SPANS_LOST.counter());
    loop {
        oracle.show_meters();
        process.collect();
        lost.absolute(log::lost());
        #[cfg(feature = "otlp")]
        {
            let (sent, lost) = crate::traces::counts();
            spans.0.absolute(sent);
            spans.1.absolute(lost);
        }
        SystemClock.sleep(EVERY).await;
    }
}
