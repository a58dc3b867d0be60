use std::time::Duration;

use tonic::Status;

use crate::address::Address;
use crate::error::{Error, ErrorKind};

/// The most addresses whose last failure is remembered for the error message.
const MAX_CAUSES: usize = 16;

/// What became of the attempts of one call so far.
pub(crate) struct History<'a> {
    /// The call, for people: its name and arguments. Put into words only when something failed.
    subject: &'a (dyn Fn() -> String + Sync),
    timeout: Duration,
    attempts: u32,
    /// The last failure per address.
    causes: Vec<(Address, String)>,
    /// Where and why the last attempt failed.
    last: String,
    last_status: Option<Status>,
    /// Some attempt ended otherwise than for want of an answer.
    definite: bool,
    uncertain: bool,
}

impl<'a> History<'a> {
    pub(crate) fn new(subject: &'a (dyn Fn() -> String + Sync), timeout: Duration) -> Self {
        Self {
            subject,
            timeout,
            attempts: 0,
            causes: Vec::new(),
            last: String::new(),
            last_status: None,
            definite: false,
            uncertain: false,
        }
    }

    /// An attempt at `address` failed. `timed_out`: for want of an answer. That takes nothing back of
    /// what an earlier attempt learned: the deadline may have left this one no time.
    pub(crate) fn failed(
        &mut self,
        address: &Address,
        cause: String,
        status: Option<Status>,
        timed_out: bool,
    ) {
        tracing::debug!(call = (self.subject)(), %address, cause, "attempt failed");
        self.attempts += 1;
        self.last_status = status;
        self.definite |= !timed_out;
        self.last = format!("{address}: {cause}");
        if let Some((_, last)) = self.causes.iter_mut().find(|(known, _)| known == address) {
            if !timed_out {
                *last = cause;
            }
        } else if self.causes.len() < MAX_CAUSES {
            self.causes.push((address.clone(), cause));
        }
    }

    /// From now on an attempt may have been carried out.
    pub(crate) fn set_uncertain(&mut self) {
        self.uncertain = true;
    }

    /// Whether an attempt may have been carried out.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// The error once the deadline has passed.
    pub(crate) fn deadline_passed(&mut self) -> Error {
        if self.uncertain {
            return self.uncertain_because("no answer came in time to tell");
        }
        self.error(self.kind(), "was not served in time")
    }

    /// [`Timeout`](ErrorKind::Timeout) only if nothing at all was heard.
    fn kind(&self) -> ErrorKind {
        if self.definite { ErrorKind::Unavailable } else { ErrorKind::Timeout }
    }

    /// The error once the deadline has passed, and no connection stands: nothing was asked.
    pub(crate) fn unreachable(&self) -> Error {
        let timeout = self.timeout;
        let each = self.causes.iter().map(|(address, cause)| (address, in_plain_words(cause)));
        let context = match each.collect::<Vec<_>>().as_slice() {
            [(address, cause)] => format!("cannot reach {address} within {timeout:?}: {cause}"),
            all => {
                let all = all.iter().map(|(address, cause)| format!("{address}: {cause}"));
                let all = all.collect::<Vec<_>>().join("; ");
                format!("cannot reach any server within {timeout:?}: {all}")
            }
        };
        Error::new(self.kind(), context)
    }

    /// The error of a request that may have been carried out, and why nobody can tell.
    pub(crate) fn uncertain_because(&mut self, why: &str) -> Error {
        self.error(ErrorKind::Uncertain, &format!("may or may not have been carried out: {why}"))
    }

    /// The error of a call that its last attempt ended for good.
    pub(crate) fn final_failure(&mut self, kind: ErrorKind) -> Error {
        let context = format!("{} failed at {}", (self.subject)(), self.last);
        self.last_status.take().into_iter().fold(Error::new(kind, context), Error::with_source)
    }

    fn error(&mut self, kind: ErrorKind, outcome: &str) -> Error {
        let (subject, attempts, timeout) = ((self.subject)(), self.attempts, self.timeout);
        let causes = match self.causes_on_one_line() {
            causes if causes.is_empty() => String::new(),
            causes => format!("; {causes}"),
        };
        let plural = if attempts == 1 { "" } else { "s" };
        let context =
            format!("{subject} {outcome} ({attempts} attempt{plural} in {timeout:?}){causes}");
        self.last_status.take().into_iter().fold(Error::new(kind, context), Error::with_source)
    }

    fn causes_on_one_line(&self) -> String {
        let each = self.causes.iter().map(|(address, cause)| format!("{address}: {cause}"));
        each.collect::<Vec<_>>().join("; ")
    }
}

/// A cause without the layers it came through, and without what only programmers of systems read.
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
    use super::*;
    use crate::address::Scheme;

    #[test]
    fn an_attempt_without_time_takes_nothing_back_of_what_was_learned() {
        let address = Address::parse("a:1", Scheme::Plaintext).unwrap();
        let subject = || "get_ts".to_owned();
        let mut history = History::new(&subject, Duration::from_secs(1));
        history.failed(&address, "no connection in time".into(), None, true);
        assert_eq!(history.unreachable().kind(), ErrorKind::Timeout);
        history.failed(&address, "refused".into(), None, false);
        history.failed(&address, "no connection in time".into(), None, true);
        assert_eq!(history.unreachable().kind(), ErrorKind::Unavailable);
        let error = history.deadline_passed();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn what_cannot_be_reached_is_said_plainly() {
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
