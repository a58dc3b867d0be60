#![doc = include_str!("../README.md")]

mod bound;
mod calls;
mod connection;
mod edge;
mod health;
mod limits;
mod server;
mod service;
mod status;
mod tls;

pub use bound::BoundServer;
pub use limits::Limits;
pub use server::{Builder, Server, listen};
pub use tls::TlsOptions;
