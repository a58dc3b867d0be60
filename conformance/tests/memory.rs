//! The suite over the memory driver.

use tsoracle_conformance::{Local, run};

fn main() -> std::process::ExitCode {
    run(|| Local::config(|_| "memory".into()).that_forgets().fixture())
}
