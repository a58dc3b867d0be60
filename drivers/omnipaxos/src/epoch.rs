//! Epochs: a ballot, and a claim made under it.

use omnipaxos::ballot_leader_election::Ballot;
use tsoracle_core::{Epoch, Error, ErrorKind, Result};

const CONFIG_BITS: u32 = 24;
const NUMBER_BITS: u32 = 32;
const NODE_BITS: u32 = 32;
const CLAIM_BITS: u32 = 40;

/// The epoch of a claim: configuration, ballot number and node, which order as ballots do, then the
/// claim. Every node has priority 0.
///
/// # Errors
/// `Fatal` if a part does not fit: cut short, two epochs might be the same.
pub(crate) fn epoch(ballot: Ballot, claim: u64) -> Result<Epoch> {
    if ballot.priority != 0 {
        let context = format!("ballot {ballot:?} has a priority, which no epoch has room for");
        return Err(Error::new(ErrorKind::Fatal, context));
    }
    let parts = [
        ("configuration", u64::from(ballot.config_id), CONFIG_BITS),
        ("ballot number", u64::from(ballot.n), NUMBER_BITS),
        ("node id", ballot.pid, NODE_BITS),
        ("claim", claim, CLAIM_BITS),
    ];
    let mut epoch = 0;
    for (name, value, bits) in parts {
        if value >> bits != 0 {
            let context = format!("{name} {value} does not fit into {bits} bits of an epoch");
            return Err(Error::new(ErrorKind::Fatal, context));
        }
        epoch = epoch << bits | u128::from(value);
    }
    Ok(Epoch(epoch))
}

/// Whether the epoch is of a claim under this ballot.
pub(crate) fn is_under(claimed: Epoch, ballot: Ballot) -> bool {
    epoch(ballot, 0).is_ok_and(|first| first.0 >> CLAIM_BITS == claimed.0 >> CLAIM_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_not_cut_short() {
        let ballot = |config, n, node| Ballot::with(config, n, 0, node);
        let most = ballot((1 << 24) - 1, u32::MAX, u64::from(u32::MAX));
        assert_eq!(epoch(most, (1 << 40) - 1).unwrap(), Epoch(u128::MAX));
        for (refused, claim, name) in [
            (ballot(1 << 24, 1, 1), 1, "configuration 16777216"),
            (ballot(1, 1, 1 << 32), 1, "node id 4294967296"),
            (ballot(1, 1, 1), 1 << 40, "claim 1099511627776"),
            (Ballot::with(1, 1, 1, 1), 1, "priority"),
        ] {
            let error = epoch(refused, claim).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Fatal);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    proptest! {
        #[test]
        fn epochs_order_as_ballots_do_and_then_by_claim(
            a: (u32, u32), b: (u32, u32), claims: (u32, u32),
        ) {
            let ballots = [a, b].map(|(n, node)| Ballot::with(1, n, 0, node.into()));
            let epochs = [(ballots[0], claims.0), (ballots[1], claims.1)]
                .map(|(ballot, claim)| epoch(ballot, claim.into()).unwrap());
            let expected = ballots[0].cmp(&ballots[1]).then(claims.0.cmp(&claims.1));
            prop_assert_eq!(epochs[0].cmp(&epochs[1]), expected);
            prop_assert!(is_under(epochs[0], ballots[0]));
            prop_assert_eq!(is_under(epochs[0], ballots[1]), ballots[0] == ballots[1]);
        }
    }
}
