use std::{fmt, net::SocketAddr};

use tsoracle_core::CallerId;

/// Who is at the other end of a connection, before it has proven anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// On the network.
    Address(SocketAddr),
    /// A user of this machine, at a socket in the file system: the kernel says who.
    User(u32),
}

impl Peer {
    /// Whose shares its connections count to: those of its address, or those of its user.
    pub(crate) fn caller_id(self) -> CallerId {
        match self {
            Self::Address(address) => CallerId::of_address(address.ip()),
            Self::User(user) => CallerId::of_user(user),
        }
    }

    /// Where it is, whichever its port.
    pub(crate) fn host(self) -> String {
        match self {
            Self::Address(address) => address.ip().to_string(),
            Self::User(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
}
