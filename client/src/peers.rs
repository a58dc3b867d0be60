//! The nodes of an oracle as this client sees them: addresses, connections, which one leads, and which one fails.

mod dialer;
mod failure_detector;
mod leader;
mod pool;
mod state;

pub(crate) use dialer::{Channel, Dialer, Token};
pub(crate) use failure_detector::{SUSPECT_AFTER, unless_superseded};
pub(crate) use leader::Leader;
pub(crate) use pool::{Peer, Pool};
pub(crate) use state::PeerState;
pub(crate) use tsoracle_proto::Address;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use tsoracle_proto::Scheme;
