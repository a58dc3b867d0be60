//! The register of the model is the one in the code: both take the same commands to the same
//! records. Without this the model would prove something about itself alone.

use proptest::prelude::*;
use tsoracle_core::{
    Epoch, MemoryStore, NodeId, SeqStore,
    state::{self, Answer, Query},
};

use crate::{
    clauses::Rules,
    record::{Author, Command, Record, Reply, Stage},
};

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => (1..9u8, 0..3u8).prop_map(|(now, headroom)| Command::Fence { now, headroom, read: None }),
        3 => Just(Command::Open { floor: 0, ceiling: 0 }),
        2 => (0..12u8).prop_map(|high_water| Command::Extend { high_water }),
        1 => Just(Command::Release),
    ]
}

fn authors() -> impl Strategy<Value = Author> {
    (0..3u8, 1..6u8, 1..4u16).prop_map(|(id, epoch, lease)| Author { id, epoch, lease })
}

fn in_code(author: Author, command: Command) -> state::Command {
    let lease_ms = u64::from(author.lease);
    match command {
        Command::Fence { now, headroom, .. } => {
            state::Command::Fence { now_ms: now.into(), headroom_ms: headroom.into(), lease_ms }
        }
        Command::Open { .. } => state::Command::Open { node: NodeId(author.id.into()), lease_ms },
        Command::Extend { high_water } => {
            state::Command::Extend { high_water_ms: high_water.into(), elapsed_ms: 0 }
        }
        Command::Release => state::Command::Release,
    }
}

/// Commits to the state of the code. The reply, if the command was accepted.
fn commit(store: &mut MemoryStore, author: Author, command: Command) -> Option<state::Reply> {
    let commands = [in_code(author, command)];
    let (mut results, effect) =
        state::apply(&*store, Epoch(author.epoch.into()), &commands).expect("memory does not fail");
    store.commit(effect).expect("memory does not fail");
    results.remove(0).ok()
}

fn assert_same(record: &Record, store: &MemoryStore) {
    let answer = state::answer(store, &Query::Reign).expect("memory does not fail");
    let Answer::Reign(stored) = answer else { panic!("the answer fits the query") };
    let Some(stored) = stored else {
        assert_eq!(*record, Record::fresh());
        return;
    };
    let stage = match stored.stage {
        state::Stage::Fenced => Stage::Fenced,
        state::Stage::Open => Stage::Open,
        state::Stage::Released => Stage::Released,
        state::Stage::Importing => panic!("nothing is imported here"),
    };
    assert_eq!((record.epoch.into(), record.stage), (stored.epoch.0, stage));
    assert_eq!(u64::from(record.high_water), stored.high_water_ms);
    assert_eq!(u64::from(record.lease), stored.lease_ms);
    assert_eq!(record.opened_by.map(|id| NodeId(id.into())), stored.opened_by);
    // A record that nobody opened counts as released in the model; in the code, nobody waits for it
    // because nobody opened it.
    assert_eq!(record.released, stored.released || stored.opened_by.is_none());
}

proptest! {
    #[test]
    fn the_code_does_what_the_model_does(steps in prop::collection::vec((authors(), commands()), 1..60)) {
        let (mut record, mut store) = (Record::fresh(), MemoryStore::default());
        for (author, command) in steps {
            // Headrooms add up in a byte; beyond it the model has nothing to say.
            if record.high_water > 200 {
                break;
            }
            let modelled = record.apply(Rules::without(&[]), author, command);
            let replied = commit(&mut store, author, command);
            prop_assert_eq!(modelled.is_some(), replied.is_some(), "{:?} {:?}", author, command);
            if let Some(Reply::Fenced { floor, high_water, .. }) = modelled {
                let Some(state::Reply::Fenced { floor_ms, high_water_ms, .. }) = replied else {
                    panic!("a fence was answered with {replied:?}");
                };
                prop_assert_eq!((u64::from(floor), u64::from(high_water)), (floor_ms, high_water_ms));
            }
            assert_same(&record, &store);
        }
    }
}
