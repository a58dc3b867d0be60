use std::{path::Path, time::Duration};

use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};
use tsoracle_core::{
    Assembled, Assembly, BackupHeader, BootTime, Clock as _, CopiedCommit, CopyPart, Entry, Epoch,
    Error, ErrorKind, SystemClock, Version,
};
use tsoracle_proto::v1::{
    BackupRequest, BackupResponse, StateCommit, StateEntry, StatePage, StateVersion,
    backup_response::Part, backup_service_client::BackupServiceClient,
};

use super::{NewFile, PRODUCT, Summary, of, write};
use crate::{
    endpoints::{Endpoints, said},
    failure::Failure,
    leader::{Leader, Unanswered},
    progress::Progress,
};

/// How often a copy is begun because the leader has changed.
const ATTEMPTS: u32 = 5;

/// How long another leader is looked for.
const ELECTION: Duration = Duration::from_secs(30);

/// How long the leader may send nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a message may be: one commit can have a megabyte and more.
const MESSAGE_BYTES: usize = 64 << 20;

/// Why an attempt failed.
enum Failed {
    /// The leader has changed, or will: begin again.
    Again(Failure),
    ForGood(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::ForGood(failure)
    }
}

pub(super) async fn run(
    endpoints: &Endpoints,
    path: &Path,
    force: bool,
) -> Result<Summary, Failure> {
    // Before anything is asked for, so that no one waits for what cannot be written.
    let file = NewFile::create(path, force)?;
    let mut patience = endpoints.timeout;
    let mut last = Failure::failed("no server was asked");
    for _ in 0..ATTEMPTS {
        match attempt(endpoints, path, patience).await {
            Ok((mut assembled, source)) => {
                let path = path.to_owned();
                let header = BackupHeader {
                    product: PRODUCT.into(),
                    source,
                    node: None,
                    version: assembled.version,
                    epoch: assembled.epoch,
                    rules: assembled.rules,
                    taken_ms: SystemClock.now().wall_ms,
                };
                let writing = move || write(&header, file, &path, || assembled.next_entry());
                return tokio::task::spawn_blocking(writing).await.map_err(Failure::failed)?;
            }
            Err(Failed::ForGood(failure)) => return Err(failure),
            Err(Failed::Again(failure)) => (last, patience) = (failure, patience.max(ELECTION)),
        }
    }
    Err(Failure::failed(format!("{last}; this was tried {ATTEMPTS} times: run it again")))
}

async fn attempt(
    endpoints: &Endpoints,
    path: &Path,
    patience: Duration,
) -> Result<(Assembled, String), Failed> {
    let (mut parts, source) = begin(endpoints, SystemClock.now().boot + patience).await?;
    let directory = NewFile::directory(path);
    let new_file = move || tempfile::tempfile_in(&directory);
    let mut assembly = Assembly::new(new_file).map_err(|error| of(path, error))?;
    let progress = Progress::counting("entries copied");
    let mut copied = 0;
    loop {
        let message = timeout(SILENCE, parts.message()).await.unwrap_or_else(|_| {
            Err(Status::unavailable(format!("the leader has sent nothing for {SILENCE:?}")))
        });
        let message = match message {
            Ok(Some(message)) => message,
            // The end is a message of its own.
            Ok(None) => return Err(Failed::Again(Failure::failed("the copy was cut short"))),
            Err(status) => return Err(refused(&source, &status)),
        };
        let part = part(message).map_err(|error| of(path, error))?;
        if let CopyPart::Page { entries, .. } = &part {
            copied += entries.len() as u64;
            progress.reach(copied);
        }
        let is_last = matches!(part, CopyPart::End { .. });
        // Writes to disk, without a sync: this task has nothing else to do.
        assembly.add(part).map_err(|error| of(path, error))?;
        if is_last {
            return Ok((assembly.finish().map_err(|error| of(path, error))?, source));
        }
    }
}

/// The parts of a copy, from the server that leads.
async fn begin(
    endpoints: &Endpoints,
    until: BootTime,
) -> Result<(Streaming<BackupResponse>, String), Failed> {
    let mut leader = Leader::new(endpoints)?;
    let may_pass = |status: &Status| matches!(refused("", status), Failed::Again(_));
    let asked = leader.ask_until(until, may_pass, async |channel, within| {
        let mut client = BackupServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        let began = timeout(within, client.backup(Request::new(BackupRequest {}))).await;
        began.unwrap_or_else(|_| Err(Status::unavailable("it did not answer in time")))
    });
    match asked.await {
        Ok(parts) => Ok((parts, leader.endpoint().into())),
        Err(Unanswered::Refused(endpoint, status)) => Err(refused(&endpoint, &status)),
        Err(Unanswered::Unreached(why)) => Err(Failed::ForGood(Failure::failed(format!(
            "{why}; no leader was found within the time: run it again"
        )))),
    }
}

fn refused(endpoint: &str, status: &Status) -> Failed {
    let failure = Failure::failed(format!("{endpoint}: {}", said(status)));
    match status.code() {
        Code::Unimplemented => Failed::ForGood(Failure::failed(format!(
            "{endpoint}: this server is of a release that knows no backups while it serves"
        ))),
        // What a proxy or a connection that breaks says.
        Code::Unavailable | Code::FailedPrecondition | Code::Cancelled | Code::Unknown => {
            Failed::Again(failure)
        }
        Code::DeadlineExceeded => Failed::Again(failure),
        _ => Failed::ForGood(failure),
    }
}

/// A part as it came.
fn part(message: BackupResponse) -> Result<CopyPart, Error> {
    match message.part {
        Some(Part::Page(StatePage { version: at, entries, through })) => Ok(CopyPart::Page {
            version: version(at)?,
            entries: entries.into_iter().map(whole).collect::<Result<_, _>>()?,
            through: through.into(),
        }),
        Some(Part::Commits(commits)) => {
            let commits = commits.commits.into_iter().map(commit);
            Ok(CopyPart::Commits(commits.collect::<Result<_, _>>()?))
        }
        Some(Part::End(end)) => Ok(CopyPart::End {
            version: version(end.version)?,
            epoch: Epoch(end.epoch.map(u128::from).unwrap_or_default()),
        }),
        None => Err(unknown("a part of a kind that this release does not know")),
    }
}

fn commit(StateCommit { base, version: made, writes }: StateCommit) -> Result<CopiedCommit, Error> {
    let write = |StateEntry { key, value }: StateEntry| (key.into(), value.map(Into::into));
    Ok(CopiedCommit {
        base: version(base)?,
        version: version(made)?,
        writes: writes.into_iter().map(write).collect(),
    })
}

fn whole(StateEntry { key, value }: StateEntry) -> Result<Entry, Error> {
    let value = value.ok_or_else(|| unknown("an entry without a value"))?;
    Ok((key.into(), value.into()))
}

fn version(version: Option<StateVersion>) -> Result<Version, Error> {
    let StateVersion { era, number, name } = version.unwrap_or_default();
    let name: [u8; 16] = name[..].try_into().map_err(|_| unknown("a version without a name"))?;
    Ok(Version { era, number, name: u128::from_be_bytes(name) })
}

fn unknown(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the server has sent {what}"))
}
