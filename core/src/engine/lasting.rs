//! Futures that end in an error where they would panic, and that are carried out even if they are dropped.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::runtime::Handle;

/// The message of a panic.
pub(crate) type Panic = String;

/// Awaits `work`.
///
/// # Errors
/// The message, if it panicked.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panic> {
    let mut work = pin!(work);
    // It is not polled again after a panic.
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(message(&*panic))),
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> Panic {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a text").into()
}

/// Work that is carried out to its end: by the task that awaits this, and once that has dropped it, by one
/// of its own. So nothing has to be handed from task to task as long as all goes well.
pub(crate) struct Lasting<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Lasting<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Lasting<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let work = self.0.as_mut().expect("it is not polled again after its end");
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Lasting<T> {
    fn drop(&mut self) {
        // Without a runtime there is no more of this process that could go on.
        if let Some(work) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn(work));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn dropped_work_goes_on() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let mut work = Lasting::new(async move {
            let _ = gone.await;
            let _ = done.send(());
        });
        tokio::select! {
            biased;
            () = &mut work => panic!("it has to wait"),
            () = ready(()) => {}
        }
        drop(work);
        go.send(()).unwrap();
        ended.await.expect("it was carried out");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_that_says_what_it_said() {
        assert_eq!(caught(ready(7)).await, Ok(7));
        for message in ["plain", "composed"] {
            let panicking = async {
                match message {
                    "plain" => panic!("plain"),
                    text => panic!("{text}"),
                }
            };
            assert_eq!(caught(panicking).await, Err::<(), _>(message.into()));
        }
        tokio::select! {
            biased;
            _ = caught(pending::<()>()) => panic!("it has to wait"),
            () = ready(()) => {}
        }
    }
}
