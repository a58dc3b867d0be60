//! The target that is called as this program is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tsoracle_fuzz_targets::TARGETS;

fuzz_target!(|data: &[u8]| {
    let target = TARGETS.iter().find(|target| target.name == env!("CARGO_BIN_NAME"));
    (target.expect("programs are called as targets").run)(data);
});
