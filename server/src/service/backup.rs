use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::Stream;
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
    type BackupStream = CopyParts;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<CopyParts>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let copy = oracle.copy_state().await;
        let copy = copy.map_err(|error| self.statuses.of(&error, Asked::Sequences))?;
        let ending = Ending::new(self.stopping.clone(), request.extensions().get());
        let statuses = self.statuses.clone();
        let state = Copying::Between(Box::new(copy));
        Ok(Response::new(CopyParts { state, statuses, ending, client }))
    }
}

/// The parts of a copy, each made when the transport has room for it.
pub(crate) struct CopyParts {
    state: Copying,
    statuses: Statuses,
    ending: Ending,
    client: Arc<Client>,
}

type NextPart = Pin<Box<dyn Future<Output = (Box<StateCopy>, Result<Option<CopyPart>>)> + Send>>;

enum Copying {
    Between(Box<StateCopy>),
    UnderWay(NextPart),
    Ended,
}

impl CopyParts {
    /// It lasts: what the client may do can change meanwhile.
    fn admitted(&mut self) -> Result<()> {
        if !self.client.is_current() {
            self.client = self.client.renewed()?;
        }
        self.client.check(&[Right::Backup])
    }

    fn end(&mut self, outcome: Result<(), Status>) -> Result<(), Status> {
        self.state = Copying::Ended;
        self.client.audit().begin(self.client.who(), Right::Backup, "state").end(outcome)
    }

    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<CopyPart>>> {
        if let Copying::Between(_) = &self.state {
            self.admitted()?;
            if let Copying::Between(mut copy) = mem::replace(&mut self.state, Copying::Ended) {
                self.state = Copying::UnderWay(Box::pin(async move {
                    let part = copy.next().await;
                    (copy, part)
                }));
            }
        }
        let Copying::UnderWay(part) = &mut self.state else { return Poll::Ready(Ok(None)) };
        let (copy, part) = ready!(part.as_mut().poll(context));
        self.state = Copying::Between(copy);
        Poll::Ready(part)
    }
}

impl Stream for CopyParts {
    type Item = Result<v1::BackupResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Copying::Ended = this.state {
            return Poll::Ready(None);
        }
        let part = match this.poll_part(context) {
            Poll::Ready(part) => part.map_err(|error| this.statuses.of(&error, Asked::Sequences)),
            Poll::Pending => {
                Err(ready!(this.ending.poll(context, (&this.statuses, Asked::Sequences))))
            }
        };
        let answer = match part {
            Ok(Some(part)) => {
                let is_last = matches!(part, CopyPart::End { .. });
                let recorded = if is_last { this.end(Ok(())) } else { Ok(()) };
                recorded.map(|()| v1::BackupResponse { part: Some(wire(part)) })
            }
            Ok(None) => return Poll::Ready(None),
            Err(status) => Err(this.end(Err(status.clone())).err().unwrap_or(status)),
        };
        Poll::Ready(Some(answer))
    }
}

impl Drop for CopyParts {
    fn drop(&mut self) {
        if !matches!(self.state, Copying::Ended) {
            let status = Status::cancelled("the caller has gone before the end");
            let _ = self.end(Err(status));
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
