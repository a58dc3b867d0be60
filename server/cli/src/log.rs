//! The log of a server: lines wait in memory, and a thread of its own writes them to standard error.
//!
//! Whoever reads there may be slow, stuck or gone. So to log never waits for a write, and never fails: what does not
//! fit any more is dropped and counted, and so is what could not be written.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    mem,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    panic,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        MakeWriter,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
};

use tsoracle_core::{BootTime, Finding, Oracle, Report};

use crate::failure::Failure;

/// How many bytes of lines wait to be written at most.
const MOST_BYTES: usize = 1 << 20;

/// How long the end of the program waits for what was logged.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How soon what could not be written for now is tried again.
const PAUSE: Duration = Duration::from_millis(20);

static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// How many lines were lost since the process began.
static LOST: AtomicU64 = AtomicU64::new(0);

/// For how long it is worth a word that lines were lost.
const LOST_LATELY: Duration = Duration::from_secs(600);

/// The audit log, if it is a file.
static FILE: OnceLock<Arc<Log>> = OnceLock::new();

/// Replaces the filter of the log.
type Replace = Box<dyn Fn(EnvFilter) + Send + Sync>;

static FILTER: OnceLock<Replace> = OnceLock::new();

/// What is logged where nobody says.
const INFO: &str = "info";

/// Reads a filter.
pub(crate) fn filter(text: Option<&str>) -> Result<EnvFilter, Failure> {
    let filter = text.unwrap_or(INFO);
    // openraft logs each attempt to reach a peer that is not there; what matters the driver says itself.
    let bare =
        |part: &&str| !part.contains(['=', '[', ':']) && part.parse::<LevelFilter>().is_err();
    if let Some(word) = filter.split(',').map(str::trim).find(bare) {
        // It would be taken for the name of a module, and nothing else be logged.
        return Err(Failure::usage(format!(
            "{word:?} is no log level; they are error, warn, info, debug and trace, or MODULE=LEVEL"
        )));
    }
    EnvFilter::try_new(format!("openraft=off,{filter}")).map_err(|error| {
        Failure::usage(format!("{filter:?} is no log filter ({error:#}); try info or debug"))
    })
}

/// Logs by another filter from now on.
pub(crate) fn replace_filter(filter: EnvFilter) {
    if let Some(replace) = FILTER.get() {
        replace(filter);
    }
}

/// Sends all that is logged to standard error, from now on.
pub(crate) fn start(filter: EnvFilter) -> Result<(), Failure> {
    // Not through the handle that others lock: a write may take for ever.
    let output = io::stderr().as_fd().try_clone_to_owned();
    let output = output
        .map_err(|error| Failure::failed(format!("cannot write to standard error: {error:#}")))?;
    let log = LOG.get_or_init(Arc::default).clone();
    log.clone().write_aside(File::from(output), |lost| {
        format!("{lost} lines of the log were lost: nobody read them in time\n")
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Lines(log))
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    // It fails only once there is no log any more.
    let _ = FILTER.set(Box::new(move |filter| drop(handle.reload(filter))));
    subscriber.try_init().map_err(Failure::failed)?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes lines to a file, which are bounded and lost as those of the log are.
pub(crate) fn to_file(path: &Path) -> Result<impl Fn(&str) + Send + Sync + use<>, Failure> {
    let place = path.display();
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file =
        file.map_err(|error| Failure::usage(format!("cannot write to {place}: {error:#}")))?;
    let log = FILE.get_or_init(Arc::default).clone();
    log.clone().write_aside(file, |lost| format!("{{\"event\":\"lost\",\"lines\":{lost}}}\n"))?;
    Ok(move |line: &str| log.push(format!("{line}\n").as_bytes()))
}

/// Writes a line to standard error.
pub(crate) fn line(line: &str) {
    match LOG.get() {
        Some(log) => log.push(format!("{line}\n").as_bytes()),
        // There is nobody who could be told of a failure.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Waits until all is written, for a moment at most.
pub(crate) fn flush() {
    for log in [&LOG, &FILE].into_iter().filter_map(OnceLock::get) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        let _ = log.changed.wait_timeout_while(log.waiting(), LAST_WORDS, is_busy);
    }
}

/// Has the oracle's problems tell that lines of the log were lost, if they were lately.
pub(crate) fn report(oracle: &Oracle) {
    let last = Mutex::new((0, BootTime::default()));
    oracle.report_also(move |now| {
        let lost = LOST.load(Ordering::Relaxed);
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != lost {
            *last = (lost, now);
        }
        let is_lately = lost > 0 && now.since(last.1) < LOST_LATELY;
        let found = is_lately.then(|| {
            Finding::new(
                "log_lines_lost",
                format!("{lost} lines of the log were lost since this node began, the last of them lately"),
                "look whether what reads standard error keeps up, and whether the disk of its logs is full",
            )
        });
        Report { findings: found.into_iter().collect(), ..Report::default() }
    });
}

/// Logs where a thread panicked. The standard library's hook would wait for standard error.
fn log_panic(panicked: &panic::PanicHookInfo<'_>) {
    let mut line = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut line));
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let _ = write!(line, " ERROR thread {name} {panicked}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let _ = write!(line, "\n{backtrace}");
    }
    line.push('\n');
    if let Some(log) = LOG.get() {
        log.push(line.as_bytes());
    }
}

/// What is to be written.
#[derive(Default, Debug)]
struct Log {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default, Debug)]
struct Waiting {
    lines: Vec<u8>,
    /// How many lines were lost since that was last said.
    lost: u64,
    is_writing: bool,
}

impl Log {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        match waiting.lines.len() + line.len() <= MOST_BYTES {
            true => waiting.lines.extend_from_slice(line),
            false => {
                waiting.lost += 1;
                LOST.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("tsoracle_log_lines_lost_total").increment(1);
            }
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// Starts a thread that writes what comes; `note` says that lines were lost.
    fn write_aside(
        self: Arc<Self>,
        mut output: File,
        note: fn(u64) -> String,
    ) -> Result<(), Failure> {
        let thread = thread::Builder::new().name("tsoracle-log".into());
        let started = thread.spawn(move || self.write_to(&mut output, note));
        started
            .map(drop)
            .map_err(|error| Failure::failed(format!("cannot start threads: {error:#}")))
    }

    /// Writes what comes, for ever.
    fn write_to(&self, output: &mut File, note: fn(u64) -> String) {
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
                metrics::counter!("tsoracle_log_lines_lost_total").increment(lost);
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
struct Lines(Arc<Log>);

/// Takes an event, which comes in one piece.
struct Line<'a>(&'a Log);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
