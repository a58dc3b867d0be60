//! How far long work has come, shown to a person who watches, and to nobody else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a bar shows that the program is alive.
const TICK: Duration = Duration::from_millis(200);

const KNOWN: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const OPEN: &str = "{spinner} {msg}: {human_pos} {elapsed}";

/// A bar on standard error, if that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of so many bytes in all.
    pub(crate) fn of_bytes(what: &'static str, total: u64) -> Self {
        Self::styled(ProgressBar::new(total), KNOWN, what)
    }

    /// Of things that are counted as they come.
    pub(crate) fn counting(what: &'static str) -> Self {
        Self::styled(ProgressBar::new_spinner(), OPEN, what)
    }

    fn styled(bar: ProgressBar, template: &str, what: &'static str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many by now.
    pub(crate) fn reach(&self, position: u64) {
        self.0.set_position(position);
    }
}

/// What was shown goes, so that the result stands alone.
impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
