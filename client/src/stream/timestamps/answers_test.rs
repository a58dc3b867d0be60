//! The answers under every schedule and every order of memory that a model finds: with an ordering
//! weakened, or a fence left out, a reader gets the timestamp of another batch.

use loom::sync::Arc;
use loom::thread;

/// Where [`answers`] takes its atomics from.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

#[path = "answers.rs"]
mod answers;

use answers::{Answer, Answers};

/// Only what batch `number` was answered.
fn expected(number: u64) -> Answer {
    match number % 2 {
        0 => Answer::Lost(number),
        _ => Answer::First(100 * number),
    }
}

#[test]
fn a_reader_gets_the_answer_to_its_own_batch_or_none() {
    loom::model(|| {
        // One cell, so that the later batch takes that of the earlier one.
        let answers = Arc::new(Answers::keeping(1));
        answers.write(1, expected(1));
        let writer = thread::spawn({
            let answers = answers.clone();
            move || answers.write(2, expected(2))
        });
        for number in [1, 2] {
            let read = answers.read(number);
            assert!(read.is_none_or(|read| read == expected(number)), "{number}: {read:?}");
        }
        writer.join().unwrap();
        assert_eq!(answers.read(2), Some(expected(2)));
        assert_eq!((answers.read(1), answers.is_replaced(1)), (None, true));
    });
}
