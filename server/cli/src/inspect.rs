//! Looking at the state of a stopped node.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use clap::Args;
use serde::Serialize;
use tsoracle_core::{
    BackupHeader, Clock as _, Contents, DriverConfig, NodeId, StateCounts, StoppedReader,
    StoppedState, SystemClock, VERSION, Version, inspected,
};

use crate::{
    ask::Next,
    backup::{self, NewFile, PRODUCT},
    drivers,
    failure::{Failure, usage_if_config},
    log,
    output::{Output, word},
    time::readable,
    unfinished,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle inspect file:/var/lib/tsoracle
  tsoracle inspect openraft:./raft-2 --json     its path is enough of the driver's options
  tsoracle inspect openraft:./raft-2 --keys     each sequence, with its next value
  tsoracle inspect openraft:./raft-2 --export last-copy
                                                the same as a backup, for `tsoracle restore`

The node must be stopped. Of a cluster this shows what one node holds, its log included: others may
hold commits that it never got. So look at all nodes that are left, and export the one that is
furthest. Drivers that keep nothing in a directory of their own say so.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// Options of `tsoracle inspect`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The driver, as for `tsoracle serve`; of its options only the path is looked at
    driver: String,

    /// List every sequence, with its next value
    #[arg(long)]
    keys: bool,

    /// Write the state to this file, as `tsoracle backup` would
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,

    /// Replace the file if there is one
    #[arg(long, requires = "export")]
    force: bool,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Report {
    driver: String,
    /// In JSON a string: it has more bits than readers of numbers keep.
    node: Option<String>,
    era: u64,
    number: u64,
    epoch: String,
    stage: &'static str,
    rules: u32,
    #[serde(flatten)]
    counts: StateCounts,
    sequences_closed: bool,
    exported: Option<String>,
    /// What a person has to know.
    notes: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    log::start(log::filter(Some("warn"))?, log::Format::default(), Vec::new())?;
    let looking = move || look(&arguments);
    // Reads from disk all the while.
    tokio::task::spawn_blocking(looking).await.map_err(Failure::failed)?
}

fn look(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { driver, keys, export, force, output } = arguments;
    let config = DriverConfig::parse(driver).map_err(usage_if_config)?;
    let name = config.name().to_owned();
    drivers::check(&name)?;
    let (Some(reader), Some(path)) = (StoppedReader::of(&name), drivers::directory(&config)?)
    else {
        return Err(Failure::failed(format!(
            "the state of the {name} driver cannot be read while no node runs: start one, and use `tsoracle backup` \
             and `tsoracle seq-list`"
        )));
    };
    unfinished::refuse(&config)?;
    let state = (reader.read)(&path)?;
    let (rules, contents) = contents(&state)?;
    let version = Version::decode(state.get(VERSION)?.as_deref())?;
    let exported = match export {
        None => None,
        Some(file) => {
            let header = BackupHeader {
                product: PRODUCT.into(),
                source: format!("{name}, stopped"),
                node: state.node()?,
                version,
                epoch: contents.epoch,
                rules,
                taken_ms: last_written_ms(&path).unwrap_or_else(|| SystemClock.now().wall_ms),
            };
            let new = NewFile::create(file, *force)?;
            let mut entries = inspected::entries(&state);
            Some(backup::write(&header, new, file, || entries.next().transpose())?)
        }
    };
    if *keys {
        for sequence in inspected::sequences(&state) {
            let (key, next) = sequence?;
            let next = Next { key: key.as_str(), next };
            output.print(&next, || format!("{} {}", word(next.key), next.next))?;
        }
        return Ok(());
    }
    let report = Report {
        driver: name,
        node: state.node()?.map(|NodeId(id)| id.to_string()),
        era: version.era,
        number: version.number,
        epoch: contents.epoch.0.to_string(),
        stage: contents.stage(),
        rules,
        counts: contents.counts,
        sequences_closed: contents.closed,
        exported: exported.map(|summary| summary.file().to_owned()),
        notes: state.notes.clone(),
    };
    output.print(&report, || text(&report))
}

/// When something was written to a directory last, as far as its files say: of that time is what is in it.
fn last_written_ms(directory: &Path) -> Option<u64> {
    let entries = fs::read_dir(directory).ok()?;
    let written = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() {
            return last_written_ms(&entry.path());
        }
        let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    });
    written.max().map(|ms| ms.min(SystemClock.now().wall_ms))
}

fn contents(state: &StoppedState) -> Result<(u32, Contents), Failure> {
    match inspected::contents(state)? {
        Some(found) => Ok(found),
        None => {
            // With what is known of it besides: it may have been used, and have lost that.
            let mut what = "no node has reigned over this state".to_owned();
            state.notes.iter().for_each(|note| what += &format!("; {note}"));
            Err(Failure::failed(what))
        }
    }
}

fn text(report: &Report) -> String {
    let Report { era, number, epoch, stage, counts, .. } = report;
    let mut text = format!(
        "version {era}.{number}, epoch {epoch} ({stage}), rules {}, {counts}, timestamps up to {}",
        report.rules,
        readable(counts.high_water_ms)
    );
    if report.sequences_closed {
        text += "; its sequences are closed";
    }
    for note in &report.notes {
        text += &format!("\nnote: {}", word(note));
    }
    if let Some(file) = &report.exported {
        text += &format!("\nexported to {file}");
    }
    text
}
