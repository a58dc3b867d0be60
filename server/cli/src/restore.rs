//! Restoring a backup into a new driver.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use clap::Args;
use serde::Serialize;
use tsoracle_core::{
    Clock as _, DriverConfig, Error, ErrorKind, LOCK_FILE, OracleOptions, RestoreTerms, Restored,
    RestoredTime, SeqKey, StateCounts, SystemClock, restore,
};

use crate::{
    backup, drivers,
    failure::{Failure, usage_if_absurd, usage_if_config},
    log,
    output::Output,
    progress::Progress,
    target::{self, Target},
    time::{Time, readable},
    unfinished,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle restore /backups/tsoracle-2026-11-30 file:./restored
  sudo -u tsoracle tsoracle restore /var/lib/tsoracle/backup file:/var/lib/tsoracle/state
  tsoracle restore backup 'openraft:./n1?node=1&peers=1=10.0.0.1:7101/10.0.0.1:7100'
  tsoracle restore backup etcd://10.0.0.1:2379/tsoracle --floor orders=70000 --floor invoices=20100
  tsoracle restore backup file:./data --accept-sequence-loss
  PEERS=1=127.0.0.1:7101/127.0.0.1:1,2=127.0.0.1:7102/127.0.0.1:2
  PEERS=$PEERS,3=127.0.0.1:7103/127.0.0.1:3
  tsoracle restore backup \"omnipaxos:./n1?node=1&peers=$PEERS\" \\
    \"omnipaxos:./n2?node=2&peers=$PEERS\" \"omnipaxos:./n3?node=3&peers=$PEERS\"

The driver must be new, and whatever served the state before must be stopped for good. Timestamps
go on at once, above all that can have been given out since: above the clock, and above those of the backup by as long as
it is old, and by the margin. Sequences do not: values that were granted after the backup
was taken would be granted once more. Each is refused until it is opened from a floor above those, or
all are with their loss accepted: here, or later by `tsoracle seq-open`.

Run it as the user that will serve, who cannot read what root leaves: the second example is for the
service of the Debian package, which is stopped meanwhile, and whose old state was moved away.

If it is interrupted, nothing opens the target: restore into it again, and remove it before if that is
refused.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// How far ahead timestamps begin: further than a stamping lease can reach that was granted after the
/// backup was taken, and than clocks may be wrong that are kept right.
const MARGIN: &str = "6m";

/// Options of `tsoracle restore`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The backup
    file: PathBuf,

    /// The driver to restore into, which was never used; all nodes of one that needs several to lead
    #[arg(required = true)]
    to: Vec<String>,

    #[command(flatten)]
    floors: Floors,

    /// How far timestamps begin above whatever they may have come to since the backup was taken
    #[arg(long, value_name = "DURATION", default_value = MARGIN, value_parser = crate::time::duration)]
    margin: Duration,

    /// Every timestamp will be later than this instead: milliseconds since 1970, or a time in RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "margin")]
    physical_ms: Option<Time>,

    /// Take a time that is more than a year from the clock, or that timestamps may have come to already
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    output: Output,
}

/// From where sequences go on that may have gone back.
#[derive(Args, Clone, Debug)]
pub(crate) struct Floors {
    /// Open a sequence, whose next value is not to be below N; repeat it for more
    #[arg(long = "floor", value_name = "KEY=N", value_parser = floor)]
    floors: Vec<(SeqKey, u64)>,

    /// Open the sequences that this file names: a line KEY=N for each
    #[arg(long = "floors", value_name = "FILE")]
    floors_file: Option<PathBuf>,

    /// Open all other sequences too, where the backup has them: values may be granted twice
    #[arg(long)]
    pub(crate) accept_sequence_loss: bool,
}

fn floor(text: &str) -> Result<(SeqKey, u64), String> {
    let (key, next) = text.rsplit_once('=').ok_or("a floor is KEY=N")?;
    let key = SeqKey::new(key).map_err(|error| error.to_string())?;
    let next: u64 =
        next.trim().parse().map_err(|_| format!("{next:?} is no value of a sequence"))?;
    match next {
        u64::MAX => Err("a sequence that begins at the last value has none to give out".into()),
        next => Ok((key, next)),
    }
}

/// Whether there are spaces around a key.
fn spaced(key: &SeqKey) -> bool {
    key.as_str().trim() != key.as_str()
}

impl Floors {
    /// All of them. A key that is named twice is a mistake.
    pub(crate) fn all(&self) -> Result<BTreeMap<SeqKey, u64>, Failure> {
        let mut named = self.floors.clone();
        if let Some(path) = &self.floors_file {
            let about = |what: String| Failure::usage(format!("{}: {what}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| about(error.to_string()))?;
            // Some editors put a mark before a text that is no part of it.
            let text = text.trim_start_matches('\u{feff}');
            for (number, line) in text.lines().enumerate() {
                if line.trim().is_empty() {
                    continue;
                }
                let floor = floor(line).and_then(|floor| match spaced(&floor.0) {
                    // It would be another sequence, which is not what was meant.
                    true => Err(format!(
                        "the key {:?} begins or ends with a space; if it does, open it by --floor",
                        floor.0.as_str()
                    )),
                    false => Ok(floor),
                });
                named.push(floor.map_err(|what| about(format!("line {}: {what}", number + 1)))?);
            }
        }
        let mut floors = BTreeMap::new();
        for (key, next) in named {
            if let Some(before) = floors.insert(key.clone(), next) {
                let key = key.as_str();
                let context = format!("sequence {key:?} has two floors, {before} and {next}");
                return Err(Failure::usage(context));
            }
        }
        Ok(floors)
    }
}

#[derive(Serialize)]
struct Report {
    file: String,
    to: String,
    taken: String,
    #[serde(flatten)]
    counts: StateCounts,
    sequences_closed: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    log::start(log::filter(Some("warn"))?, log::Format::default(), Vec::new())?;
    let Arguments { file, to, floors, margin, physical_ms, force, output } = arguments;
    let to = to.iter().map(|to| DriverConfig::parse(to)).collect::<Result<Vec<_>, _>>();
    let to = to.map_err(usage_if_config)?;
    target::check(&to)?;
    for config in &to {
        drivers::check(config.name())?;
        is_new(config)?;
    }
    let (name, opened) = (to[0].name().to_owned(), floors.all()?);
    let above = RestoredTime::Above(margin);
    let terms = RestoreTerms {
        time: physical_ms.map_or(above, |Time(ms)| RestoredTime::After(ms)),
        insists: force,
        lease: OracleOptions::default().lease,
        accept_sequence_loss: floors.accept_sequence_loss,
        floors: opened,
    };
    // Before the target is made, so that a wrong file leaves nothing behind.
    let checked = file.clone();
    let checked = tokio::task::spawn_blocking(move || backup::verify(&checked)).await;
    let summary = checked.map_err(Failure::failed)??;
    let (reached_ms, taken_ms) = summary.times_ms();
    terms
        .high_water_ms(reached_ms, taken_ms, SystemClock.now().wall_ms)
        .map_err(usage_if_absurd)?;
    let target = Target::open(&to).await?;
    let progress = Progress::counting("entries restored");
    let open = || {
        let opened = backup::open(&file).map(|(backup, _)| backup);
        opened.map_err(|failure| Error::new(ErrorKind::Corrupt, failure.to_string()))
    };
    let restored =
        restore(open, target.leader(), &SystemClock, &terms, |entries| progress.reach(entries));
    let restored = restored.await;
    drop(progress);
    let Restored { counts, header, closed } = match restored {
        Ok(restored) => restored,
        Err(error) => {
            // It has failed already; that it does not stop either would tell nothing more.
            let _ = target.shutdown().await;
            return Err(match error.kind() {
                ErrorKind::Config => Failure::failed(error),
                _ => {
                    Failure::failed(format!("{error:#}; nothing serves from the target: remove it"))
                }
            });
        }
    };
    target.finish().await?;
    let report = Report {
        file: summary.file().into(),
        to: name,
        taken: readable(header.taken_ms),
        counts,
        sequences_closed: closed,
    };
    output.print(&report, || text(&report, terms.floors.len()))
}

fn text(report: &Report, floors: usize) -> String {
    let counts = report.counts;
    let opened = match (report.sequences_closed, floors) {
        (false, _) => "all are open, and what was granted since may be granted once more".into(),
        (true, 0) => "all are closed until `tsoracle seq-open` opens them".into(),
        (true, floors) => {
            format!(
                "{floors} are open from their floors, and all others closed until `tsoracle seq-open`"
            )
        }
    };
    format!(
        "restored, as of {}: {counts}; every timestamp will be later than {}; of the sequences {opened}",
        report.taken,
        readable(counts.high_water_ms)
    )
}

/// That there is no state but one that a restore has begun, before anything is opened that could change it.
fn is_new(target: &DriverConfig) -> Result<(), Failure> {
    match drivers::directory(target)? {
        Some(path) if path.join(LOCK_FILE).exists() && !unfinished::is_marked(&path) => {
            Err(Failure::failed(format!(
                "there is a state in {} already, which was left as it is; restore into a new directory",
                path.display()
            )))
        }
        _ => Ok(()),
    }
}
