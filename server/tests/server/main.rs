//! The server over a real socket.

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod deadlines;
mod embedding;
mod health;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod rights;
mod routing;
mod rpcs;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod shares;
mod shutdown;
mod stamping;
mod statuses;
mod streams;
mod tls;
