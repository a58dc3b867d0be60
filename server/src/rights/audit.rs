//! Who has done what to the cluster and to what belongs to others, and who was refused what.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;
use tonic::{Code, Status};
use tsoracle_core::{Identity, Timestamp};

use super::Right;
use crate::peer::Peer;

/// How many refusals a second are recorded. A client can cause any number.
const REFUSALS: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Whoever can write the files of a server.
const OPERATOR: &str = "operator";

const NOBODY: Who<'static> = Who { identity: None, peer: None };

/// Where lines of the audit log go. It must neither wait nor fail.
type Sink = dyn Fn(&str) + Send + Sync;

/// The audit log: a line of JSON for every administrative action, and for every refusal.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    sink: Box<Sink>,
    refusals: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

/// Who does something, as the log has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) peer: Option<Peer>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    /// `done` or `refused`.
    event: &'a str,
    identity: &'a str,
    address: Option<String>,
    right: &'a str,
    /// The key, the change, or the call.
    object: &'a str,
    /// A gRPC status.
    outcome: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    /// Refusals before this one that were too many to be recorded.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Audit {
    /// Writes lines, without their end, with a function that must neither wait nor fail.
    pub fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let refusals = RateLimiter::direct(Quota::per_second(REFUSALS));
        Self(Arc::new(Inner { sink: Box::new(sink), refusals, left_out: AtomicU64::new(0) }))
    }

    /// An administrative action begins. What is returned records how it has ended; dropped before, that nobody
    /// has waited for its end.
    pub(crate) fn begin<'a>(&self, who: Who<'a>, right: Right, object: &'a str) -> Action<'a> {
        Action { audit: self.clone(), who, right, object, is_recorded: false }
    }

    /// Something was refused.
    pub(crate) fn refused(&self, who: Who<'_>, right: &str, object: &str, status: &Status) {
        let inner = &self.0;
        if inner.refusals.check().is_err() {
            inner.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = inner.left_out.swap(0, Ordering::Relaxed);
        let line = Line { left_out, ..line(who, "refused", right, object) };
        self.write(&Line { outcome: name(status.code()), reason: status.message(), ..line });
    }

    /// The rules were replaced from their files, or were not, for this reason.
    pub(super) fn reloaded(&self, refused: Option<&str>) {
        let code = if refused.is_some() { Code::InvalidArgument } else { Code::Ok };
        let line =
            Line { identity: OPERATOR, ..line(NOBODY, "done", "reload", "policy and tokens") };
        self.write(&Line { outcome: name(code), reason: refused.unwrap_or_default(), ..line });
    }

    fn write(&self, line: &Line<'_>) {
        if let Ok(text) = serde_json::to_string(line) {
            (self.0.sink)(&text);
        }
    }
}

/// By default the log is a target of its own among the logs of the process: `tsoracle::audit`.
impl Default for Audit {
    fn default() -> Self {
        Self::new(|line| tracing::info!(target: "tsoracle::audit", "{line}"))
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Audit")
    }
}

/// An administrative action under way.
#[derive(Debug)]
pub(crate) struct Action<'a> {
    audit: Audit,
    who: Who<'a>,
    right: Right,
    object: &'a str,
    is_recorded: bool,
}

impl Action<'_> {
    /// It has ended so.
    pub(crate) fn end<T>(mut self, outcome: Result<T, Status>) -> Result<T, Status> {
        match &outcome {
            Ok(_) => self.record(name(Code::Ok), ""),
            Err(status) => self.record(name(status.code()), status.message()),
        }
        outcome
    }

    fn record(&mut self, outcome: String, reason: &str) {
        self.is_recorded = true;
        let line = line(self.who, "done", self.right.name(), self.object);
        self.audit.write(&Line { outcome, reason, ..line });
    }
}

impl Drop for Action<'_> {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.record(
                name(Code::Unknown),
                "the caller has gone before the end; it may have been done",
            );
        }
    }
}

fn line<'a>(who: Who<'a>, event: &'a str, right: &'a str, object: &'a str) -> Line<'a> {
    Line {
        time: now(),
        event,
        identity: who.identity.map_or(super::ANONYMOUS, Identity::as_str),
        address: who.peer.map(|peer| peer.to_string()),
        right,
        object,
        outcome: String::new(),
        reason: "",
        left_out: 0,
    }
}

/// As gRPC's documents have it: `PERMISSION_DENIED`.
fn name(code: Code) -> String {
    let mut text = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_uppercase());
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "a time for people, on which no promise hangs")]
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_parts(ms, 0).map(Timestamp::to_rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::Value;

    use super::*;

    fn recording() -> (Audit, Arc<Mutex<Vec<Value>>>) {
        let lines = Arc::new(Mutex::new(vec![]));
        let sink = lines.clone();
        let audit = Audit::new(move |line| {
            sink.lock().unwrap().push(serde_json::from_str(line).unwrap());
        });
        (audit, lines)
    }

    #[test]
    fn an_action_is_recorded_once_with_its_outcome() {
        let (audit, lines) = recording();
        let admin = Identity::new("admin").unwrap();
        let who =
            Who { identity: Some(&admin), peer: "127.0.0.1:7".parse().ok().map(Peer::Address) };
        audit.begin(who, Right::Seed, "orders").end(Ok(())).unwrap();
        let refused: Result<(), _> = Err(Status::already_exists("it is in use"));
        let _ = audit.begin(who, Right::Seed, "orders").end(refused);
        drop(audit.begin(NOBODY, Right::Cluster, "remove 3"));
        let lines = lines.lock().unwrap();
        let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
        assert_eq!(outcomes, ["OK", "ALREADY_EXISTS", "UNKNOWN"]);
        assert_eq!(lines[0]["identity"], "admin");
        assert_eq!(lines[0]["address"], "127.0.0.1:7");
        assert_eq!(
            (&lines[2]["identity"], &lines[2]["object"]),
            (&"anonymous".into(), &"remove 3".into())
        );
        assert!(lines[2]["reason"].as_str().unwrap().contains("may have been done"));
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_written() {
        let (audit, lines) = recording();
        let status = Status::permission_denied("no");
        for _ in 0..100_000 {
            audit.refused(NOBODY, "seq", "orders", &status);
        }
        let written = lines.lock().unwrap().len();
        assert!(written < 10_000, "{written}");
        assert_eq!(lines.lock().unwrap()[0]["outcome"], "PERMISSION_DENIED");
        let left_out = audit.0.left_out.load(Ordering::Relaxed);
        let told: u64 =
            lines.lock().unwrap().iter().filter_map(|line| line["left_out"].as_u64()).sum();
        assert_eq!(written as u64 + left_out + told, 100_000);
    }
}
