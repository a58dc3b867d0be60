//! Gaplessness and exactly-once for any sequence of commands, against a plain model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Answer, Command, Limits, Plan, Query, RETENTION, Record, Reject, Reply, Seed, WorkingSet, keys,
    record::Meta,
    testing::{State, commit, content, id, key, plan_all, whole, with},
};
use crate::{
    CommitLimits, Effect, Epoch, MAX_BATCH, MAX_KEY_BYTES, RequestId, RequestName, SeqBlock,
    SeqKey, Session,
};

const RETENTION_MS: u64 = RETENTION.as_millis() as u64;

/// What can happen to a state.
#[derive(Clone, Debug)]
enum Step {
    /// A batch of requests, committed together.
    Batch(Vec<Ask>),
    /// An administrator deletes a key.
    Delete(usize),
    /// An administrator has a key begin elsewhere.
    Seed(usize, u64),
    /// The leader before this one is heard of late.
    Late(Ask),
    /// A new leader, whose wall clock may show anything.
    TakeOver { now_ms: u64 },
    /// The leader serves for a while, then clears away what has expired.
    Pass { millis: u64 },
}

/// One request: its keys and counts by index, and its name or its id, if it has one.
#[derive(Clone, Debug)]
struct Ask {
    entries: Vec<(usize, u32)>,
    id: Option<(u8, u64, u64, bool, bool)>,
    name: Option<u8>,
}

const KEYS: [&str; 3] = ["a", "b", "c"];

fn asks() -> impl Strategy<Value = Ask> {
    let entries = prop::sample::subsequence(vec![0, 1, 2], 1..=3)
        .prop_flat_map(|keys| {
            let counts = prop::collection::vec(prop_oneof![1..3u32, Just(u32::MAX)], keys.len());
            (Just(keys), counts)
        })
        .prop_map(|(keys, counts)| keys.into_iter().zip(counts).collect());
    // Few sessions and numbers, so that duplicates and conflicts are common.
    let id = (0..3u8, 1..8u64, 0..4u64, prop::bool::weighted(0.3), prop::bool::weighted(0.1))
        .prop_map(|(session, number, behind, retry, close)| {
            (session, number, number.saturating_sub(behind).max(1), retry, close)
        });
    let name = prop::option::weighted(0.2, 0..3u8);
    (entries, prop::option::weighted(0.8, id), name).prop_map(|(entries, id, name)| Ask {
        entries,
        id: id.filter(|_| name.is_none()),
        name,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let now_ms = prop_oneof![Just(0), 0..10_000u64, Just(4_000_000_000_000)];
    let millis = prop_oneof![0..RETENTION_MS / 4, Just(RETENTION_MS * 2)];
    let step = prop_oneof![
        6 => prop::collection::vec(asks(), 1..6).prop_map(Step::Batch),
        1 => (0..3usize).prop_map(Step::Delete),
        1 => (0..3usize, 0..50u64).prop_map(|(index, start)| Step::Seed(index, start)),
        1 => asks().prop_map(Step::Late),
        1 => now_ms.prop_map(|now_ms| Step::TakeOver { now_ms }),
        1 => millis.prop_map(|millis| Step::Pass { millis }),
    ];
    prop::collection::vec(step, 1..40)
}

/// What a client believes, from nothing but the answers.
#[derive(Default)]
struct Model {
    next: BTreeMap<SeqKey, u64>,
    executed: BTreeMap<(Session, u64), Vec<SeqBlock>>,
    named: BTreeMap<RequestName, Vec<SeqBlock>>,
    /// When each of those was carried out.
    named_at_ms: BTreeMap<RequestName, u64>,
    /// How long leaders have served.
    served_ms: u64,
}

impl Model {
    fn check(&mut self, command: &Command, result: Result<Reply, Reject>) {
        let Command::Advance(advance) = command else { unreachable!("only advances are checked") };
        let name = advance.name.map(|named| named.name);
        let before = name.and_then(|name| self.named.get(&name));
        let before =
            before.or(advance.id.and_then(|id| self.executed.get(&(id.session, id.number.get()))));
        let blocks = match result {
            Ok(Reply::Advanced(blocks)) => blocks,
            Ok(other) => panic!("an advance was answered with {other:?}"),
            Err(reject) => return self.check_refusal(command, &reject),
        };
        let asked: Vec<_> = blocks.iter().map(|block| (block.key.clone(), block.count)).collect();
        assert_eq!(asked, advance.entries);
        if before == Some(&blocks) {
            return self.close(advance.id);
        }
        assert!(name.is_none() || before.is_none(), "{name:?} was executed twice");
        if let Some(id) = advance.id {
            assert_eq!(before, None, "request {id:?} was executed twice");
            let is_late = id.retry || id.first_incomplete.get() > 1;
            assert!(!is_late || self.knows(id.session), "{id:?} began a session");
        }
        for block in &blocks {
            let next = self.next.entry(block.key.clone()).or_default();
            assert_eq!(block.start, *next, "a gap or an overlap in {}", block.key);
            *next += u64::from(block.count);
        }
        if let Some(name) = name {
            self.named.insert(name, blocks);
            self.named_at_ms.insert(name, self.served_ms);
        } else if let Some(id) = advance.id.filter(|id| !id.close) {
            self.executed.insert((id.session, id.number.get()), blocks);
        }
        self.close(advance.id);
    }

    fn check_refusal(&self, command: &Command, reject: &Reject) {
        let Command::Advance(advance) = command else { return };
        let known = |id: RequestId| self.executed.contains_key(&(id.session, id.number.get()));
        match reject {
            Reject::NameReused => {
                let before = advance.name.and_then(|named| self.named.get(&named.name));
                let before = before.expect("the name is known");
                let before = before.iter().map(|block| (block.key.clone(), block.count));
                assert!(!before.eq(advance.entries.iter().cloned()), "it is the same request");
            }
            Reject::IdReused { .. } => assert!(advance.id.is_some_and(known)),
            Reject::SessionUnknown => assert!(advance.id.is_some_and(|id| !self.knows(id.session))),
            Reject::Forgotten { number, first_incomplete } => assert!(number < first_incomplete),
            other => panic!("nothing asked for could be refused as {other:?}"),
        }
    }

    fn knows(&self, session: Session) -> bool {
        self.executed.keys().any(|(other, _)| *other == session)
    }

    fn close(&mut self, id: Option<RequestId>) {
        if let Some(id) = id.filter(|id| id.close) {
            self.forget(id.session);
        }
    }

    /// Time passes, and what has expired is cleared away.
    fn pass(&mut self, millis: u64) {
        self.served_ms += millis;
        let (served_ms, at_ms) = (self.served_ms, &self.named_at_ms);
        self.named.retain(|name, _| at_ms[name] + RETENTION_MS >= served_ms);
    }

    fn forget(&mut self, session: Session) {
        self.executed.retain(|(other, _), _| *other != session);
    }
}

fn command(state: &State, ask: &Ask) -> Command {
    let entries: Vec<_> = ask.entries.iter().map(|&(index, count)| (KEYS[index], count)).collect();
    let id = ask.id.map(|(session, number, first, retry, close)| RequestId {
        retry,
        close,
        ..id(session, number, first)
    });
    match ask.name {
        Some(name) => {
            state.named_command(&entries, &name.to_string(), RETENTION_MS, Limits::default())
        }
        None => state.advance_command(&entries, id, Limits::default()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn blocks_are_gapless_and_requests_exactly_once(steps in steps()) {
        let mut state = State::open();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Batch(asks) => {
                    let commands: Vec<_> = asks.iter().map(|ask| command(&state, ask)).collect();
                    let results = state.apply(&commands);
                    for (command, result) in commands.iter().zip(results) {
                        model.check(command, result);
                    }
                }
                Step::Delete(index) => {
                    let key = key(KEYS[index]);
                    let result = state.apply(&[Command::Delete { key: key.clone() }]).remove(0);
                    let expected = match model.next.remove(&key) {
                        Some(next) => Ok(Reply::Deleted(next)),
                        None => Err(Reject::SequenceUnknown { key }),
                    };
                    prop_assert_eq!(result, expected);
                }
                Step::Seed(index, start) => {
                    let key = key(KEYS[index]);
                    let seed = Seed { key: key.clone(), start, limits: Limits::default() };
                    let result = state.apply(&[Command::Seed(seed)]).remove(0);
                    let expected = match model.next.get(&key) {
                        Some(&next) => Err(Reject::SequenceExists { key, next }),
                        None => Ok(Reply::Seeded(start)),
                    };
                    prop_assert_eq!(&result, &expected);
                    if result.is_ok() {
                        model.next.insert(self::key(KEYS[index]), start);
                    }
                }
                Step::Late(ask) => {
                    let before = state.store.clone();
                    let late = command(&state, &ask);
                    let results = state.apply_as(Epoch(state.epoch.0 - 1), &[late]);
                    prop_assert_eq!(results, [Err(Reject::Fenced { current: state.epoch })]);
                    prop_assert!(state.store == before);
                }
                Step::TakeOver { now_ms } => state.take_over(now_ms),
                Step::Pass { millis } => {
                    state.pass(millis);
                    state.expire();
                    model.pass(millis);
                    for name in (0..3).map(|name| RequestName::new(&name.to_string()).unwrap()) {
                        let is_kept = model.named.contains_key(&name);
                        prop_assert_eq!(state.knows_name(name), is_kept, "{:?}", name);
                    }
                    for session in (0..3).map(|n| Session([n; 16])) {
                        if !state.knows(session) {
                            model.forget(session);
                        }
                    }
                }
            }
        }
        for (name, next) in model.next {
            let stored = state.ask(&Query::Sequence(name));
            prop_assert_eq!(stored, Answer::Sequence(Some(next)));
        }
    }

    #[test]
    fn an_overflow_takes_nothing_of_its_request(count in 1..=u32::MAX) {
        let mut state = State::open();
        let near = u64::MAX - u64::from(count) + 1;
        let stored = Record::Next(near).encode();
        state.store = with(state.store, keys::sequence(&key("a")).to_vec(), stored);
        let meta = Record::Meta(Meta { keys: 1, ..Meta::default() });
        state.store = with(state.store, keys::META.into(), meta.encode());
        let refused = state.advance(&[("b", 1), ("a", count)], None);
        prop_assert_eq!(refused, Err(Reject::Overflow { key: key("a"), next: near }));
        prop_assert_eq!(state.count(b's'), 1, "b was not created");
        if count > 1 {
            prop_assert!(state.advance(&[("a", count - 1)], None).is_ok());
        }
    }

    #[test]
    fn a_commit_keeps_within_its_limits_and_takes_at_least_one_command(
        asks in prop::collection::vec(asks(), 1..12),
        writes in 1..20usize,
        bytes in 100..2_000usize,
    ) {
        let limits = CommitLimits { writes, bytes };
        let mut state = State::open();
        let commands: Vec<_> = asks.iter().map(|ask| command(&state, ask)).collect();
        let mut all_at_once = State::open();
        let expected = all_at_once.apply(&commands);
        let (mut rest, mut results) = (&commands[..], vec![]);
        while !rest.is_empty() {
            let known = whole(&state.store);
            let (plan, taken, first) = fill(&known, state.epoch, rest, limits);
            prop_assert!(!taken.is_empty());
            let (_, alone) = plan_all(&state.store, state.epoch, &rest[..first]);
            let alone = commit(&mut state.store.clone(), alone, 0).len();
            results.extend(taken);
            rest = &commands[results.len()..];
            let effect = commit(&mut state.store, plan, 0);
            let fits = effect.len() <= writes && effect.size() <= bytes;
            prop_assert!(fits || effect.len() == alone, "{} {}", effect.len(), effect.size());
        }
        prop_assert_eq!(results, expected);
        prop_assert_eq!(content(&state.store), content(&all_at_once.store));
    }
}

/// What a driver takes at least: its contract says so, and the conformance suite checks it.
#[test]
fn the_largest_request_keeps_within_the_least_that_a_driver_takes() {
    let writes = 2 * MAX_BATCH;
    let bytes = writes * Effect::size_of(&[0; MAX_KEY_BYTES + 1], Some(&[0; 32]));
    let mut state = State::open();
    // Another request of the session is done with, and its page is cleared away.
    let names: Vec<_> = (0..MAX_BATCH).map(|name| format!("{name:0>MAX_KEY_BYTES$}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), u32::MAX)).collect();
    for (number, first) in [(1, 1), (40, 40)] {
        let command =
            state.advance_command(&entries, Some(id(1, number, first)), Limits::default());
        let known = whole(&state.store);
        let mut plan = Plan::default();
        let result = plan.add(&known, state.epoch, &command, CommitLimits { writes, bytes });
        assert!(matches!(result, Ok(Some(Ok(Reply::Advanced(_))))), "{result:?}");
        let effect = commit(&mut state.store, plan, 0);
        assert!(
            effect.len() <= writes && effect.size() <= bytes,
            "{} {}",
            effect.len(),
            effect.size()
        );
    }
}

/// As many commands as fit: their results, and how many there are up to the first that writes.
fn fill(
    known: &WorkingSet,
    epoch: Epoch,
    commands: &[Command],
    limits: CommitLimits,
) -> (Plan, Vec<Result<Reply, Reject>>, usize) {
    let (mut plan, mut results, mut first) = (Plan::default(), vec![], 0);
    for command in commands {
        let plan_was_empty = plan.is_empty();
        let Some(result) = plan.add(known, epoch, command, limits).unwrap() else { break };
        first += usize::from(plan_was_empty);
        results.push(result);
    }
    (plan, results, first)
}
