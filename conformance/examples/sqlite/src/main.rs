//! The whole `tsoracle` program, with one more driver.

use std::process::ExitCode;

// Names the crate. Nothing else does, and the linker drops what nobody names.
use tsoracle_sqlite as _;

fn main() -> ExitCode {
    tsoracle_server::cli::main()
}
