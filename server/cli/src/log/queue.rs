//! What waits to be written to the log.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, ErrorKind, Write as _},
    mem,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use super::is_json;
use crate::{
    failure::Failure,
    output::{printable, printable_json},
};

/// How many bytes of lines wait to be written at most.
const MOST_BYTES: usize = 1 << 20;

/// How soon what could not be written for now is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// How many lines were lost since the process began.
pub(super) static LOST: AtomicU64 = AtomicU64::new(0);

/// What is to be written.
#[derive(Default, Debug)]
pub(super) struct Log {
    waiting: Mutex<Waiting>,
    pub(super) changed: Condvar,
}

#[derive(Default, Debug)]
pub(super) struct Waiting {
    lines: Vec<u8>,
    /// How many lines were lost since that was last said.
    lost: u64,
    is_writing: bool,
}

impl Waiting {
    /// Whether there is something that is not written yet.
    pub(super) fn is_busy(&self) -> bool {
        self.is_writing || !self.lines.is_empty()
    }
}

impl Log {
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        match waiting.lines.len() + line.len() <= MOST_BYTES {
            true => waiting.lines.extend_from_slice(line),
            false => {
                waiting.lost += 1;
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// Starts a thread that writes what comes; `note` says that lines were lost.
    pub(super) fn write_aside(
        self: Arc<Self>,
        mut output: File,
        note: fn(u64) -> String,
    ) -> Result<(), Failure> {
        let thread = thread::Builder::new().name("tsoracle-log".into());
        let started = thread.spawn(move || -> Infallible {
            // Without it the log would end, and nothing else would tell.
            loop {
                let writing = AssertUnwindSafe(|| self.write_to(&mut output, note));
                let _ = panic::catch_unwind(writing);
                self.waiting().is_writing = false;
                self.changed.notify_all();
            }
        });
        started
            .map(drop)
            .map_err(|error| Failure::failed(format!("cannot start threads: {error:#}")))
    }

    /// Writes what comes, for ever.
    fn write_to(&self, output: &mut File, note: fn(u64) -> String) -> Infallible {
        let mut lines = vec![];
        loop {
            let is_idle = |waiting: &mut Waiting| waiting.lines.is_empty();
            let mut waiting = self
                .changed
                .wait_while(self.waiting(), is_idle)
                .unwrap_or_else(PoisonError::into_inner);
            lines.clear();
            mem::swap(&mut lines, &mut waiting.lines);
            let lost = mem::take(&mut waiting.lost);
            waiting.is_writing = true;
            drop(waiting);
            let mut unwritten = 0;
            if lost > 0 {
                unwritten += if write(output, note(lost).as_bytes()) > 0 { lost } else { 0 };
            }
            unwritten += write(output, &lines);
            let mut waiting = self.waiting();
            waiting.lost += unwritten;
            waiting.is_writing = false;
            drop(waiting);
            self.changed.notify_all();
        }
    }
}

/// Writes these lines, and returns how many of them nobody will see.
fn write(output: &mut File, mut lines: &[u8]) -> u64 {
    while !lines.is_empty() {
        match output.write(lines) {
            Ok(written @ 1..) => lines = &lines[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The descriptor is shared with a program that wants it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(),
            Ok(0) | Err(_) => {
                let lost = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
                LOST.fetch_add(lost, Ordering::Relaxed);
                return lost;
            }
        }
    }
    0
}

#[expect(clippy::disallowed_methods, reason = "this thread does nothing else")]
fn pause() {
    thread::sleep(PAUSE);
}

/// Makes the writers that events are formatted for.
pub(super) struct Lines(pub(super) Arc<Log>);

/// Takes an event, which comes in one piece.
pub(super) struct Line<'a>(&'a Log);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.push(one_line(&String::from_utf8_lossy(event)).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event as one line that tells a terminal nothing but its colours: what others have chosen must neither move its
/// cursor nor look like another line. Escapes in what is logged were taken out when it was formatted.
fn one_line(event: &str) -> String {
    let shown = match is_json() {
        true => printable_json(event.trim_end()),
        false => {
            let harmless =
                event.trim_end().split('\u{1b}').map(|part| printable(part).replace('\n', "\\n"));
            harmless.collect::<Vec<_>>().join("\u{1b}")
        }
    };
    shown + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_only_its_own_colours_are_left() {
        let event =
            "\u{1b}[2mnow\u{1b}[0m WARN refused reason=a\nnow ERROR forged\r\u{9b}2J\u{202e}\n";
        let line = one_line(event);
        assert_eq!(
            line,
            "\u{1b}[2mnow\u{1b}[0m WARN refused reason=a\\nnow ERROR forged\\r\\u{9b}2J\\u{202e}\n"
        );
    }

    #[test]
    fn what_panics_while_it_writes_does_not_end_the_log() {
        let log = Arc::<Log>::default();
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        log.waiting().lost = 1;
        log.clone().write_aside(writer, |_| panic!("in a test")).unwrap();
        log.push(b"lost\n");
        let is_busy = |waiting: &mut Waiting| waiting.is_busy();
        drop(log.changed.wait_while(log.waiting(), is_busy).unwrap());
        log.push(b"written\n");
        let mut written = [0; 8];
        io::Read::read_exact(&mut reader, &mut written).unwrap();
        assert_eq!(&written, b"written\n");
    }
}
