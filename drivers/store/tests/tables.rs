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

#[test]
fn the_first_driver_there_was_leaves_no_note() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), Options::default()).unwrap();
    // A state of nothing is still anyone's.
    store.belong_to("file").unwrap();
    store.commit(effect(b"state")).unwrap();
    store.belong_to("file").unwrap();
    assert_eq!(store.entries(Table::new("meta"), &[], &[u8::MAX], 9).unwrap(), []);
    let error = store.belong_to("other").unwrap_err();
    assert_eq!(*error.kind(), tsoracle_core::ErrorKind::Config, "{error}");
}
