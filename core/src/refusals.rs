use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::BootTime;

/// Characters of what others say, at most, in one line of a log.
const MAX_LOGGED: usize = 400;

/// How many reasons are logged at once, and after how long one more is.
const REASONS: u32 = 16;
const INTERVAL: Duration = Duration::from_secs(10);

/// Why others were refused, as far as it is logged: what strangers do must not fill a disk.
#[derive(Default, Debug)]
pub struct Refusals(Mutex<Logged>);

#[derive(Default, Debug)]
struct Logged {
    lately: VecDeque<(String, BootTime)>,
    /// How many were not logged since.
    left_out: u64,
}

impl Refusals {
    /// The reason as it is to be logged, on one line, with how many were left out since: unless it was logged
    /// lately, or too many others were.
    pub fn to_log(&self, reason: &str, now: BootTime) -> Option<(String, u64)> {
        let reason = shortened(reason);
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while logged.lately.front().is_some_and(|(_, at)| now.since(*at) >= INTERVAL * REASONS) {
            logged.lately.pop_front();
        }
        let is_known = logged.lately.iter().any(|(known, _)| *known == reason);
        let is_full = logged.lately.len() >= REASONS as usize;
        if is_full
            && !is_known
            && logged.lately.back().is_some_and(|(_, at)| now.since(*at) >= INTERVAL)
        {
            logged.lately.pop_front();
        } else if is_full || is_known {
            logged.left_out += 1;
            return None;
        }
        logged.lately.push_back((reason.clone(), now));
        Some((reason, std::mem::take(&mut logged.left_out)))
    }
}

/// What another party says, on one line of a log, and not more than fits there.
pub fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_LOGGED).flat_map(char::escape_debug).collect();
    // Quotes are as they were.
    shown = shown.replace("\\\"", "\"").replace("\\'", "'");
    if text.chars().nth(MAX_LOGGED).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_reason_is_logged_once_and_many_of_them_slowly() {
        let refusals = Refusals::default();
        assert_eq!(refusals.to_log("one", at(1)), Some(("one".into(), 0)));
        assert_eq!(refusals.to_log("one", at(2)), None);
        assert_eq!(refusals.to_log("two", at(2)), Some(("two".into(), 1)));
        let logged = (0..100).filter(|n| refusals.to_log(&n.to_string(), at(3)).is_some());
        assert_eq!(logged.count(), 14);
        assert_eq!(refusals.to_log("another", at(12)), None);
        assert_eq!(refusals.to_log("another", at(13)), Some(("another".into(), 87)));
        assert_eq!(refusals.to_log("yet another", at(14)), None);
        assert_eq!(refusals.to_log("later", at(1_000)), Some(("later".into(), 1)));
        assert_eq!(refusals.to_log("one", at(1_001)), Some(("one".into(), 0)));
        assert_eq!(refusals.to_log("one", at(2_000)), Some(("one".into(), 0)), "that was long ago");
    }

    #[test]
    fn what_others_say_stays_on_its_line() {
        assert_eq!(shortened("\"a\"\nWARN b\u{1b}[0m"), "\"a\"\\nWARN b\\u{1b}[0m");
        assert_eq!(shortened(&"x".repeat(9_999)).chars().count(), MAX_LOGGED + 1);
    }
}
