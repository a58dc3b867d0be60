#![doc = include_str!("../README.md")]

mod answer;
mod bound;
mod calls;
mod connection;
mod edge;
mod gate;
mod health;
mod limits;
mod pages;
mod rights;
mod server;
mod service;
mod status;
mod tls;

pub use bound::BoundServer;
pub use limits::Limits;
pub use pages::{Pages, serve_probes};
pub use rights::{
    ANONYMOUS, Access, Audit, IdentityConfig, IdentityLimits, Policy, PolicyConfig, Right, Rules,
    TOKEN_CHARS, TokenRecord, Tokens, Trust, token_mistake,
};
pub use server::{Builder, Server, listen};
pub use tls::TlsOptions;
