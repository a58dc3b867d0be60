//! The checks, by area. Each is one sentence of the contracts of `ConsensusDriver` and `SeqStore`.

use crate::{Check, Cluster, Fixture, suite::Make};

/// Declares the checks of an area: functions of this module, each with what it needs of a fixture. They
/// take what makes fixtures.
macro_rules! checks {
    ($area:literal: $($sentence:ident $([$($need:ident),+])?),+ $(,)?) => {
        pub(in crate::checks) const CHECKS: &[$crate::Check<$crate::Fixture>] = &[
            $($crate::Check::new(
                $area,
                stringify!($sentence),
                $crate::fixture::needs!($crate::Fixture: $($($need),+)?),
                |make| Box::pin($sentence(make)),
            )),+
        ];
    };
}

mod calls;
mod cluster;
mod commit;
mod config;
mod evidence;
mod identity;
mod leadership;
mod limits;
mod model;
mod oracle;
mod programs;
mod read;
mod resign;
mod shutdown;
mod store;

/// What each check of a driver is given.
type MakeFixture = Make<Fixture>;

pub(crate) fn of_drivers() -> Vec<Check<Fixture>> {
    [
        config::CHECKS,
        identity::CHECKS,
        store::CHECKS,
        commit::CHECKS,
        calls::CHECKS,
        read::CHECKS,
        evidence::CHECKS,
        leadership::CHECKS,
        resign::CHECKS,
        limits::CHECKS,
        shutdown::CHECKS,
        model::CHECKS,
        oracle::CHECKS,
        programs::CHECKS,
    ]
    .concat()
}

pub(crate) fn of_clusters() -> Vec<Check<Cluster>> {
    [
        cluster::CHECKS,
        cluster::five::CHECKS,
        cluster::disks::CHECKS,
        cluster::yielding::CHECKS,
        cluster::mixed::CHECKS,
    ]
    .concat()
}
