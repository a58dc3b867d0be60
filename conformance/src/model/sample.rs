//! Keys, values, effects and reads that are drawn at random.

use tsoracle_core::{Effect, KeyRange, Reads, VERSION};

use super::{Entries, Random};

/// Behind every key that is drawn.
pub(crate) const END: &[u8] = &[0xff; LONGEST_KEY + 1];

/// Longer than any key of the engine.
pub(crate) const LONGEST_KEY: usize = 512;

/// Beginnings of keys, which differ where orders and encodings go wrong. None is a key of a driver's own.
const STEMS: [&[u8]; 16] = [
    b"a",
    b"A",
    b"ab",
    b"a\0",
    b"a\0b",
    b"a'; --",
    b"a%_",
    b"\xc3\xa9",
    b"\0",
    b"\0\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"a/10",
    b"a/9",
];

/// How many keys of a stem there are, so that writes meet each other.
const KEYS: usize = 12;

/// Values around this length are cut by columns, pages and frames.
const LONG: usize = 1 << 16;

pub(crate) fn key(random: &mut Random) -> Vec<u8> {
    let mut key = random.pick(&STEMS).to_vec();
    match random.below(8) {
        0 => {}
        1 => key.resize(LONGEST_KEY, b'k'),
        2 => {
            key.resize(LONGEST_KEY - 1, b'k');
            key.push(random.below(256) as u8);
        }
        _ => key.extend(random.below(KEYS).to_string().bytes()),
    }
    key
}

fn value(random: &mut Random) -> Vec<u8> {
    let length = match random.below(60) {
        0 => LONG + random.below(3) - 1,
        1..=12 => 0,
        _ => 1 + random.below(60),
    };
    random.bytes(length)
}

/// Some writes, often of keys that `entries` has.
pub(crate) fn effect(random: &mut Random, entries: &Entries) -> Effect {
    let mut effect = Effect::default();
    let writes = match random.below(20) {
        0 => 0,
        1 => 100,
        _ => 1 + random.below(8),
    };
    for _ in 0..writes {
        let key = if random.one_in(4) { some_key(random, entries) } else { key(random) };
        match random.below(4) {
            0 => effect.delete(key),
            _ => effect.put(key, value(random)),
        }
    }
    effect
}

/// A key that exists, if there is one that a check may write.
fn some_key(random: &mut Random, entries: &Entries) -> Vec<u8> {
    let near = key(random);
    let next = entries
        .keys()
        .find(|key| *key >= near.as_slice() && STEMS.iter().any(|stem| key.starts_with(stem)));
    next.map_or(near.clone(), <[u8]>::to_vec)
}

/// Some keys and ranges.
pub(crate) fn reads(random: &mut Random) -> Reads {
    let mut reads = Reads::default();
    for _ in 0..random.below(5) {
        reads.keys.push(if random.one_in(9) { VERSION.to_vec() } else { key(random) });
    }
    for _ in 0..random.below(3) {
        let mut ends = [key(random), if random.one_in(3) { END.to_vec() } else { key(random) }];
        if !random.one_in(8) {
            ends.sort();
        }
        let [from, to] = ends;
        reads.ranges.push(KeyRange { from, to, limit: *random.pick(&[0, 1, 2, 7, 50]) });
    }
    reads
}
