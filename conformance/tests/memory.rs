//! The suite over the memory driver.

fn main() -> std::process::ExitCode {
    tsoracle_conformance::run(
        tsoracle_conformance::Local::config(|_| "memory".into()).that_forgets(),
    )
}
