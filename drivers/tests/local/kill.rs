//! The process is killed with SIGKILL at any moment, again and again: nothing that was acknowledged
//! is lost or issued twice, and what was asked with an id is there exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{actor::Actor, for_each_driver, worker};

for_each_driver! {
    nothing_acknowledged_is_lost_or_repeated
    nor_when_most_callers_give_up_after_a_moment
}

/// Values of a sequence.
type Blocks = Vec<(String, Range<u64>)>;

/// What all the children together asked for and were told.
#[derive(Default)]
struct Ledger {
    /// Requests with an id, as the child spelled them, by that id; with the answer, once known.
    asked: BTreeMap<String, (String, Option<Blocks>)>,
    /// Blocks acknowledged without an id.
    plain: Blocks,
    /// Values asked for without an id, per key, acknowledged or not.
    plain_asked: BTreeMap<String, u64>,
    /// The next value of each key, as said in the end.
    next: BTreeMap<String, u64>,
    /// The highest timestamp of all rounds before.
    timestamp: u64,
    round: Vec<Range<u64>>,
    /// How often an answer was noted.
    acknowledged: usize,
}

impl Ledger {
    fn note(&mut self, line: &str) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        self.acknowledged += usize::from(["got", "plain-got", "time"].contains(&kind));
        match kind {
            "up" => {}
            "asks" => {
                let id = rest.split_once(' ').unwrap().0.to_owned();
                self.asked.entry(id).or_insert((rest.into(), None));
            }
            "got" => {
                let (id, blocks) = rest.split_once(' ').unwrap();
                let (_, answer) = self.asked.get_mut(id).expect("asked before");
                let blocks = blocks_of(blocks);
                assert!(answer.as_ref().is_none_or(|before| *before == blocks), "{id} twice");
                *answer = Some(blocks);
            }
            "plain-asks" => {
                let (key, count) = rest.split_once(' ').unwrap();
                *self.plain_asked.entry(key.into()).or_default() += count.parse::<u64>().unwrap();
            }
            "plain-got" => self.plain.extend(blocks_of(rest)),
            "time" => {
                let (first, last) = rest.split_once(' ').unwrap();
                self.round.push(first.parse().unwrap()..last.parse::<u64>().unwrap() + 1);
            }
            "next" => {
                let (key, next) = rest.split_once(' ').unwrap();
                self.next.insert(key.into(), next.parse().unwrap());
            }
            _ => panic!("the child said: {line}"),
        }
    }

    /// All requests whose answer is not known, and some whose answer is, to be asked again.
    fn to_repeat(&self, random: &mut StdRng) -> String {
        let mut last = BTreeMap::new();
        for id in self.asked.keys() {
            let (session, number) = worker::id(id);
            let last = last.entry(session).or_insert(number);
            *last = number.max(*last);
        }
        let repeated = self.asked.iter().filter(|(id, (_, answer))| {
            let (session, number) = worker::id(id);
            // Of earlier requests the answers are forgotten.
            let kept = number + worker::OPEN > last[session];
            answer.is_none() || kept && random.random_range(0..4) == 0
        });
        repeated.map(|(_, (request, _))| format!("{request}\n")).collect()
    }

    fn end_round(&mut self) {
        let mut round = std::mem::take(&mut self.round);
        round.sort_by_key(|range| range.start);
        for range in round {
            assert!(range.start > self.timestamp, "timestamp {range:?} after {}", self.timestamp);
            self.timestamp = range.end - 1;
        }
    }

    /// What has to hold in the end, once every request with an id is answered.
    fn check(self) {
        let mut with_id: BTreeMap<String, Vec<Range<u64>>> = BTreeMap::new();
        for (id, (_, answer)) in self.asked {
            for (key, block) in answer.unwrap_or_else(|| panic!("{id} was never answered")) {
                with_id.entry(key).or_default().push(block);
            }
        }
        assert!(!with_id.is_empty());
        for (key, mut blocks) in with_id {
            blocks.sort_by_key(|block| block.start);
            let end = blocks.iter().fold(0, |end, block| {
                assert_eq!(block.start, end, "{key} has a gap or an overlap");
                block.end
            });
            assert_eq!(self.next[&key], end, "{key} has blocks that nobody asked for");
        }
        let mut plain: BTreeMap<String, Vec<Range<u64>>> = BTreeMap::new();
        self.plain.into_iter().for_each(|(key, block)| plain.entry(key).or_default().push(block));
        for (key, mut blocks) in plain {
            blocks.sort_by_key(|block| block.start);
            let end = blocks.iter().fold(0, |end, block| {
                assert!(block.start >= end, "{key}: {block:?} was issued twice");
                block.end
            });
            let next = self.next[&key];
            assert!(end <= next && next <= self.plain_asked[&key], "{key}: {end}, {next}");
        }
    }
}

fn blocks_of(text: &str) -> Blocks {
    let block = |text: &str| {
        let mut words = text.split('/');
        let key = words.next().unwrap().to_owned();
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let (start, count) = (number(), number());
        (key, start..start + count)
    };
    text.split(' ').map(block).collect()
}

fn killed(driver: &str, seed: u64, rounds: usize, crowd: &str) {
    let directory = tempfile::tempdir().unwrap();
    let config = format!("{driver}:{}", directory.path().display());
    let mut random = StdRng::seed_from_u64(seed);
    let mut ledger = Ledger::default();
    for round in 0..rounds {
        let name = round.to_string();
        let actor = Actor::start(&["serve", &config, &name, crowd], &ledger.to_repeat(&mut random));
        if round % 5 == 4 {
            // Somewhere in the start.
            let moment = Duration::from_micros(random.random_range(0..60_000));
            if let Ok(line) = actor.lines.recv_timeout(moment) {
                ledger.note(&line);
            }
        } else {
            let enough = ledger.acknowledged + random.random_range(1..2_000);
            while ledger.acknowledged < enough {
                ledger.note(&actor.lines.recv().expect("the child goes on until it is killed"));
            }
        }
        actor.kill().iter().for_each(|line| ledger.note(line));
        ledger.end_round();
    }
    assert!(ledger.asked.len() > 500 && ledger.acknowledged > 2_000, "too little was done");
    let keys: BTreeSet<&str> = worker::ID_KEYS.iter().chain(worker::PLAIN_KEYS).copied().collect();
    let keys = Vec::from_iter(keys).join(" ");
    let last = Actor::start(&["finish", &config, &keys], &ledger.to_repeat(&mut random));
    last.finish().iter().for_each(|line| ledger.note(line));
    ledger.end_round();
    ledger.check();
}

fn nothing_acknowledged_is_lost_or_repeated(driver: &str) {
    killed(driver, 1, 30, "6 6 0");
}

fn nor_when_most_callers_give_up_after_a_moment(driver: &str) {
    killed(driver, 2, 15, "3 3 40");
}
