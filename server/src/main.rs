//! The `tsoracle` binary: a server, and the commands to ask one.

use std::process::ExitCode;

fn main() -> ExitCode {
    tsoracle_server::cli::main()
}
