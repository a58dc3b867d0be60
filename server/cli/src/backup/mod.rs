//! Taking backups of a state that is served, and looking at them.

mod file;
mod take;
mod write;

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use tsoracle_core::{BackupHeader, BackupReader, Contents, StateCounts};

pub(crate) use self::file::NewFile;
pub(crate) use self::write::write;
use crate::{
    endpoints::Endpoints, failure::Failure, output::Output, progress::Progress, time::readable,
};

/// What has made a backup.
pub(crate) const PRODUCT: &str = concat!("tsoracle ", env!("CARGO_PKG_VERSION"));

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle backup --endpoint db1,db2,db3 /backups/tsoracle-$(date +%F)
  tsoracle backup verify /backups/tsoracle-2026-11-30
  tsoracle restore /backups/tsoracle-2026-11-30 file:./restored

A backup is the state of one version, taken from the leader while it serves, which it does not
hold up. The client needs the right `backup`. If the leader changes meanwhile, the copy is begun
again, a few times. The file appears under its name once it is whole and on disk.

Its checksums tell damage from a whole file. They are no signature: keep it where nobody else
can write.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// Options of `tsoracle backup`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The file to write; only its owner may read it
    #[arg(required = true)]
    file: Option<PathBuf>,

    /// Replace the file if there is one
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// What to do besides taking one.
#[derive(Subcommand, Debug)]
enum Command {
    /// Check a backup from its first byte to its last, and print what is in it
    Verify(VerifyArguments),
}

#[derive(Args, Debug)]
struct VerifyArguments {
    /// The backup
    file: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// What a backup holds, in words or JSON.
#[derive(Serialize, Debug)]
pub(crate) struct Summary {
    file: String,
    bytes: u64,
    /// Where it is from, and what has made it.
    source: String,
    product: String,
    taken: String,
    #[serde(skip)]
    taken_ms: u64,
    era: u64,
    number: u64,
    /// In JSON a string: it has more bits than readers of numbers keep.
    epoch: String,
    rules: u32,
    #[serde(flatten)]
    counts: StateCounts,
    /// It is of a state that was restored itself, and whose sequences were not open.
    sequences_closed: bool,
}

impl Summary {
    pub(crate) fn new(file: &Path, bytes: u64, header: &BackupHeader, contents: &Contents) -> Self {
        Self {
            file: file.display().to_string(),
            bytes,
            source: header.source.clone(),
            product: header.product.clone(),
            taken: readable(header.taken_ms),
            taken_ms: header.taken_ms,
            era: header.version.era,
            number: header.version.number,
            epoch: header.epoch.0.to_string(),
            rules: header.rules,
            counts: contents.counts,
            sequences_closed: contents.closed,
        }
    }

    /// Where timestamps were, and when.
    pub(crate) fn times_ms(&self) -> (u64, u64) {
        (self.counts.high_water_ms, self.taken_ms)
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn text(&self) -> String {
        let Self { file, bytes, counts, .. } = self;
        let closed = match self.sequences_closed {
            true => "; its sequences were closed",
            false => "",
        };
        format!(
            "{file}: {bytes} bytes, taken at {} from {} by {}; version {}.{}, {counts}, timestamps up to \
             {}{closed}",
            self.taken,
            self.source,
            self.product,
            self.era,
            self.number,
            readable(counts.high_water_ms)
        )
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments { command: Some(Command::Verify(arguments)), .. } => {
            let VerifyArguments { file, output } = arguments;
            let summary = tokio::task::spawn_blocking(move || verify(&file)).await;
            let summary = summary.map_err(Failure::failed)??;
            output.print(&summary, || format!("whole: {}", summary.text()))
        }
        Arguments { file: Some(file), force, endpoints, output, .. } => {
            let summary = take::run(&endpoints, &file, force).await?;
            output.print(&summary, || summary.text())
        }
        Arguments { .. } => Err(Failure::usage("name the file to write")),
    }
}

/// Opens a backup to be read, and tells how long it is.
pub(crate) fn open(path: &Path) -> Result<(BackupReader<BufReader<File>>, u64), Failure> {
    let about = |error: std::io::Error| {
        Failure::failed(format!("cannot read {}: {error:#}", path.display()))
    };
    let file = File::open(path).map_err(about)?;
    let metadata = file.metadata().map_err(about)?;
    if metadata.is_dir() {
        return Err(Failure::failed(format!("{} is a directory", path.display())));
    }
    let reader = BackupReader::new(BufReader::new(file)).map_err(|error| of(path, error))?;
    Ok((reader, metadata.len()))
}

/// The same, with the file that it is about.
pub(crate) fn of(path: &Path, error: tsoracle_core::Error) -> Failure {
    Failure::failed(format!("{}: {error:#}", path.display()))
}

pub(crate) fn verify(path: &Path) -> Result<Summary, Failure> {
    let (mut backup, length) = open(path)?;
    let progress = Progress::of_bytes("verifying", length);
    while backup.next_entries().map_err(|error| of(path, error))?.is_some() {
        progress.reach(backup.bytes());
    }
    let header = backup.header();
    if header.is_newer() {
        let rules = header.rules;
        return Err(Failure::failed(format!(
            "{}: its checksums are right, and it was made by a newer release: its state is under rules version \
             {rules}, which this one does not know; verify it with that release",
            path.display()
        )));
    }
    let contents = backup.contents().cloned().unwrap_or_default();
    Ok(Summary::new(path, backup.bytes(), header, &contents))
}
