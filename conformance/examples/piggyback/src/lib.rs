#![doc = include_str!("../README.md")]

mod commit;
mod config;
mod driver;
mod leadership;
mod ledger;
mod log;
mod machine;
mod network;
mod node;
mod types;

pub use config::Config;
pub use network::Network;
pub use node::{Node, Progress};
