//! The `tsoracle` binary: a server, and the commands to ask one.

use std::process::ExitCode;

/// Stores allocate and free whole pages in a thread of their own, which glibc's allocator answers by
/// growing and shrinking that thread's heap with each commit.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tsoracle::main()
}
