#![doc = include_str!("../README.md")]

mod configs;
mod credentials;
mod handshake;
mod pem;
mod validity;
mod watched;
#[cfg(test)]
mod watched_test;

pub use configs::Callers;
pub use credentials::{Credentials, Sources};
pub use handshake::why_refused;
pub use pem::Source;
pub use validity::{Validity, date};
pub use watched::Watched;
