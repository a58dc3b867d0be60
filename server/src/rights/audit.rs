//! Who has done what to the cluster and to what belongs to others, and who was refused what.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tonic::{Code, Status};
use tsoracle_core::{BootTime, CallerId, Clock as _, Identity, SystemClock, Timestamp};

use super::Right;
use crate::peer::Peer;

/// How many refusals a second are recorded. A client can cause any number.
const REFUSALS: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// How much is recorded of an object or a reason that strangers choose, in bytes. No key is as long.
const LONGEST: usize = 1_024;

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
    refusals: Mutex<Refusals>,
}

/// The refusals that were recorded within the present second, by who was refused.
#[derive(Default)]
struct Refusals {
    began: BootTime,
    recorded: u32,
    by: HashMap<Option<CallerId>, u32>,
    /// Those since the last one that was recorded.
    left_out: u64,
}

impl Refusals {
    /// How many were left out before this one; nothing if it is left out itself. As with other shares, a caller gets
    /// more only while it has less than is left for all: one that floods hides no other's.
    fn record(&mut self, who: Option<CallerId>, now: BootTime) -> Option<u64> {
        if now.since(self.began) >= SECOND {
            (self.began, self.recorded) = (now, 0);
            self.by.clear();
        }
        let held = self.by.get(&who).copied().unwrap_or_default();
        if held >= REFUSALS - self.recorded {
            self.left_out += 1;
            return None;
        }
        self.recorded += 1;
        self.by.insert(who, held + 1);
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Who does something, as the log has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) peer: Option<Peer>,
}

impl Who<'_> {
    fn caller_id(&self) -> Option<CallerId> {
        let of_peer = || self.peer.map(Peer::caller_id);
        self.identity.map(CallerId::of_identity).or_else(of_peer)
    }
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
        Self(Arc::new(Inner { sink: Box::new(sink), refusals: Mutex::default() }))
    }

    /// An administrative action begins. What is returned records how it has ended; dropped before, that nobody
    /// has waited for its end.
    pub(crate) fn begin<'a>(&self, who: Who<'a>, right: Right, object: &'a str) -> Action<'a> {
        Action { audit: self.clone(), who, right, object, is_recorded: false }
    }

    /// Something was refused.
    pub(crate) fn refused(&self, who: Who<'_>, right: &str, object: &str, status: &Status) {
        let recorded = {
            // Every change is whole, so that a panic elsewhere leaves nothing half done.
            let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.record(who.caller_id(), SystemClock.now().boot)
        };
        let Some(left_out) = recorded else { return };
        let line = Line { left_out, ..line(who, "refused", right, begin(object)) };
        let reason = begin(status.message());
        self.write(&Line { outcome: name(status.code()), reason, ..line });
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

/// What is recorded of an object or a reason that strangers choose.
fn begin(text: &str) -> &str {
    let end = (0..=LONGEST.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
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
        let left_out = audit.0.refusals.lock().unwrap().left_out;
        let told: u64 =
            lines.lock().unwrap().iter().filter_map(|line| line["left_out"].as_u64()).sum();
        assert_eq!(written as u64 + left_out + told, 100_000);
    }

    #[test]
    fn a_flood_of_one_caller_hides_no_refusal_of_another() {
        let at = |ms: u64| BootTime::from_nanos(ms * 1_000_000);
        let caller = |number: u8| {
            Some(CallerId::of_address(std::net::Ipv4Addr::from([10, 0, 0, number]).into()))
        };
        let mut refusals = Refusals::default();
        let mut recorded =
            |who, times, now| (0..times).filter(|_| refusals.record(who, now).is_some()).count();
        assert_eq!(recorded(caller(1), 1_000, at(5_000)), 50);
        assert_eq!(recorded(caller(2), 1_000, at(5_100)), 25);
        assert_eq!(recorded(None, 1, at(5_200)), 1);
        assert_eq!(recorded(caller(1), 1, at(5_999)), 0);
        assert_eq!(recorded(caller(1), 1, at(6_000)), 1, "a second later");
        assert_eq!(refusals.record(caller(2), at(6_001)), Some(0));
        // However many there are, they are bounded together.
        let all = (0..=255).filter(|who| refusals.record(caller(*who), at(6_002)).is_some());
        assert_eq!(all.count(), 98);
        assert_eq!(refusals.record(caller(1), at(7_002)), Some(158));
    }

    #[test]
    fn what_is_long_is_recorded_in_part() {
        let (audit, lines) = recording();
        let long = "\u{e9}".repeat(LONGEST);
        let status = Status::permission_denied(format!("x{long}"));
        audit.refused(NOBODY, "seq", &long, &status);
        let lines = lines.lock().unwrap();
        assert_eq!(lines[0]["object"].as_str().unwrap().len(), LONGEST);
        assert_eq!(lines[0]["reason"].as_str().unwrap().len(), LONGEST - 1);
    }
}
