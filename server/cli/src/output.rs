use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// How the answer is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON, on one line; each whole number NAME is also there as a string, NAME_text, for
    /// readers whose numbers have 53 bits
    #[arg(long)]
    json: bool,
}

impl Output {
    /// Prints one line: `value` as JSON, or `text`.
    pub fn print(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.json {
            true => print_line(&json(value)?),
            false => print_line(&printable(&text())),
        }
    }
}

/// A value on one line, with its whole numbers as strings, too.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    match serde_json::to_value(value) {
        Ok(value) => Ok(printable_json(&with_texts(value).to_string())),
        Err(error) => Err(Failure::failed(format!("cannot write JSON: {error:#}"))),
    }
}

/// Adds to each whole number of an object the same as a string, behind it.
fn with_texts(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut all = Map::new();
            for (name, value) in fields {
                let text = (value.is_u64() || value.is_i64()).then(|| value.to_string());
                all.insert(name.clone(), with_texts(value));
                all.extend(text.map(|text| (format!("{name}_text"), text.into())));
            }
            Value::Object(all)
        }
        Value::Array(values) => values.into_iter().map(with_texts).collect(),
        other => other,
    }
}

/// A text that moves no cursor and changes no colour, whatever others have put into it.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match is_harmless(character) {
            true => shown.push(character),
            false => shown.extend(character.escape_default()),
        }
    }
    shown
}

/// The same of a text that is to be one line, or a part of one, so that it does not look like several.
pub(crate) fn word(text: &str) -> String {
    printable(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// The same of JSON, whose own escapes say the same to its readers. There are such characters in its strings alone.
pub(crate) fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        match is_harmless(character) {
            true => shown.push(character),
            // None of them is beyond the first 65,536.
            false => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    shown
}

fn is_harmless(character: char) -> bool {
    // Those that change the direction of writing make a text look like another one.
    let turns = matches!(character, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !turns && (character == '\n' || character == '\t' || !character.is_control())
}

/// Prints to standard output at once, whether that is a terminal or not.
pub fn print_line(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        // Whoever read it has read enough, as `head` does.
        io::ErrorKind::BrokenPipe => Failure::unread(),
        _ => Failure::failed(format!("cannot write to standard output: {error:#}")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_are_there_as_strings_too() {
        let value = json!({"next": u64::MAX, "rate": 1.5, "of": [{"start": 7, "key": "9"}]});
        let expected = json!({
            "next": u64::MAX, "next_text": "18446744073709551615", "rate": 1.5,
            "of": [{"start": 7, "start_text": "7", "key": "9"}]
        });
        assert_eq!(with_texts(value), expected);
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(printable("orders-1 é 序"), "orders-1 é 序");
        assert_eq!(
            printable("a\u{1b}[31m\r\u{9b}\u{202e}b\n"),
            "a\\u{1b}[31m\\r\\u{9b}\\u{202e}b\n"
        );
        assert_eq!(word("a 1\nb\t\u{1b}"), "a 1\\nb\\t\\u{1b}");
    }

    #[test]
    fn json_tells_a_terminal_nothing_either_and_its_readers_the_same() {
        let key = "a\u{1b}[31m\r\u{9b}\u{7f}\u{202e}b\n\"\\";
        let text = super::json(&json!({ "key": key })).unwrap();
        assert!(text.chars().all(is_harmless) && !text.contains('\n'), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["key"], key);
    }
}
