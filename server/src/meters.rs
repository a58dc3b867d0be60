//! Requests, by method and status.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use metrics::{Counter, Histogram};
use tonic::Code;
use tsoracle_core::series;

/// The calls of the protocol, and whether each is a stream, whose requests count one by one.
const METHODS: [(&str, bool); 18] = [
    ("/tsoracle.v1.TsoService/GetTs", false),
    ("/tsoracle.v1.TsoService/GetSeq", false),
    ("/tsoracle.v1.TsoService/GetSeqBatch", false),
    ("/tsoracle.v1.TsoService/StreamTs", true),
    ("/tsoracle.v1.TsoService/StreamSeq", true),
    ("/tsoracle.v1.TsoService/GetCurrentMaxSafe", false),
    ("/tsoracle.v1.TsoService/GetSafeFrontier", false),
    ("/tsoracle.v1.TsoService/AcquireLease", false),
    ("/tsoracle.v1.TsoService/RenewLease", false),
    ("/tsoracle.v1.TsoService/ReleaseLease", false),
    ("/tsoracle.v1.SequenceService/ReadSeq", false),
    ("/tsoracle.v1.SequenceService/ListSeqs", false),
    ("/tsoracle.v1.SequenceService/SeedSeq", false),
    ("/tsoracle.v1.SequenceService/DeleteSeq", false),
    ("/tsoracle.v1.ClusterService/Members", false),
    ("/tsoracle.v1.ClusterService/Troubles", false),
    ("/tsoracle.v1.ClusterService/Change", false),
    ("", false),
];

/// A call of the protocol, by its place among them. The last one stands for all that there are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Method(u8);

impl Method {
    pub(crate) const STREAM_TS: Self = Self(3);
    pub(crate) const STREAM_SEQ: Self = Self(4);
    const UNKNOWN: Self = Self(METHODS.len() as u8 - 1);

    pub(crate) fn of(path: &str) -> Self {
        // The index is that of an array of less than 256.
        METHODS
            .iter()
            .position(|(known, _)| *known == path)
            .map_or(Self::UNKNOWN, |at| Self(at as u8))
    }

    /// Whether it is a stream.
    pub(crate) fn streams(self) -> bool {
        METHODS[usize::from(self.0)].1
    }

    /// Its service and its name, as a span has it.
    pub(crate) fn path(self) -> &'static str {
        METHODS[usize::from(self.0)].0.trim_start_matches('/')
    }

    /// As a label has it.
    pub(crate) fn name(self) -> &'static str {
        match METHODS[usize::from(self.0)].0.rsplit_once('/') {
            Some((_, name)) => name,
            None => "unknown",
        }
    }
}

/// How many statuses gRPC has.
const CODES: usize = 17;

/// Their names, by number.
const CODE_NAMES: [&str; CODES] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What a status is called.
pub(crate) fn code_name(code: Code) -> &'static str {
    CODE_NAMES[code as usize]
}

/// The handles, each made when it is first of use and then kept: of most statuses there is never any.
#[derive(Debug)]
pub(crate) struct CallMeters {
    requests: [[OnceLock<Counter>; CODES]; METHODS.len()],
    durations: [Option<Histogram>; METHODS.len()],
}

impl CallMeters {
    /// Those that go well are there from the start, so that a rate of them can be taken.
    pub(crate) fn new() -> Self {
        let place = |at: usize| Method(at as u8);
        let meters = Self {
            requests: Default::default(),
            durations: std::array::from_fn(|at| {
                let method = place(at);
                let counts = !method.streams() && method != Method::UNKNOWN;
                counts.then(|| series::REQUEST_DURATION.histogram_of(&[method.name()]))
            }),
        };
        for at in 0..METHODS.len() - 1 {
            meters.count(place(at), Code::Ok, 0);
        }
        meters
    }

    /// So many requests had this outcome.
    pub(crate) fn count(&self, method: Method, code: Code, requests: u64) {
        let of_method = &self.requests[usize::from(method.0)];
        let made = || series::REQUESTS.counter_of(&[method.name(), code_name(code)]);
        of_method[code as usize].get_or_init(made).increment(requests);
    }

    /// A unary call was answered.
    pub(crate) fn answered(&self, method: Method, code: Code, took: Duration) {
        self.count(method, code, 1);
        if let Some(durations) = &self.durations[usize::from(method.0)] {
            durations.record(took.as_secs_f64());
        }
    }
}

/// The present, for how long something takes.
#[expect(
    clippy::disallowed_methods,
    reason = "how long a call takes is measured, and no promise hangs on it"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_call_of_the_protocol_is_counted_by_its_name() {
        let files =
            prost_types::FileDescriptorSet::decode(tsoracle_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut calls = 0;
        for file in files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let found = Method::of(&path);
                    assert_eq!(found.name(), method.name(), "{path}");
                    assert_eq!(found.streams(), method.client_streaming(), "{path}");
                    calls += 1;
                }
            }
        }
        assert_eq!(calls, METHODS.len() - 1);
        assert_eq!(Method::of("/tsoracle.v1.TsoService/getts").name(), "unknown");
        assert_eq!(Method::of("").name(), "unknown");
        assert_eq!(Method::STREAM_TS.name(), "StreamTs");
        assert_eq!(Method::STREAM_SEQ.name(), "StreamSeq");
    }

    #[test]
    fn codes_are_called_as_grpc_calls_them() {
        for code in (0..CODES as i32).map(Code::from_i32) {
            let debug = format!("{code:?}").to_uppercase();
            assert_eq!(code_name(code).replace('_', ""), debug);
        }
    }
}
