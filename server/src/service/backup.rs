use std::{future::poll_fn, sync::Arc};

use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tsoracle_core::{CopiedCommit, CopyPart, Result, StateCopy, Version};
use tsoracle_proto::v1::{self, backup_response::Part, backup_service_server::BackupService};

use super::{client, convert, streams::Ending, within_deadline};
use crate::{
    rights::{Client, Right},
    status::{Asked, Statuses},
};

/// Copies of the whole state.
#[derive(Clone, Debug)]
pub(crate) struct Backups {
    pub(crate) oracle: tsoracle_core::Oracle,
    pub(crate) statuses: Statuses,
    /// Turns true when streams are to end.
    pub(crate) stopping: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl BackupService for Backups {
    type BackupStream = BoxStream<'static, Result<v1::BackupResponse, Status>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let copy = oracle.copy_state().await;
        let copy = copy.map_err(|error| self.statuses.of(&error, Asked::Sequences))?;
        let ending = Ending::new(self.stopping.clone(), request.extensions().get());
        let statuses = self.statuses.clone();
        let parts = CopyParts { copy, statuses, ending, client, has_ended: false };
        let next = |mut parts: CopyParts| async move { Some((parts.next().await?, parts)) };
        Ok(Response::new(Box::pin(stream::unfold(parts, next))))
    }
}

/// The parts of a copy, each made when the transport has room for it.
struct CopyParts {
    copy: StateCopy,
    statuses: Statuses,
    ending: Ending,
    client: Arc<Client>,
    has_ended: bool,
}

impl CopyParts {
    /// What comes next; nothing after the end.
    async fn next(&mut self) -> Option<Result<v1::BackupResponse, Status>> {
        if self.has_ended {
            return None;
        }
        let admitted = self.admitted();
        let say = (&self.statuses, Asked::Sequences);
        let part = match admitted {
            Err(error) => Err(say.0.of(&error, say.1)),
            Ok(()) => tokio::select! {
                biased;
                part = self.copy.next() => part.map_err(|error| say.0.of(&error, say.1)),
                status = poll_fn(|context| self.ending.poll(context, say)) => Err(status),
            },
        };
        match &part {
            Ok(Some(CopyPart::End { .. })) => self.end(Ok(())),
            Ok(_) => {}
            Err(status) => self.end(Err(status.clone())),
        }
        let part = part.transpose()?;
        Some(part.map(|part| v1::BackupResponse { part: Some(wire(part)) }))
    }

    /// It lasts: what the client may do can change meanwhile.
    fn admitted(&mut self) -> Result<()> {
        if !self.client.is_current() {
            self.client = self.client.renewed()?;
        }
        self.client.check(&[Right::Backup])
    }

    /// It has ended so, which is recorded.
    fn end(&mut self, outcome: Result<(), Status>) {
        self.has_ended = true;
        let action = self.client.audit().begin(self.client.who(), Right::Backup, "state");
        let _ = action.end(outcome);
    }
}

impl Drop for CopyParts {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Err(Status::cancelled("the caller has gone before the end")));
        }
    }
}

fn wire(part: CopyPart) -> Part {
    match part {
        CopyPart::Page { version: at, entries, through } => Part::Page(v1::StatePage {
            version: Some(version(at)),
            entries: entries.into_iter().map(|(key, value)| entry((key, Some(value)))).collect(),
            through: through.into(),
        }),
        CopyPart::Commits(commits) => {
            let commit = |CopiedCommit { base, version: made, writes }| v1::StateCommit {
                base: Some(version(base)),
                version: Some(version(made)),
                writes: writes.into_iter().map(entry).collect(),
            };
            Part::Commits(v1::StateCommits { commits: commits.into_iter().map(commit).collect() })
        }
        CopyPart::End { version: at, epoch } => Part::End(v1::StateEnd {
            version: Some(version(at)),
            epoch: Some(convert::epoch(epoch)),
        }),
    }
}

fn entry((key, value): (Vec<u8>, Option<Vec<u8>>)) -> v1::StateEntry {
    v1::StateEntry { key: key.into(), value: value.map(Into::into) }
}

fn version(Version { era, number, name }: Version) -> v1::StateVersion {
    v1::StateVersion { era, number, name: name.to_be_bytes().to_vec().into() }
}
