//! Tables beside the state.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

use tsoracle_core::{Effect, SeqStore as _};
use tsoracle_store::{Options, Store, Table};

const LOG: Table = Table::new("log");
const STATE: Table = Table::new("state");

fn effect(value: &[u8]) -> Effect {
    let mut effect = Effect::default();
    (0..3_u8).for_each(|key| effect.put([key], value));
    effect
}

#[test]
fn tables_are_separate_and_written_together() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Store::open(directory.path(), Options::default()).unwrap();
    let store = open();
    assert_eq!(store.last(LOG).unwrap(), None);
    store.write([(LOG, effect(b"entry")), (STATE, effect(b"state"))]).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.last(LOG).unwrap(), Some((vec![2], b"entry".to_vec())));
    assert_eq!(store.get(&[2]).unwrap(), Some(b"state".to_vec()));
    let entries = store.entries(LOG, &[1], &[3], 1).unwrap();
    assert_eq!(entries, [(vec![1], b"entry".to_vec())]);
    assert_eq!(store.entries(LOG, &[3], &[1], 1).unwrap(), []);
}
