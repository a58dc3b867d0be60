//! The whole `tsoracle` program, with one more driver.

use std::process::ExitCode;

// Names the crate: the linker drops what no code names.
use tsoracle_postgres as _;

fn main() -> ExitCode {
    tsoracle::main()
}
