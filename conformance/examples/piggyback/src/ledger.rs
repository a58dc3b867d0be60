//! The service's own data: accounts, and what was paid in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tsoracle_core::{Effect, Entry, Error, ErrorKind, Result};
use tsoracle_store::{Store, Table};

/// Accounts to balances, in big-endian bytes.
pub(crate) const ACCOUNTS: Table = Table::new("accounts");

/// Every account's name is below.
const END: &[u8] = &[u8::MAX];

/// The service's own command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Deposit {
    pub(crate) account: String,
    pub(crate) amount: u64,
}

/// Deposits that are applied together, over what is stored.
#[derive(Default)]
pub(crate) struct Batch(BTreeMap<String, u64>);

impl Batch {
    /// Makes a deposit, and returns the account's balance.
    pub(crate) fn apply(&mut self, store: &Store, deposit: Deposit) -> Result<u64> {
        let Deposit { account, amount } = deposit;
        let balance = match self.0.get(&account) {
            Some(balance) => *balance,
            None => {
                let stored = store.read(ACCOUNTS, account.as_bytes())?;
                stored.map_or(Ok(0), |bytes| balance(&bytes))?
            }
        };
        // Every node does the same, so that it may be anything but a panic.
        let balance = balance.saturating_add(amount);
        self.0.insert(account, balance);
        Ok(balance)
    }

    pub(crate) fn into_writes(self) -> Option<(Table, Effect)> {
        let mut effect = Effect::default();
        self.0.iter().for_each(|(account, balance)| effect.put(account, balance.to_be_bytes()));
        (!effect.is_empty()).then_some((ACCOUNTS, effect))
    }
}

/// All accounts, as they are stored.
pub(crate) fn all(store: &Store) -> Result<Vec<Entry>> {
    store.entries(ACCOUNTS, &[], END, usize::MAX)
}

/// All accounts with their balances.
pub(crate) fn balances(store: &Store) -> Result<BTreeMap<String, u64>> {
    let named = |(account, bytes): Entry| {
        let account = String::from_utf8(account).map_err(|_| damaged())?;
        Ok((account, balance(&bytes)?))
    };
    all(store)?.into_iter().map(named).collect()
}

/// What makes `accounts` all that is stored.
pub(crate) fn replace(store: &Store, accounts: Vec<Entry>) -> Result<(Table, Effect)> {
    let mut effect = Effect::default();
    all(store)?.iter().for_each(|(account, _)| effect.delete(account));
    accounts.iter().for_each(|(account, balance)| effect.put(account, balance));
    Ok((ACCOUNTS, effect))
}

fn balance(bytes: &[u8]) -> Result<u64> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| damaged())
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "an account cannot be read; replace this node")
}
