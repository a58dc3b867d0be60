use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;

/// How the answer is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON, on one line
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
            true => match serde_json::to_string(value) {
                Ok(line) => print_line(&line),
                Err(error) => Err(Failure::failed(format!("cannot write JSON: {error:#}"))),
            },
            false => print_line(&text()),
        }
    }
}

/// Prints to standard output at once, whether that is a terminal or not.
pub fn print_line(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::failed(format!("cannot write to standard output: {error:#}")))
}
