//! What the child does: many callers at once, each saying what it asks before it asks, and what it
//! got as soon as it has it.

use std::{future::Future, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tsoracle_core::{Error, ErrorKind, Oracle, RequestId, SeqBlock, SeqKey, SeqRequest, Session};

use crate::actor::{oracle, say};

pub(crate) const ID_KEYS: &[&str] = &["id-a", "id-b", "id-c"];
pub(crate) const PLAIN_KEYS: &[&str] = &["plain-a", "plain-b"];

/// How far back a session can ask again.
pub(crate) const OPEN: u64 = 4;

/// Runs in a role: `serve CONFIG NAME CROWD` or `finish CONFIG KEYS`.
pub(crate) async fn run(role: &[String]) {
    let oracle = oracle(&role[1]).await.unwrap();
    say("up");
    let repeated = std::io::read_to_string(std::io::stdin()).unwrap();
    let repeats: Vec<_> =
        repeated.lines().map(|line| tokio::spawn(ask(oracle.clone(), line.to_owned()))).collect();
    if role[0] == "serve" {
        let crowd: Vec<u64> = role[3].split(' ').map(|count| count.parse().unwrap()).collect();
        serve(&oracle, &role[2], &crowd);
        return std::future::pending().await;
    }
    for repeat in repeats {
        repeat.await.unwrap();
    }
    for key in role[2].split(' ') {
        let next = patiently(|| oracle.read_seq(SeqKey::new(key).unwrap())).await;
        say(&format!("next {key} {}", next.unwrap_or(0)));
    }
    let range = patiently(|| oracle.get_ts(1)).await.range;
    say(&format!("time {} {}", range.first(), range.last()));
    oracle.shutdown().await.unwrap();
}

fn serve(oracle: &Oracle, name: &str, crowd: &[u64]) {
    for caller in 0..crowd[0] {
        tokio::spawn(with_ids(oracle.clone(), format!("{name}-{caller}"), caller));
    }
    for caller in 0..crowd[1] {
        tokio::spawn(without_ids(oracle.clone(), caller));
    }
    for caller in 0..crowd[2] {
        tokio::spawn(impatiently(oracle.clone(), format!("{name}-hasty-{caller}"), caller));
    }
    for caller in 0..2 {
        tokio::spawn(timestamps(oracle.clone(), caller));
    }
}

async fn with_ids(oracle: Oracle, session: String, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for number in 1.. {
        let request = request(&session, number, &mut random);
        say(&format!("asks {request}"));
        ask(oracle.clone(), request).await;
    }
}

/// Gives each request a session of its own, so that any of them can be asked again.
async fn impatiently(oracle: Oracle, name: String, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for turn in 0.. {
        let request = request(&format!("{name}-{turn}"), 1, &mut random);
        say(&format!("asks {request}"));
        let deadline = Duration::from_micros(random.random_range(100..3_000));
        let asking = ask(oracle.clone(), request);
        // What the caller no longer waits for is dropped, wherever it is by then.
        let _ = tokio::time::timeout(deadline, asking).await;
    }
}

/// A request as one line: its id, then what it asks for.
fn request(session: &str, number: u64, random: &mut StdRng) -> String {
    let first = random.random_range(0..ID_KEYS.len());
    let keys = (0..random.random_range(1..=2)).map(|offset| {
        let key = ID_KEYS[(first + offset) % ID_KEYS.len()];
        format!(" {key}/{}", random.random_range(1..50))
    });
    let keys = keys.collect::<String>();
    format!("{session}:{number}{keys}")
}

/// The session and the number of a request's id.
pub(crate) fn id(text: &str) -> (&str, u64) {
    let (session, number) = text.split_once(':').unwrap();
    (session, number.parse().unwrap())
}

async fn ask(oracle: Oracle, request: String) {
    let mut words = request.split(' ');
    let spelled = words.next().unwrap();
    let (session, number) = id(spelled);
    let entries = words.map(|word| {
        let (key, count) = word.split_once('/').unwrap();
        (SeqKey::new(key).unwrap(), count.parse().unwrap())
    });
    let entries: Vec<_> = entries.collect();
    let first_incomplete = number.saturating_sub(OPEN).max(1);
    let request_id = RequestId::new(Session::from_text(session), number, first_incomplete).unwrap();
    let grant =
        patiently(|| oracle.get_seq(SeqRequest::new(entries.clone(), Some(request_id)).unwrap()));
    say(&format!("got {spelled} {}", spell(&grant.await.blocks)));
}

async fn without_ids(oracle: Oracle, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let key = PLAIN_KEYS[random.random_range(0..PLAIN_KEYS.len())];
        let count = random.random_range(1..50);
        say(&format!("plain-asks {key} {count}"));
        let request = SeqRequest::single(SeqKey::new(key).unwrap(), count).unwrap();
        match oracle.get_seq(request).await {
            Ok(grant) => say(&format!("plain-got {}", spell(&grant.blocks))),
            Err(error) => tolerate(&error),
        }
    }
}

async fn timestamps(oracle: Oracle, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let range = patiently(|| oracle.get_ts(random.random_range(1..100))).await.range;
        say(&format!("time {} {}", range.first(), range.last()));
        // A commit may end before the next line, so that these do not crowd out the others.
        patiently(|| oracle.read_seq(SeqKey::new(ID_KEYS[0]).unwrap())).await;
    }
}

/// Asks until it succeeds, for requests that may be asked twice.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(mut attempt: impl FnMut() -> F) -> T {
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => tolerate(&error),
        }
    }
}

/// A slow disk may make the lease run out; anything else is a failure, which the parent notices.
fn tolerate(error: &Error) {
    match error.kind() {
        ErrorKind::NotLeader(None) | ErrorKind::Unavailable => {}
        _ => say(&format!("failed {error:#}")),
    }
}

fn spell(blocks: &[SeqBlock]) -> String {
    let spelled =
        blocks.iter().map(|block| format!("{}/{}/{}", block.key, block.start, block.count));
    spelled.collect::<Vec<_>>().join(" ")
}
