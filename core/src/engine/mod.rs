//! Leading: from a claim of leadership to an open reign, and until it ends.

mod ahead;
mod backlog;
mod clock_guard;
mod follow;
mod group;
mod guard;
mod handover;
mod history;
mod lasting;
mod lead;
mod liveness;
mod meters;
mod pending;
mod problems;
mod read_ahead;
mod reign;
mod resign;
mod service;
mod settle;
mod shared;
mod shares;
mod space;
mod takeover;
mod taps;
mod turns;
mod wall_clock;
mod window;

use std::sync::Arc;

pub(crate) use self::{
    follow::run,
    handover::Handover,
    liveness::Liveness,
    pending::{Outcomes, Pending, lost},
    reign::{Denied, Reign},
    shared::Shared,
    taps::{Tap, Tapped},
    wall_clock::EARLIEST_MS,
};
pub use self::{
    history::Change, space::size_in_words, wall_clock::WallClock, window::MAX_HIGH_WATER_MS,
};
use crate::{Epoch, Error, LeaderHint};

/// What this node is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// No leader is known.
    Electing,
    /// Another node leads.
    Following(Option<LeaderHint>),
    /// This node should lead, and makes sure that its predecessor has stopped.
    TakingOver {
        /// Its epoch, once its fence is stored.
        epoch: Option<Epoch>,
        /// What keeps it from going on, if anything does.
        trouble: Option<Arc<str>>,
    },
    /// This node serves, as far as its lease holds.
    Serving {
        /// Its epoch.
        epoch: Epoch,
    },
    /// This node has served, and its lease has run out, since it cannot renew it. It asks for another leader,
    /// and serves again if it can renew the lease before there is one. The lease of a leader without
    /// requests runs out as well, but the next request renews it: such a leader is still `Serving`.
    Lapsed {
        /// Its epoch.
        epoch: Epoch,
    },
    /// This node is stopping.
    Stopping,
    /// This node will not serve again in this process.
    Failed(Arc<str>),
}

/// How a reign, or the attempt at one, ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It stopped, and released what it held.
    Stopped,
    /// It released what it held, so that another node may lead.
    HandedOver,
    /// Another epoch has taken over, or leadership has moved on.
    Fenced,
    /// The driver is done for.
    Failed(Error),
}
