use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::peers::Address;
use tsoracle_proto::with_advice;

/// The most addresses whose last failure is remembered for the error message.
const MAX_CAUSES: usize = 16;

/// The attempts of one call so far.
pub(super) struct History<'a> {
    /// The call, for people: its name and arguments. Formatted only when something failed.
    subject: &'a (dyn Fn() -> String + Sync),
    timeout: Duration,
    attempts: u32,
    /// The last failure per address.
    causes: Vec<(Address, String)>,
    /// Where and why the last attempt failed.
    last: Option<(Address, String)>,
    /// Some attempt did not end by a timeout.
    definite: bool,
    uncertain: bool,
    /// Those that do not know the method.
    without_method: Vec<Address>,
}

impl<'a> History<'a> {
    pub(super) fn new(subject: &'a (dyn Fn() -> String + Sync), timeout: Duration) -> Self {
        Self {
            subject,
            timeout,
            attempts: 0,
            causes: Vec::new(),
            last: None,
            definite: false,
            uncertain: false,
            without_method: Vec::new(),
        }
    }

    /// An attempt at `address` failed. `timed_out`: no answer came. That does not replace the cause of an
    /// earlier failure: the deadline may have left this attempt no time.
    pub(super) fn failed(&mut self, address: &Address, cause: String, timed_out: bool) {
        tracing::debug!(call = (self.subject)(), %address, cause, "attempt failed");
        self.attempts += 1;
        self.definite |= !timed_out;
        self.last = Some((address.clone(), cause.clone()));
        if let Some((_, last)) = self.causes.iter_mut().find(|(known, _)| known == address) {
            if !timed_out {
                *last = cause;
            }
        } else if self.causes.len() < MAX_CAUSES {
            self.causes.push((address.clone(), cause));
        }
    }

    /// `address` does not know the method.
    pub(super) fn lacks_method(&mut self, address: &Address) {
        self.without_method.push(address.clone());
    }

    /// Whether a method that `address` does not know is to be found nowhere: on none of the `endpoints`, or the node
    /// was named by one of them.
    pub(super) fn is_everywhere(&self, address: &Address, endpoints: &[Address]) -> bool {
        !endpoints.contains(address)
            || endpoints.iter().all(|endpoint| self.without_method.contains(endpoint))
    }

    /// From now on an attempt may have been carried out.
    pub(super) fn set_uncertain(&mut self) {
        self.uncertain = true;
    }

    /// Whether an attempt may have been carried out.
    pub(super) fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// The error once the deadline has passed.
    pub(super) fn deadline_passed(&self) -> Error {
        if self.uncertain {
            return self.uncertain_because("no answer came in time");
        }
        self.error(self.kind(), "was not served in time")
    }

    /// [`Timeout`](ErrorKind::Timeout) only if there was no answer at all.
    fn kind(&self) -> ErrorKind {
        if self.definite { ErrorKind::Unavailable } else { ErrorKind::Timeout }
    }

    /// The error once the deadline has passed without a connection: nothing was sent.
    pub(super) fn unreachable(&self) -> Error {
        let (kind, timeout) = (self.kind(), self.timeout);
        if let [(address, cause)] = self.causes.as_slice() {
            let context = format!("cannot reach {address} within {timeout:?}");
            return Error::new(kind, context).with_source(with_advice(&in_plain_words(cause)));
        }
        let context = format!("cannot reach any server within {timeout:?}");
        Error::new(kind, context).with_source(self.each_cause(in_plain_words))
    }

    /// The error of a request that may have been carried out, and why it cannot be found out.
    pub(super) fn uncertain_because(&self, reason: &str) -> Error {
        self.error(ErrorKind::Uncertain, &format!("may or may not have been carried out: {reason}"))
    }

    /// The error of a call that its last attempt ended for good.
    pub(super) fn final_failure(&self, kind: ErrorKind) -> Error {
        let subject = (self.subject)();
        match &self.last {
            Some((address, cause)) => {
                let context = format!("{subject} failed at {address}");
                Error::new(kind, context).with_source(with_advice(cause))
            }
            None => Error::new(kind, format!("{subject} failed")),
        }
    }

    fn error(&self, kind: ErrorKind, outcome: &str) -> Error {
        let (subject, attempts, timeout) = ((self.subject)(), self.attempts, self.timeout);
        let plural = if attempts == 1 { "" } else { "s" };
        let context = format!("{subject} {outcome} ({attempts} attempt{plural} in {timeout:?})");
        let error = Error::new(kind, context);
        if self.causes.is_empty() {
            error
        } else {
            error.with_source(self.each_cause(str::to_owned))
        }
    }

    /// The last cause of each address.
    fn each_cause(&self, words: fn(&str) -> String) -> String {
        let each = self
            .causes
            .iter()
            .map(|(address, cause)| format!("{address}: {}", with_advice(&words(cause))));
        each.collect::<Vec<_>>().join("; ")
    }
}

/// A cause without the layers that it came through, and without the number of a system error.
fn in_plain_words(cause: &str) -> String {
    let layers = ["transport error: ", "tcp connect error: "];
    let mut words = cause;
    while let Some(rest) = layers.iter().find_map(|layer| words.strip_prefix(layer)) {
        words = rest;
    }
    let words = words.split(" (os error ").next().unwrap_or(words);
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use tsoracle_types::on_one_line;

    use super::*;
    use crate::peers::Scheme;

    #[test]
    fn an_attempt_without_time_takes_nothing_back_of_what_was_learned() {
        let address = Address::parse("a:1", Scheme::Plaintext).unwrap();
        let subject = || "get_ts".to_owned();
        let mut history = History::new(&subject, Duration::from_secs(1));
        history.failed(&address, "no connection in time".into(), true);
        assert_eq!(history.unreachable().kind(), ErrorKind::Timeout);
        history.failed(&address, "refused".into(), false);
        history.failed(&address, "no connection in time".into(), true);
        assert_eq!(history.unreachable().kind(), ErrorKind::Unavailable);
        let error = history.deadline_passed();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.to_string().contains("refused"), "the cause is the source: {error}");
        let line = on_one_line(&error);
        assert!(line.contains("refused"), "{line}");
    }

    #[test]
    fn causes_of_an_unreachable_server_are_plain() {
        for (cause, plain) in [
            (
                "transport error: tcp connect error: Connection refused (os error 111)",
                "connection refused",
            ),
            ("no connection within 1s", "no connection within 1s"),
            (
                "transport error: invalid peer certificate: Expired",
                "invalid peer certificate: Expired",
            ),
            ("", ""),
        ] {
            assert_eq!(in_plain_words(cause), plain);
        }
    }
}
