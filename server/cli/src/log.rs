//! The log of a server: lines wait in memory, and a thread of its own writes them to standard error.
//!
//! Whoever reads there may be slow, stuck or gone. So to log never waits for a write, and never fails: what does not
//! fit any more is dropped and counted, and so is what could not be written.

mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    panic,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use clap::ValueEnum;
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{
        self,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use tsoracle_core::{BootTime, Finding, Oracle, Report, SPANS};

use self::queue::{LOST, Lines, Log, Waiting};
use crate::{
    failure::Failure,
    output::{printable, printable_json},
};

/// How long the end of the program waits for what was logged.
const LAST_WORDS: Duration = Duration::from_millis(500);

static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// For how long it is worth a word that lines were lost.
const LOST_LATELY: Duration = Duration::from_secs(600);

/// The audit log, if it is a file.
static FILE: OnceLock<Arc<Log>> = OnceLock::new();

/// Replaces the filter of the log.
type Replace = Box<dyn Fn(EnvFilter) + Send + Sync>;

static FILTER: OnceLock<Replace> = OnceLock::new();

/// How the lines of the log are written.
#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// That of the log, once it is started.
static FORMAT: OnceLock<Format> = OnceLock::new();

/// Something besides the log that events and spans go to.
pub(crate) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

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
    // Spans of requests are for whoever collects traces.
    EnvFilter::try_new(format!("openraft=off,{SPANS}=off,{filter}")).map_err(|error| {
        Failure::usage(format!("{filter:?} is no log filter ({error:#}); try info or debug"))
    })
}

/// Logs by another filter from now on.
pub(crate) fn replace_filter(filter: EnvFilter) {
    if let Some(replace) = FILTER.get() {
        replace(filter);
    }
}

/// Sends all that is logged to standard error, from now on, and all events and spans to other layers.
pub(crate) fn start(
    filter: EnvFilter,
    format: Format,
    others: Vec<BoxedLayer>,
) -> Result<(), Failure> {
    // Not through the handle that others lock: a write may take for ever.
    let output = io::stderr().as_fd().try_clone_to_owned();
    let output = output
        .map_err(|error| Failure::failed(format!("cannot write to standard error: {error:#}")))?;
    let log = LOG.get_or_init(Arc::default).clone();
    let _ = FORMAT.set(format);
    log.clone().write_aside(File::from(output), |lost| {
        let message = format!("{lost} lines of the log were lost: nobody read them in time");
        match is_json() {
            true => object("WARN", &message, &[("lines", lost.into())]),
            false => format!("{message}\n"),
        }
    })?;
    let lines = fmt::layer().with_writer(Lines(log)).log_internal_errors(false);
    let (filter, handle) = reload::Layer::new(filter);
    let lines: BoxedLayer = match format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).with_filter(filter).boxed(),
        Format::Json => {
            let lines = lines.json().flatten_event(true);
            lines.with_current_span(false).with_span_list(false).with_filter(filter).boxed()
        }
    };
    // It fails only once there is no log any more.
    let _ = FILTER.set(Box::new(move |filter| drop(handle.reload(filter))));
    let layers: Vec<_> = others.into_iter().chain([lines]).collect();
    tracing_subscriber::registry().with(layers).try_init().map_err(Failure::failed)?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes lines to a file, which are bounded and lost as those of the log are.
pub(crate) fn to_file(path: &Path) -> Result<impl Fn(&str) + Send + Sync + use<>, Failure> {
    let place = path.display();
    let mut options = OpenOptions::new();
    // A pipe that nobody reads is refused, and not waited for.
    options
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path);
    let file =
        file.map_err(|error| Failure::usage(format!("cannot write to {place}: {error:#}")))?;
    let log = FILE.get_or_init(Arc::default).clone();
    log.clone().write_aside(file, |lost| format!("{{\"event\":\"lost\",\"lines\":{lost}}}\n"))?;
    Ok(move |line: &str| log.push((printable_json(line) + "\n").as_bytes()))
}

/// Writes a line of the audit log, which is an object, into that of the log.
pub(crate) fn audited(line: &str) {
    const TARGET: &str = "tsoracle::audit";
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    if let (Some(log), Ok(audited)) = (LOG.get(), serde_json::from_str::<Value>(line)) {
        let fields = [("target", TARGET.into()), ("audit", audited)];
        log.push(object("INFO", "an entry of the audit log", &fields).as_bytes());
    }
}

fn is_json() -> bool {
    FORMAT.get() == Some(&Format::Json)
}

/// A line of the log as an object, for what does not come by way of an event.
fn object(level: &str, message: &str, fields: &[(&str, Value)]) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let mut line = json!({ "timestamp": time, "level": level, "message": message });
    for (name, value) in fields {
        line[*name] = value.clone();
    }
    printable_json(&line.to_string()) + "\n"
}

/// Writes a line to standard error.
pub(crate) fn line(line: &str) {
    match LOG.get() {
        Some(log) if is_json() => {
            let (level, message) = match line.strip_prefix("error: ") {
                Some(message) => ("ERROR", message),
                None => ("INFO", line),
            };
            log.push(object(level, message, &[]).as_bytes());
        }
        Some(log) => log.push(format!("{line}\n").as_bytes()),
        // There is nobody who could be told of a failure.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// How many lines were lost.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Waits until all is written, for a moment at most.
pub(crate) fn flush() {
    for log in [&LOG, &FILE].into_iter().filter_map(OnceLock::get) {
        let is_busy = |waiting: &mut Waiting| waiting.is_busy();
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
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let message = printable(&format!("thread {name} {panicked}"));
    let line = match (is_json(), backtrace) {
        (true, Some(backtrace)) => object("ERROR", &message, &[("backtrace", backtrace.into())]),
        (true, None) => object("ERROR", &message, &[]),
        (false, backtrace) => {
            let mut line = String::new();
            let _ = SystemTime.format_time(&mut Writer::new(&mut line));
            let _ = write!(line, " ERROR {message}");
            if let Some(backtrace) = backtrace {
                let _ = write!(line, "\n{backtrace}");
            }
            line.push('\n');
            line
        }
    };
    if let Some(log) = LOG.get() {
        log.push(line.as_bytes());
    }
}
