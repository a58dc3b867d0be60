use std::io::{self, BufRead, Write};

use super::Operation;

/// Writes one operation as one line.
///
/// # Errors
/// Those of `output`.
pub fn write_line(output: &mut impl Write, operation: &Operation) -> io::Result<()> {
    serde_json::to_writer(&mut *output, operation)?;
    output.write_all(b"\n")
}

/// Reads a history. Empty lines are skipped.
///
/// # Errors
/// Those of `input`; `InvalidData`, which names the line, for one that is not an operation or ends
/// before it starts.
pub fn read_lines(input: impl BufRead) -> io::Result<Vec<Operation>> {
    let mut operations = Vec::new();
    for (number, line) in (1..).zip(input.lines()) {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let operation: Operation =
            serde_json::from_str(&line).map_err(|error| malformed(number, &error.to_string()))?;
        if operation.end_ns < operation.start_ns {
            return Err(malformed(number, "it ends before it starts"));
        }
        operations.push(operation);
    }
    Ok(operations)
}

fn malformed(line: usize, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("line {line}: {why}"))
}
