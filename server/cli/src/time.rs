use std::{str::FromStr, time::Duration};

use serde::Deserialize;
use tsoracle_core::Timestamp;

/// A moment in milliseconds since 1970, given as that or in RFC 3339.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "toml::Value")]
pub(crate) struct Time(pub(crate) u64);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Timestamp::parse_physical_ms(text).map(Self).map_err(|error| error.to_string())
    }
}

impl TryFrom<toml::Value> for Time {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => text.parse(),
            // TOML has a form of its own for the same.
            toml::Value::Integer(_) | toml::Value::Datetime(_) => value.to_string().parse(),
            _ => Err("invalid type: a time is in milliseconds since 1970, or in RFC 3339".into()),
        }
    }
}

/// The longest time that an option may give: longer than anything lasts, and short enough to be added to any clock and
/// to be sent with a call.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How long something may take or last, as an option gives it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(given) if given <= LONGEST => Ok(given),
        Ok(_) => Err("no time here may be longer than 100 years".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The same, of what cannot be done in no time.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("allow some time".into()),
        given => Ok(given),
    }
}

/// The same, as an option of a server gives it, or its file.
#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(try_from = "String")]
pub(crate) struct Lasting(Duration);

impl FromStr for Lasting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration(text).map(Self)
    }
}

impl TryFrom<String> for Lasting {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Lasting> for Duration {
    fn from(lasting: Lasting) -> Self {
        lasting.0
    }
}

/// That moment as people read it.
pub(crate) fn readable(ms: u64) -> String {
    Timestamp::from_parts(ms, 0).map(Timestamp::to_rfc3339).unwrap_or_else(|_| format!("{ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    struct Table {
        at: Time,
    }

    #[derive(Deserialize, Debug)]
    struct Lasts {
        lasts: Lasting,
    }

    #[test]
    fn no_time_is_longer_than_a_clock_can_count() {
        assert_eq!(duration("36500days"), Ok(LONGEST));
        let long = ["36501days", "1000000y", "584942417355y", "18446744073709551615s"];
        for text in long {
            assert!(duration(text).is_err() && some_time(text).is_err(), "{text}");
            let table = toml::from_str::<Lasts>(&format!("lasts = '{text}'"));
            assert!(table.is_err(), "{text}: {table:?}");
        }
        assert!(duration("0s").is_ok() && some_time("0s").is_err());
        let table: Lasts = toml::from_str("lasts = '2s'").unwrap();
        assert_eq!(table.lasts.0, Duration::from_secs(2));
    }

    #[test]
    fn a_time_has_several_forms_in_a_file() {
        for text in [
            "1792000000123",
            "'1792000000123'",
            "2026-10-14T17:46:40.123Z",
            "'2026-10-14T19:46:40.123+02:00'",
        ] {
            let table: Table = toml::from_str(&format!("at = {text}")).unwrap();
            assert_eq!(table.at, Time(1_792_000_000_123), "{text}");
        }
        for text in ["-1", "true", "'soon'", "2026-10-14", "1.5"] {
            assert!(toml::from_str::<Table>(&format!("at = {text}")).is_err(), "{text}");
        }
    }
}
