use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tonic::{Code, Response, Status};
use tsoracle_proto::{
    metadata,
    v1::{
        self, sequence_service_client::SequenceServiceClient, tso_service_client::TsoServiceClient,
    },
};
use tsoracle_types::{Clock, SystemClock};

use super::{
    PREFIX,
    node::{Channel, Node},
};
use tsoracle_history::{self as history, Check};

/// How long to wait before asking again what could not be answered.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a check is repeated because the deployment was in trouble.
const ATTEMPTS: usize = 5;

/// How many characters of an answer are shown.
const MAX_SHOWN: usize = 400;

/// Asks single questions, of whichever node leads.
pub(super) struct Probe {
    pub(super) nodes: Vec<Node>,
    leader: AtomicUsize,
    prefix: String,
    keys: AtomicU64,
    timeout: Duration,
}

/// Why a check ends early.
pub(super) enum Stop {
    /// The server does not offer what it is about.
    NotOffered,
    /// An answer that does not fit the question.
    Failed(Status),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// How a check ends.
pub(super) type Outcome = Result<(), Stop>;

/// Both services of a node.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) tso: TsoServiceClient<Channel>,
    pub(super) sequences: SequenceServiceClient<Channel>,
}

impl Probe {
    pub(super) fn new(nodes: Vec<Node>, timeout: Duration) -> Self {
        let prefix = format!("{PREFIX}{:08x}/", rand::random::<u32>());
        Self { nodes, leader: AtomicUsize::new(0), prefix, keys: AtomicU64::new(0), timeout }
    }

    /// What all keys of this run begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A key that was never used.
    pub(super) fn key(&self) -> String {
        format!("{}{}", self.prefix, self.keys.fetch_add(1, Relaxed))
    }

    pub(super) fn services(&self, node: usize) -> Services {
        let channel = self.nodes[node].channel.clone();
        Services {
            tso: TsoServiceClient::new(channel.clone()),
            sequences: SequenceServiceClient::new(channel),
        }
    }

    /// Runs one check, and again if the deployment was in trouble meanwhile.
    pub(super) async fn run(
        &self,
        name: &'static str,
        promise: &'static str,
        body: impl AsyncFn(&Self, &mut Check) -> Outcome,
    ) -> Check {
        let mut attempt = 1;
        loop {
            let mut check = Check::new(name, promise);
            match body(self, &mut check).await {
                Ok(()) => return check,
                Err(Stop::NotOffered) => {
                    check.status = history::Status::NotOffered;
                    return check;
                }
                // What was wrong before that is wrong.
                Err(Stop::Failed(status)) if is_denial(&status) && check.held() => {
                    check.status = history::Status::NotOffered;
                    check.note = Some(format!("not offered to this client: {}", text_of(&status)));
                    return check;
                }
                Err(Stop::Failed(status)) if attempt < ATTEMPTS && is_trouble(&status) => {
                    attempt += 1;
                    SystemClock.sleep(PAUSE).await;
                }
                Err(Stop::Failed(status)) => {
                    check.violated(&[], || format!("a valid request failed: {}", text_of(&status)));
                    return check;
                }
            }
        }
    }

    /// Asks the node that leads, once it is found and says something else than that it does not.
    pub(super) async fn ask<A>(
        &self,
        call: impl AsyncFn(Services) -> Result<Response<A>, Status>,
    ) -> Result<Response<A>, Status> {
        let deadline = SystemClock.now().boot + self.timeout;
        loop {
            let leader = self.leader.load(Relaxed);
            let answer = call(self.services(leader)).await;
            match &answer {
                Err(status) if is_elsewhere(status) && SystemClock.now().boot < deadline => {
                    self.leader.store((leader + 1) % self.nodes.len(), Relaxed);
                    SystemClock.sleep(PAUSE).await;
                }
                _ => return answer,
            }
        }
    }

    pub(super) async fn get_ts(&self, count: u32) -> Result<v1::GetTsResponse, Status> {
        let request = v1::GetTsRequest { count };
        self.ask(async |mut node| node.tso.get_ts(request).await).await.map(Response::into_inner)
    }

    pub(super) async fn get_seq(
        &self,
        key: &str,
        count: u32,
    ) -> Result<v1::GetSeqResponse, Status> {
        let request = v1::GetSeqRequest { key: key.into(), count, request_id: None };
        let answer = self.ask(async |mut node| node.tso.get_seq(request.clone()).await).await;
        answer.map(Response::into_inner)
    }

    pub(super) async fn get_seq_batch(
        &self,
        entries: &[(&str, u32)],
    ) -> Result<v1::GetSeqBatchResponse, Status> {
        let entry = |&(key, count): &(&str, u32)| v1::SeqRequestEntry { key: key.into(), count };
        let entries = entries.iter().map(entry).collect();
        let request = v1::GetSeqBatchRequest { entries, request_id: None };
        let answer = self.ask(async |mut node| node.tso.get_seq_batch(request.clone()).await).await;
        answer.map(Response::into_inner)
    }
}

/// What checks look at.
pub(super) trait Expect {
    /// Looks at one thing: `holds`, or it is a violation.
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String);

    /// Looks at one answer, field by field.
    fn expect_eq<T: PartialEq + Debug>(&mut self, asked: &str, got: &T, wanted: &T);

    /// Looks at a call that must fail with `code`, and say that this is definite.
    fn expect_refusal<A: Debug>(
        &mut self,
        asked: &str,
        answer: Result<A, Status>,
        code: Code,
    ) -> Outcome;
}

impl Expect for Check {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.saw(1);
        if !holds {
            self.violated(&[], what);
        }
    }

    fn expect_eq<T: PartialEq + Debug>(&mut self, asked: &str, got: &T, wanted: &T) {
        self.expect(got == wanted, || {
            format!("{asked}: answered {}, not {}", short(got), short(wanted))
        });
    }

    fn expect_refusal<A: Debug>(
        &mut self,
        asked: &str,
        answer: Result<A, Status>,
        code: Code,
    ) -> Outcome {
        match answer {
            Ok(answer) => {
                self.expect(false, || {
                    format!("{asked}: answered {}, not refused with {code:?}", short(&answer))
                });
            }
            Err(status) if status.code() != code && (is_trouble(&status) || is_denial(&status)) => {
                return Err(status.into());
            }
            Err(status) => {
                self.expect(status.code() == code, || {
                    format!("{asked}: {}, not {code:?}", text_of(&status))
                });
                let hint = metadata::leader_hint(status.metadata());
                self.expect(hint.is_none(), || {
                    format!("{asked}: refused for good, but with a leader hint: {hint:?}")
                });
            }
        }
        Ok(())
    }
}

/// A value for people, on one line that is not too long.
fn short(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Code and message, for people.
pub(super) fn text_of(status: &Status) -> String {
    format!("{:?} ({:?})", status.code(), status.message())
}

/// Whether another node may answer.
pub(super) fn is_elsewhere(status: &Status) -> bool {
    let is_led_elsewhere =
        metadata::leader_hint(status.metadata()).is_some() || status.message() == "not leader";
    let is_uncommitted = metadata::has_flag(status.metadata(), metadata::UNCOMMITTED);
    status.code() == Code::FailedPrecondition && is_led_elsewhere
        || status.code() == Code::Unavailable && is_uncommitted
}

/// Whether a valid request may end so while a deployment is in trouble.
pub(super) fn is_trouble(status: &Status) -> bool {
    use Code::{Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
    let codes = [Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable];
    codes.contains(&status.code()) || is_elsewhere(status) || is_of_this_side(status)
}

/// Whether this client lacks the right to call.
pub(super) fn is_denial(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

/// Whether the connection failed, rather than the server.
pub(super) fn is_of_this_side(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}
