//! What is fuzzed: every decoder, as a function of bytes that says whether they could be read.
//!
//! A target panics if a decoder does, or if what was read and encoded again is read as something else. The
//! targets of decoders that are not public are in the crates of these, behind their feature `fuzz`. Fuzzed
//! they are by cargo-fuzz, in the folder above; the test here replays the corpora there, and mutations of
//! them, on stable Rust.

mod backup;
mod config;
mod history;
mod log;
mod seeds;
mod state;
mod wire;

pub use seeds::{RELEASED, seeds};

/// A decoder that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it and its corpus are called.
    pub name: &'static str,
    /// Reads bytes, and says whether it could.
    pub run: fn(&[u8]) -> bool,
}

macro_rules! targets {
    ($($name:ident: $run:path),* $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[
            $(Target { name: stringify!($name), run: $run }),*
        ];
    };
}

targets!(
    address: tsoracle_client::fuzz::address,
    backup: backup::backup,
    config_string: config::string,
    config_table: config::table,
    effect: state::effect,
    frame: tsoracle_replica::fuzz::frame,
    history_lines: history::lines,
    identity: tsoracle_replica::fuzz::identity,
    log_entry: log::entry,
    message_parts: log::message_parts,
    metadata: wire::metadata,
    omnipaxos_message: tsoracle_omnipaxos::fuzz::message,
    openraft_message: tsoracle_openraft::fuzz::message,
    openraft_stored: tsoracle_openraft::fuzz::stored,
    record: tsoracle_core::fuzz::record,
    request: wire::request,
    snapshot: tsoracle_replica::fuzz::snapshot,
    store: tsoracle_store::fuzz::store,
    transfer: tsoracle_replica::fuzz::transfer,
    version: state::version,
);
