//! The calls whose requests and answers are streams. Nothing runs beside them: they are polled for
//! their answers, which the transport does only while it has room for one.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{sync::watch, time::Sleep};
use tonic::Status;
use tsoracle_core::{Error, ErrorKind};

use crate::{
    edge::Allowed,
    status::{Asked, Statuses, too_late},
};

mod run;
mod sequences;
mod timestamps;

pub(super) use sequences::SeqAnswers;
pub(super) use timestamps::TsAnswers;

/// What ends a stream from this side: the server stops, or the time is over that the client allowed.
pub(crate) struct Ending {
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Only if the client has set a deadline: streams are meant to last.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Ending {
    #[expect(clippy::disallowed_methods, reason = "no promise hangs on when a stream is ended")]
    pub(crate) fn new(mut stopping: watch::Receiver<bool>, allowed: Option<&Allowed>) -> Self {
        let asked = allowed.and_then(|allowed| allowed.asked);
        let sleep = |time: Duration| Box::pin(tokio::time::sleep(time));
        let stopping = Box::pin(async move {
            // An error means that the server is gone, and nothing can stop it.
            if stopping.wait_for(|stopping| *stopping).await.is_err() {
                std::future::pending().await
            }
        });
        Self { stopping, deadline: asked.map(sleep) }
    }

    /// The status to end with, once there is a reason to.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        say: (&Statuses, Asked),
    ) -> Poll<Status> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(too_late());
        }
        ready!(self.stopping.as_mut().poll(context));
        let (statuses, asked) = say;
        let error = Error::new(ErrorKind::NotLeader(None), "this node is stopping");
        Poll::Ready(statuses.of(&error, asked))
    }
}
