//! Where raft's tasks run: on tokio. In a simulation they belong to a node besides, and go on only while it runs.

#[cfg(not(feature = "simulation"))]
pub(crate) use openraft::TokioRuntime as Runtime;
#[cfg(feature = "simulation")]
pub(crate) use simulated::{Runtime, Within};

#[cfg(feature = "simulation")]
mod simulated {
    use std::{
        cell::RefCell,
        pin::Pin,
        task::{Context, Poll},
        time::Duration,
    };

    use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
    use tsoracle_replica::Tasks;

    thread_local! {
        /// The tasks of the node that is being polled.
        static NODE: RefCell<Option<Tasks>> = const { RefCell::new(None) };
    }

    /// As tokio, but that a task which is begun within a simulated node is one of that node's.
    #[derive(PartialEq, Eq, Default, Debug)]
    pub(crate) struct Runtime;

    /// What is polled within a node.
    pub(crate) struct Within<F> {
        pub(crate) tasks: Tasks,
        pub(crate) future: Pin<Box<F>>,
    }

    impl<F: Future> Future for Within<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
            let outer = NODE.replace(Some(self.tasks.clone()));
            let polled = self.future.as_mut().poll(context);
            NODE.set(outer);
            polled
        }
    }

    type Tokio = TokioRuntime;

    impl AsyncRuntime for Runtime {
        type JoinError = <Tokio as AsyncRuntime>::JoinError;
        type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
        type Sleep = <Tokio as AsyncRuntime>::Sleep;
        type Instant = <Tokio as AsyncRuntime>::Instant;
        type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
        type Timeout<R, T: Future<Output = R> + OptionalSend> =
            <Tokio as AsyncRuntime>::Timeout<R, T>;
        type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
        type OneshotSender<T: OptionalSend> = <Tokio as AsyncRuntime>::OneshotSender<T>;
        type OneshotReceiver<T: OptionalSend> = <Tokio as AsyncRuntime>::OneshotReceiver<T>;
        type OneshotReceiverError = <Tokio as AsyncRuntime>::OneshotReceiverError;

        fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
        where
            T: Future + OptionalSend + 'static,
            T::Output: OptionalSend + 'static,
        {
            match NODE.with_borrow(Clone::clone) {
                Some(tasks) => {
                    let future = Box::pin(future);
                    tasks.clone().spawn(Within { tasks, future })
                }
                None => Tokio::spawn(future),
            }
        }

        fn sleep(duration: Duration) -> Self::Sleep {
            Tokio::sleep(duration)
        }

        fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
            Tokio::sleep_until(deadline)
        }

        fn timeout<R, F: Future<Output = R> + OptionalSend>(
            duration: Duration,
            future: F,
        ) -> Self::Timeout<R, F> {
            Tokio::timeout(duration, future)
        }

        fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
            deadline: Self::Instant,
            future: F,
        ) -> Self::Timeout<R, F> {
            Tokio::timeout_at(deadline, future)
        }

        fn is_panic(join_error: &Self::JoinError) -> bool {
            Tokio::is_panic(join_error)
        }

        fn thread_rng() -> Self::ThreadLocalRng {
            Tokio::thread_rng()
        }

        fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
            Tokio::oneshot()
        }
    }
}
