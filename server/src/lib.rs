#![doc = include_str!("../README.md")]

mod answer;
mod bound;
mod calls;
mod connection;
mod edge;
mod gate;
mod health;
mod limits;
mod listener;
mod meters;
mod method;
mod pages;
mod peer;
mod reload;
mod rights;
mod server;
mod service;
mod spans;
mod status;
mod tls;

pub use bound::BoundServer;
pub use limits::Limits;
pub use listener::{Listener, Place, SOCKET_MODE, listen, listen_at};
pub use pages::{Pages, serve_probes};
pub use reload::{ReloadRequest, Reloaded, Reloads};
pub use rights::{
    ANONYMOUS, Access, Audit, IdentityConfig, IdentityLimits, Policy, PolicyConfig, Right, Rules,
    TOKEN_CHARS, TokenRecord, Tokens, Trust, token_mistake,
};
pub use server::{Builder, Server};
pub use spans::SPAN_CODE;
pub use tls::TlsOptions;
