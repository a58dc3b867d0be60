use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::sync::watch;
use tsoracle_core::{Error, ErrorKind, Result};

/// Whether a node runs, and how it has ended.
#[derive(Default, Debug)]
pub struct Lifecycle {
    is_told_to_stop: AtomicBool,
    stops: watch::Sender<bool>,
    failure: Mutex<Option<Error>>,
    ended: watch::Sender<Option<Result<(), String>>>,
}

impl Lifecycle {
    /// Notes why this node has failed. The first reason stays.
    pub fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Notes why this node has failed if this thread panics while what is returned lives. A panic drops what a task
    /// holds before it can be caught: made after what callers wait for, this is dropped before, so that they find the
    /// reason.
    #[must_use]
    pub fn names_panics_of(self: &Arc<Self>, task: &'static str) -> NamesPanics {
        NamesPanics { lifecycle: self.clone(), task }
    }

    /// Whether calls are of any use.
    ///
    /// # Errors
    /// The reason why the node has failed, or `Unavailable` once it has ended.
    pub fn check(&self) -> Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failure {
            Some(error) => Err(error.clone()),
            None if self.ended.borrow().is_some() => Err(stopped()),
            None => Ok(()),
        }
    }

    /// The error of a call that comes too late.
    pub fn gone(&self) -> Error {
        self.check().err().unwrap_or_else(stopped)
    }

    /// Whether the caller is the first that stops the node, and therefore does.
    pub fn is_first_to_stop(&self) -> bool {
        !self.is_told_to_stop.swap(true, Ordering::AcqRel)
    }

    /// Has everything that waits for [`stopping`](Self::stopping) end.
    pub fn stop(&self) {
        self.stops.send_replace(true);
    }

    /// Returns once the node is to stop.
    pub async fn stopping(&self) {
        // The sender is in `self`.
        let _ = self.stops.subscribe().wait_for(|stops| *stops).await;
    }

    /// Notes that the node has ended, and how.
    pub fn end(&self, outcome: Result<()>) {
        self.ended.send_replace(Some(outcome.map_err(|error| format!("{error:#}"))));
    }

    /// Returns once the node has ended.
    ///
    /// # Errors
    /// `Fatal` with what kept it from stopping cleanly.
    pub async fn ended(&self) -> Result<()> {
        let mut ended = self.ended.subscribe();
        let outcome = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        match outcome {
            Some(Err(error)) => Err(Error::new(ErrorKind::Fatal, error)),
            _ => Ok(()),
        }
    }
}

/// See [`Lifecycle::names_panics_of`].
#[derive(Debug)]
pub struct NamesPanics {
    lifecycle: Arc<Lifecycle>,
    task: &'static str,
}

impl Drop for NamesPanics {
    fn drop(&mut self) {
        if thread::panicking() {
            let context =
                format!("the task for {} has panicked; the log has the reason", self.task);
            self.lifecycle.fail(Error::new(ErrorKind::Fatal, context));
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays_and_every_caller_is_told_how_it_ended() {
        let lifecycle = Lifecycle::default();
        lifecycle.check().unwrap();
        assert!(lifecycle.is_first_to_stop() && !lifecycle.is_first_to_stop());
        lifecycle.stop();
        lifecycle.stopping().await;
        lifecycle.check().unwrap();
        lifecycle.end(Err(Error::new(ErrorKind::Corrupt, "not cleanly")));
        assert_eq!(*lifecycle.check().unwrap_err().kind(), ErrorKind::Unavailable);
        for _ in 0..2 {
            assert_eq!(*lifecycle.ended().await.unwrap_err().kind(), ErrorKind::Fatal);
        }
        lifecycle.fail(Error::new(ErrorKind::Fatal, "first"));
        lifecycle.fail(Error::new(ErrorKind::Fatal, "second"));
        assert!(lifecycle.gone().to_string().contains("first"));
    }

    /// What a panic finds in use when it drops it.
    struct Asks(Arc<Lifecycle>, std::sync::mpsc::Sender<Error>);

    impl Drop for Asks {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.gone());
        }
    }

    #[test]
    fn a_panic_is_named_before_what_it_drops_is_found_gone() {
        let (lifecycle, (told, hears)) = (Arc::<Lifecycle>::default(), std::sync::mpsc::channel());
        drop(lifecycle.names_panics_of("no panic"));
        lifecycle.check().unwrap();
        let asks = Asks(lifecycle.clone(), told);
        let panicked = thread::spawn(move || {
            let asks = asks;
            let _names = asks.0.names_panics_of("sums");
            panic!("in a test");
        });
        panicked.join().unwrap_err();
        let error = hears.recv().unwrap();
        assert!(error.to_string().contains("the task for sums has panicked"), "{error}");
    }
}
