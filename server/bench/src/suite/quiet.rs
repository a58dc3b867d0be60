//! How much of the machine others take, before and while something is measured.

use std::time::Duration;

use tsoracle_core::{Clock as _, SystemClock};

use super::{machine::Ticks, say};
use tsoracle::{bench::load::now, failure::Failure};

/// How long the machine is looked at, to see whether others use it.
const LOOK: Duration = Duration::from_secs(3);

/// The share of the machine that others may take for it to be quiet.
const QUIET: f64 = 0.03;

/// What others took of the machine.
#[derive(Default, Debug)]
pub(crate) struct Noise {
    /// How long it was waited for a quiet machine, and what others took at the end of that.
    waited: Duration,
    before: Option<f64>,
    /// Part by part of what was measured.
    during: Vec<f64>,
}

/// A part that is measured.
#[derive(Debug)]
pub(crate) struct Part(Result<Ticks, Failure>);

impl Noise {
    /// Waits until others leave the machine alone, but no longer than `most`.
    pub(crate) async fn wait(most: Duration) -> Result<Self, Failure> {
        let started = now();
        loop {
            let look = Part::begin();
            SystemClock.sleep(LOOK).await;
            let taken = look.taken()?;
            let waited = now() - started;
            if taken <= QUIET || waited + LOOK > most {
                return Ok(Self { waited, before: Some(taken), during: vec![] });
            }
            say(&format!("others take {:.0} % of the machine; waiting", taken * 100.0));
        }
    }

    /// Notes what others took meanwhile.
    pub(crate) fn note(&mut self, part: Part) {
        // A part without figures is left out.
        self.during.extend(part.taken());
    }

    /// In one or two sentences.
    pub(crate) fn text(&self) -> String {
        let percent = |share: f64| format!("{:.0}", share * 100.0);
        let mut text = String::new();
        if let Some(before) = self.before.filter(|before| *before > QUIET) {
            text = format!(
                "**The machine was not quiet**: others took {} % of it, even after {:.0} s. ",
                percent(before),
                self.waited.as_secs_f64()
            );
        }
        let least = self.during.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.during.iter().copied().fold(0.0, f64::max);
        match self.during.is_empty() {
            true => text,
            false => format!(
                "{text}Other programs took {} to {} % of the machine meanwhile, part by part. ",
                percent(least),
                percent(most)
            ),
        }
    }
}

impl Part {
    pub(crate) fn begin() -> Self {
        Self(Ticks::read())
    }

    fn taken(self) -> Result<f64, Failure> {
        Ok(Ticks::read()?.taken_by_others_since(self.0?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_others_use_is_said_to_be_so() {
        let noise = |before, during: &[f64]| Noise {
            waited: Duration::from_secs(120),
            before: Some(before),
            during: during.to_vec(),
        };
        let text = noise(0.01, &[0.0, 0.021, 0.01]).text();
        assert_eq!(text, "Other programs took 0 to 2 % of the machine meanwhile, part by part. ");
        let text = noise(0.5, &[]).text();
        assert!(text.contains("not quiet") && text.contains("120 s") && text.contains("50 %"));
    }
}
