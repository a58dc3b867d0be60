//! Requests, by method and status.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use metrics::{Counter, Histogram};
use tonic::Code;
use tsoracle_core::series;

use crate::method::Method;

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
    requests: [[OnceLock<Counter>; CODES]; Method::COUNT],
    durations: [Option<Histogram>; Method::COUNT],
}

impl CallMeters {
    /// Those that go well are there from the start, so that a rate of them can be taken.
    pub(crate) fn new() -> Self {
        let meters = Self {
            requests: Default::default(),
            durations: Method::all().map(|method| {
                let counts = !method.streams() && method != Method::UNKNOWN;
                counts.then(|| series::REQUEST_DURATION.histogram_of(&[method.name()]))
            }),
        };
        for method in Method::all().into_iter().filter(|method| *method != Method::UNKNOWN) {
            meters.count(method, Code::Ok, 0);
        }
        meters
    }

    /// So many requests had this outcome.
    pub(crate) fn count(&self, method: Method, code: Code, requests: u64) {
        let of_method = &self.requests[method.index()];
        let made = || series::REQUESTS.counter_of(&[method.name(), code_name(code)]);
        of_method[code as usize].get_or_init(made).increment(requests);
    }

    /// A unary call was answered.
    pub(crate) fn answered(&self, method: Method, code: Code, took: Duration) {
        self.count(method, code, 1);
        if let Some(durations) = &self.durations[method.index()] {
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
    use super::*;

    #[test]
    fn codes_are_called_as_grpc_calls_them() {
        for code in (0..CODES as i32).map(Code::from_i32) {
            let debug = format!("{code:?}").to_uppercase();
            assert_eq!(code_name(code).replace('_', ""), debug);
        }
    }
}
