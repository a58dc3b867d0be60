//! How help is laid out: what stands in brackets stays on one line.

use clap::{Arg, Command};

/// Joins words that are not to be taken apart. Help has none of its own.
const JOINED: char = '\u{a0}';

/// How wide examples are at most, and the commands in them that have something beside them.
const WIDTH: usize = 80;
const COMMAND: usize = 40;

/// Up to how many characters a text in brackets is kept together: half a line.
const MOST: usize = 40;

/// Says of each argument what it is by default, and which variable it can come from, and keeps that together.
pub(crate) fn laid_out(command: Command) -> Command {
    let about = command.get_about().map(|about| joined(&about.to_string()));
    let after = command.get_after_help().map(|after| reflowed(&after.to_string()));
    let command = match about {
        Some(about) => command.about(about),
        None => command,
    };
    let command = match after {
        Some(after) => command.after_help(after),
        None => command,
    };
    command.mut_args(described).mut_subcommands(laid_out)
}

/// What stands below the options: paragraphs, which the terminal wraps, and examples in columns that fit.
fn reflowed(text: &str) -> String {
    let paragraph = |lines: &str| match lines.contains("\n ") || lines.starts_with(' ') {
        true => lines.lines().map(example).collect::<Vec<_>>().join("\n"),
        false => joined(&lines.replace('\n', " ")),
    };
    text.split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// A line of an example: a command, and perhaps what it does. Other lines stay as they are.
fn example(line: &str) -> String {
    let Some(text) = line.strip_prefix("  ").filter(|text| !text.starts_with(' ')) else {
        return line.into();
    };
    if let Some((command, does)) = text.split_once("  ") {
        let does = does.trim_start();
        let beside = format!("  {command:<COMMAND$}  {does}");
        return match beside.chars().count() <= WIDTH && command.chars().count() <= COMMAND {
            true => beside,
            false => format!("  {command}\n      {does}"),
        };
    }
    if line.chars().count() <= WIDTH {
        return line.into();
    }
    // A shell goes on in the next line behind a backslash.
    let cut = text.char_indices().rfind(|(at, char)| *char == ' ' && *at + 4 <= WIDTH);
    match cut {
        Some((cut, _)) => format!("  {} \\\n      {}", &text[..cut], &text[cut + 1..]),
        None => line.into(),
    }
}

fn described(mut argument: Arg) -> Arg {
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let default = argument.get_default_values().iter().map(|value| value.to_string_lossy());
    let default = default.collect::<Vec<_>>().join(" ");
    if !default.is_empty() && !argument.is_hide_default_value_set() {
        help += &format!(" [default: {default}]");
        argument = argument.hide_default_value(true);
    }
    if let Some(variable) = argument.get_env() {
        help += &format!(" [env: {}]", variable.to_string_lossy());
    }
    argument.help(joined(&help)).hide_env(true)
}

/// The text with what is in brackets kept together, and its last two words, so that no line has one word alone.
fn joined(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, bracket) = rest.split_at(open);
        joined.push_str(before);
        let end = bracket.find(']').map_or(bracket.len(), |end| end + 1);
        let (bracket, after) = bracket.split_at(end);
        match bracket.chars().count() <= MOST {
            true => joined.extend(bracket.chars().map(|c| if c == ' ' { JOINED } else { c })),
            false => joined.push_str(bracket),
        }
        rest = after;
    }
    match rest.rsplit_once(' ') {
        Some((before, last)) if !last.is_empty() => {
            joined.push_str(before);
            joined.push(JOINED);
            joined.push_str(last);
        }
        _ => joined.push_str(rest),
    }
    joined
}

/// What is printed of a text that was laid out.
pub(crate) fn printed(text: &str) -> String {
    text.replace(JOINED, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_fit_and_paragraphs_are_left_to_the_terminal() {
        let text = "Examples:\n  a b      what it does\n  c d\n    e\n\nOne\ntwo three.";
        let laid = format!(
            "Examples:\n  {:<40}  what it does\n  c d\n    e\n\nOne two\u{a0}three.",
            "a b"
        );
        assert_eq!(reflowed(text), laid);
        let name = "x".repeat(64);
        let expected = format!("  tsoracle {name} \\\n      --to 1");
        assert_eq!(example(&format!("  tsoracle {name} --to 1")), expected);
        let beside = format!("  tsoracle {}  which does this", "x".repeat(40));
        assert_eq!(
            example(&beside),
            format!("  tsoracle {}\n      which does this", "x".repeat(40))
        );
    }

    #[test]
    fn brackets_and_the_last_words_are_kept_together() {
        let text = "where to listen [default: 127.0.0.1:50551] [env: A]";
        let kept = joined(text);
        assert_eq!(kept.split(' ').count(), 5);
        assert_eq!(joined("how long it may take").split(' ').count(), 4, "no word alone");
        assert_eq!(printed(&kept), text);
        let long = format!("a [{}]", "b ".repeat(30).trim_end());
        assert_eq!(joined(&long), long);
    }
}
