//! How a connection is read.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// The bytes with which every HTTP/2 client begins.
const PREFACE_BYTES: usize = 24;

/// After that many bytes the other connections of the thread have their turn: what there is to read of one that
/// sends without end would be worked on for milliseconds, headers above all.
const BYTES_A_TURN: usize = 8 << 10;

/// How long nothing is read from a client after a call was refused for want of a place. To read calls, large headers
/// above all, costs others more than to refuse them.
const REST: Duration = Duration::from_millis(100);

/// A stream that fails unless the client has begun to speak in time, and that is read in turns with others.
pub(super) struct Greeted<S> {
    stream: S,
    /// What was read since there was nothing to read, or since the last turn.
    read: usize,
    /// Until enough was read.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    /// Set when the client has had its share of calls.
    over_share: Arc<AtomicBool>,
    /// Until it is read from again.
    rest: Option<Pin<Box<Sleep>>>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "no promise hangs on when a connection is read from, or closed"
)]
fn sleep(time: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(time))
}

impl<S> Greeted<S> {
    pub(super) fn new(stream: S, limit: Duration, over_share: Arc<AtomicBool>) -> Self {
        let greeting = Some((PREFACE_BYTES, sleep(limit)));
        Self { stream, read: 0, greeting, over_share, rest: None }
    }

    /// Whether it is this connection's turn to be read.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.over_share.load(Ordering::Relaxed) {
            self.over_share.store(false, Ordering::Relaxed);
            self.rest = Some(sleep(REST));
        }
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(context));
            self.rest = None;
        }
        if self.read >= BYTES_A_TURN {
            self.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_turn(context));
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.read = match polled {
            Poll::Pending => 0,
            Poll::Ready(_) => this.read + buffer.filled().len() - before,
        };
        let Some((missing, limit)) = &mut this.greeting else { return polled };
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            this.greeting = None;
        } else if polled.is_pending() && limit.as_mut().poll(context).is_ready() {
            let context = "the client took too long to begin";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, context)));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// What is read at once of one that sends without end.
    fn read(greeted: &mut Greeted<io::Cursor<Vec<u8>>>) -> Option<usize> {
        let mut space = vec![0; BYTES_A_TURN];
        let mut buffer = ReadBuf::new(&mut space);
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(greeted).poll_read(&mut context, &mut buffer) {
            Poll::Pending => None,
            Poll::Ready(result) => result.map(|()| buffer.filled().len()).ok(),
        }
    }

    #[tokio::test]
    async fn connections_are_read_in_turns_and_those_over_their_share_less_often() {
        let over_share = Arc::new(AtomicBool::new(false));
        let bytes = io::Cursor::new(vec![0; 4 * BYTES_A_TURN]);
        let mut greeted = Greeted::new(bytes, Duration::from_secs(60), over_share.clone());
        assert_eq!(read(&mut greeted), Some(BYTES_A_TURN));
        assert_eq!(read(&mut greeted), None, "others have their turn");
        assert_eq!(read(&mut greeted), Some(BYTES_A_TURN));
        assert_eq!(read(&mut greeted), None);
        over_share.store(true, Ordering::Relaxed);
        assert_eq!(read(&mut greeted), None, "it rests");
        std::future::poll_fn(|context| greeted.poll_turn(context)).await;
        assert_eq!(read(&mut greeted), Some(BYTES_A_TURN));
    }
}
