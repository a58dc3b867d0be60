#![doc = include_str!("../README.md")]

mod connection;
mod edge;
mod health;
mod limits;
mod listening;
mod server;
mod service;
mod status;
mod tls;

pub use limits::Limits;
pub use listening::Listening;
pub use server::{Builder, Server, listen};
pub use tls::TlsOptions;
