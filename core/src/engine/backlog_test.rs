use std::{net::Ipv4Addr, sync::Arc};

use tokio::sync::oneshot;

use super::*;
use crate::{
    Caller,
    caller::{Callers, Room},
    engine::Outcomes,
    state::{Command, Seed},
};

/// A queue under test, and the receivers of the answers to its requests.
struct Arriving {
    backlog: Backlog,
    room: Arc<Room>,
    callers: Arc<Callers>,
    waiting: Vec<oneshot::Receiver<Outcomes>>,
}

impl Arriving {
    fn new() -> Self {
        let (room, callers) = (Arc::new(Room::queued(100_000)), Arc::new(Callers::default()));
        Self { backlog: Backlog::default(), room, callers, waiting: vec![] }
    }

    fn caller(&self, number: u8) -> Caller {
        self.callers.get(CallerId::of_address(Ipv4Addr::new(10, 0, 0, number).into()))
    }

    /// Queues a request of the given number of commands, numbered in order.
    fn send(&mut self, caller: u8, commands: std::ops::Range<u64>) {
        let limits = crate::state::Limits::default();
        let key = crate::SeqKey::new("k").unwrap();
        let command = |start| Command::Seed(Seed { key: key.clone(), start, limits });
        let caller = self.caller(caller);
        let commands: Vec<_> = commands.map(command).collect();
        let places = self.room.enter(Some(&caller), commands.len()).unwrap();
        let (call, answer) = Pending::new(commands, places);
        self.waiting.push(answer);
        self.backlog.push(call);
    }

    /// The numbers of a caller's commands among those dealt, in their order.
    fn of(&self, caller: u8, dealt: &VecDeque<Pending>) -> Vec<u64> {
        let id = Some(self.caller(caller).id());
        let calls = dealt.iter().filter(|call| call.caller() == id);
        let commands = calls.flat_map(Pending::commands);
        let number = |command: &Command| match command {
            Command::Seed(seed) => seed.start,
            other => panic!("{other:?}"),
        };
        commands.map(number).collect()
    }
}

fn commands(dealt: &VecDeque<Pending>) -> usize {
    dealt.iter().map(Pending::len).sum()
}

#[test]
fn alone_a_caller_fills_commits() {
    let mut all = Arriving::new();
    all.send(1, 0..5_000);
    all.send(1, 5_000..5_003);
    let first = all.backlog.deal();
    assert_eq!(all.of(1, &first), (0..4_096).collect::<Vec<_>>());
    let second = all.backlog.deal();
    assert_eq!(all.of(1, &second), (4_096..5_003).collect::<Vec<_>>());
    assert!(all.backlog.is_empty());
}

#[test]
fn a_light_caller_waits_for_no_heavy_one() {
    let mut all = Arriving::new();
    all.send(1, 0..60_000);
    all.send(2, 0..3);
    let dealt = all.backlog.deal();
    assert_eq!(all.of(2, &dealt), [0, 1, 2]);
    assert_eq!(all.of(1, &dealt).len(), LEAST_HEAVY);
    // The next one of the light caller finds a short commit under way, too.
    let dealt = all.backlog.deal();
    assert_eq!(commands(&dealt), LEAST_HEAVY);
    for _ in 0..LATELY {
        all.backlog.deal();
    }
    assert_eq!(commands(&all.backlog.deal()), 4_096);
}

#[test]
fn heavy_callers_share_commits_evenly_and_keep_their_order() {
    let mut all = Arriving::new();
    for caller in 1..=3 {
        all.send(caller, 0..3_000);
    }
    let (mut seen, mut commits) = ([const { vec![] }; 3], 0);
    while !all.backlog.is_empty() {
        let mut dealt = all.backlog.deal();
        // Not all fits each time.
        let mut rest = dealt.split_off(dealt.len() / 2);
        if dealt.is_empty() {
            dealt.extend(rest.pop_front());
        }
        let taken = [1, 2, 3].map(|caller| all.of(caller, &dealt));
        if seen.iter().all(|seen| seen.len() < 2_000) {
            let lengths = taken.iter().map(Vec::len);
            let (least, most) = (lengths.clone().min().unwrap(), lengths.max().unwrap());
            assert!(most - least <= QUANTUM, "{least} to {most}");
        }
        for (seen, taken) in seen.iter_mut().zip(taken) {
            seen.extend(taken);
        }
        all.backlog.put_back(rest);
        commits += 1;
        assert!(commits < 1_000);
    }
    for seen in seen {
        assert_eq!(seen, (0..3_000).collect::<Vec<_>>());
    }
}

#[test]
fn many_light_callers_are_not_held_back() {
    let mut all = Arriving::new();
    all.send(250, 0..10_000);
    for caller in 1..=200 {
        all.send(caller, 0..5);
    }
    let dealt = all.backlog.deal();
    assert!((1..=200).all(|caller| all.of(caller, &dealt).len() == 5));
    assert_eq!(all.of(250, &dealt).len(), 3_096);
}

#[test]
fn what_was_given_up_is_dropped_and_gives_its_places_back() {
    let mut all = Arriving::new();
    for number in 0..100 {
        all.send(1, number..number + 1);
    }
    all.waiting.drain(..99);
    let dealt = all.backlog.deal();
    assert_eq!(all.of(1, &dealt), [99]);
    assert_eq!(all.room.used(), 1);
    // Those that are not looked at for long are looked through now and then.
    all.send(1, 0..30_000);
    all.send(2, 0..30_000);
    all.waiting.truncate(2);
    for _ in 0..LOOK_THROUGH {
        let dealt = all.backlog.deal();
        all.backlog.put_back(dealt);
    }
    drop(dealt);
    assert_eq!(all.room.used(), 30_000);
}

#[test]
fn what_one_caller_alone_waits_for_is_dealt_ahead() {
    let mut arriving = Arriving::new();
    arriving.send(1, 0..10);
    arriving.send(1, 10..20);
    let dealt = arriving.backlog.deal_ahead(None, 15);
    assert_eq!(arriving.of(1, &dealt), (0..15).collect::<Vec<_>>());
    let before = dealt.front().map(Pending::caller);
    assert_eq!(commands(&arriving.backlog.deal_ahead(before, 0)), 0, "there is no more room");
    let rest = arriving.backlog.deal_ahead(before, 100);
    assert_eq!(arriving.of(1, &rest), (15..20).collect::<Vec<_>>());
    assert!(arriving.backlog.is_empty());
}

#[test]
fn nothing_is_dealt_ahead_where_it_may_be_the_turn_of_another_caller() {
    let mut arriving = Arriving::new();
    arriving.send(1, 0..10);
    arriving.send(2, 0..10);
    assert_eq!(commands(&arriving.backlog.deal_ahead(None, 100)), 0, "both are there");
    assert_eq!(commands(&arriving.backlog.deal()), 20);
    arriving.send(1, 0..10);
    let before = arriving.backlog.deal_ahead(None, 100).front().map(Pending::caller);
    arriving.send(2, 0..10);
    assert_eq!(
        commands(&arriving.backlog.deal_ahead(before, 100)),
        0,
        "the other one goes with the rest"
    );
    arriving.send(1, 10..20);
    assert_eq!(commands(&arriving.backlog.deal_ahead(before, 100)), 0, "both are there");
    assert_eq!(commands(&arriving.backlog.deal()), 20);
    // One that asks for much, and one that asks for little.
    arriving.send(1, 20..1_000);
    arriving.send(2, 10..20);
    assert!(commands(&arriving.backlog.deal()) < 990);
    arriving.backlog.deal();
    arriving.send(1, 1_000..1_010);
    while arriving.backlog.queues.len() > 1 {
        arriving.backlog.deal();
    }
    assert_eq!(
        commands(&arriving.backlog.deal_ahead(None, 100)),
        0,
        "the other one comes again soon"
    );
}
