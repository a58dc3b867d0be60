use std::{path::Path, time::Duration};

use super::{
    Op, WARM_UP,
    disk::Disk,
    echo,
    load::{Measured, Window, is_watched},
    process::Process,
    targets::{Question, Target},
};
use crate::{endpoints::Endpoints, failure::Failure};

/// Turns of server, echo and disk: drift of the machine meets all of them alike.
const TURNS: u32 = 5;

/// How long each turn of the disk is, at most: its latency is known soon.
const DISK_TURN: Duration = Duration::from_millis(500);

/// What the machine can do at best, measured in turns with a server.
#[derive(Debug)]
pub struct Baseline {
    _echo_server: Process,
    echo_target: Target,
    log: Disk,
    pub echo: Measured,
    pub disk: Measured,
    /// The server's calls per second over the echo's, turn by turn.
    pub ratios: Vec<f64>,
}

impl Baseline {
    pub async fn start(directory: &Path, connections: usize) -> Result<Self, Failure> {
        let log = Disk::open(directory)?;
        let echo_server = echo::start()?;
        let endpoints = Endpoints::local(&echo_server.address);
        let echo_target = Target::connect(&endpoints, connections, true).await?;
        let (echo, disk, ratios) = (Measured::default(), Measured::default(), Vec::new());
        Ok(Self { _echo_server: echo_server, echo_target, log, echo, disk, ratios })
    }

    /// Measures `target` for `length` in all, and the echo for as long.
    pub async fn run(
        &mut self,
        target: &Target,
        question: Question,
        callers: usize,
        length: Duration,
    ) -> Result<Measured, Failure> {
        let unary = Question { op: Op::Ts, batch: 1, keys: 1 };
        let mut measured = Measured::default();
        for turn in 0..TURNS {
            let warm_up = if turn == 0 { WARM_UP } else { WARM_UP / 5 };
            let window = Window { warm_up, length: length / TURNS };
            let echo = self.echo_target.measure(unary, callers, window, is_watched()).await;
            let server = target.measure(question, callers, window, is_watched()).await;
            self.disk.append(&self.log.measure(DISK_TURN.min(length / TURNS))?);
            self.ratios.push(server.calls_per_second() / echo.calls_per_second());
            self.echo.append(&echo);
            measured.append(&server);
        }
        self.echo.clone().some("echo")?;
        Ok(measured)
    }
}

/// The middle one of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (odd, middle) if odd % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
