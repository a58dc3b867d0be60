//! Whether the engine's task has its turns: one that is blocked, by a driver that waits where it must not, looks like one that
//! has nothing to do.

use std::future::pending;

use tokio::sync::watch;

/// Where the engine's task is asked for a sign of life.
#[derive(Debug)]
pub(crate) struct Liveness {
    asked: watch::Sender<u64>,
    answered: watch::Receiver<u64>,
}

/// Where it answers.
#[derive(Debug)]
pub(crate) struct Responder {
    asked: watch::Receiver<u64>,
    answered: watch::Sender<u64>,
}

impl Liveness {
    pub(crate) fn new() -> (Self, Responder) {
        let (asked, questions) = watch::channel(0);
        let (answers, answered) = watch::channel(0);
        (Self { asked, answered }, Responder { asked: questions, answered: answers })
    }

    /// Returns once the task has had a turn from now on: true, or false if it has ended.
    pub(crate) async fn had_turn(&self) -> bool {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        self.answered.clone().wait_for(|answered| *answered >= number).await.is_ok()
    }
}

impl Responder {
    /// Answers whenever it is polled. Never returns.
    pub(crate) async fn answer(mut self) -> std::convert::Infallible {
        while self.asked.changed().await.is_ok() {
            let number = *self.asked.borrow_and_update();
            self.answered.send_replace(number);
        }
        pending().await
    }
}
