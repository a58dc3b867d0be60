//! The checks, by area. Each is one sentence of the contracts of `ConsensusDriver` and `SeqStore`.

use crate::Check;

/// Declares the checks of an area: functions of this module, each with the abilities it needs. They
/// take a rig, or what `around` makes of one.
macro_rules! checks {
    ($area:literal: $($sentence:ident $([$($ability:ident),+])?),+ $(,)?) => {
        pub(in crate::checks) const CHECKS: &[$crate::Check] = &[$($crate::Check::new(
            $area,
            stringify!($sentence),
            &[$($($crate::Ability::$ability),+)?],
            |rig| Box::pin($sentence(rig)),
        )),+];
    };
    ($area:literal, $around:ident: $($sentence:ident $([$($ability:ident),+])?),+ $(,)?) => {
        pub(in crate::checks) const CHECKS: &[$crate::Check] = &[$($crate::Check::new(
            $area,
            stringify!($sentence),
            &[$($($crate::Ability::$ability),+)?],
            |rig| Box::pin($around(rig, |what| Box::pin($sentence(what)))),
        )),+];
    };
}

mod cancellation;
mod cluster;
mod concurrency;
mod config;
mod contract;
mod crashes;
mod identity;
mod leadership;
mod listing;
mod model;
mod moving;
mod order;
mod reigns;
mod sequences;
mod sessions;
mod shutdown;
mod sizes;
mod stamping;
mod store;

pub(crate) fn all() -> Vec<Check> {
    let contract = contract::checks();
    [
        config::CHECKS,
        identity::CHECKS,
        store::CHECKS,
        contract.as_slice(),
        model::CHECKS,
        leadership::CHECKS,
        reigns::CHECKS,
        sequences::CHECKS,
        sessions::CHECKS,
        listing::CHECKS,
        stamping::CHECKS,
        concurrency::CHECKS,
        cancellation::CHECKS,
        crashes::CHECKS,
        order::CHECKS,
        sizes::CHECKS,
        moving::CHECKS,
        shutdown::CHECKS,
        cluster::CHECKS,
        cluster::five::CHECKS,
        cluster::disks::CHECKS,
    ]
    .concat()
}
