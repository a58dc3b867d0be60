use std::str::FromStr;

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
