//! One process per directory, and errors that name the directory.

use std::{fs, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tsoracle_core::{Clock, ErrorKind, SeqKey, SeqRequest, SystemClock};

use crate::{
    actor::{self, Actor, block_on, oracle, say},
    for_each_driver,
};

for_each_driver! {
    a_second_process_is_refused_until_the_first_is_gone
    of_many_processes_that_start_at_once_one_serves
    a_first_start_that_is_killed_is_begun_again
    a_second_driver_in_one_process_is_refused_until_the_first_is_shut_down
    a_missing_directory_is_made_with_those_above_it
    a_directory_that_cannot_be_used_is_named_in_one_line
}

/// Runs in a role: `hold CONFIG`, `race CONFIG` or `intrude CONFIG`.
pub(crate) async fn run(role: &[String]) {
    match (role[0].as_str(), oracle(&role[1]).await) {
        ("hold", Ok(oracle)) => {
            let request = SeqRequest::single(SeqKey::new("orders").unwrap(), 5).unwrap();
            let blocks = oracle.get_seq(request).await.unwrap().blocks;
            say(&format!("up with {:?}", blocks[0].range()));
            std::future::pending().await
        }
        ("race", Ok(oracle)) => {
            oracle.get_ts(1).await.unwrap();
            say("up");
            std::future::pending().await
        }
        ("intrude" | "race", Err(error)) => say(&format!("{:?}: {error:#}", error.kind())),
        (_, outcome) => panic!("{outcome:?}"),
    }
}

fn a_second_process_is_refused_until_the_first_is_gone(driver: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let config = &format!("{driver}:{path}");
    for round in 0..3 {
        let holder = Actor::start(&["hold", config], "");
        let start = round * 5;
        assert_eq!(holder.lines.recv().unwrap(), format!("up with {start}..{}", start + 5));
        for _ in 0..3 {
            let said = Actor::start(&["intrude", config], "").finish();
            let refused = format!("Config: directory {path} is in use by another process");
            assert!(said.len() == 1 && said[0].starts_with(&refused), "{said:?}");
        }
        // Deleting what another process has locked must not let a second one in.
        if round == 1 {
            fs::rename(directory.path().join("LOCK"), directory.path().join("gone")).unwrap();
            let said = Actor::start(&["intrude", config], "").finish();
            assert!(said.len() == 1 && said[0].starts_with("Config: "), "{said:?}");
            fs::rename(directory.path().join("gone"), directory.path().join("LOCK")).unwrap();
        }
        holder.kill();
    }
}

fn of_many_processes_that_start_at_once_one_serves(driver: &str) {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        let path = path.to_str().unwrap();
        let config = &format!("{driver}:{path}");
        let actors: Vec<_> = (0..8).map(|_| Actor::start(&["race", config], "")).collect();
        let said: Vec<_> = actors.iter().map(|actor| actor.lines.recv().unwrap()).collect();
        let refused = format!("Config: directory {path} is in use by another process");
        assert_eq!(said.iter().filter(|line| *line == "up").count(), 1, "{said:?}");
        assert_eq!(said.iter().filter(|line| line.starts_with(&refused)).count(), 7, "{said:?}");
        actors.into_iter().for_each(|actor| drop(actor.kill()));
    }
}

fn a_first_start_that_is_killed_is_begun_again(driver: &str) {
    let clock = SystemClock;
    let began = clock.now().boot;
    let elsewhere = tempfile::tempdir().unwrap();
    let config = &format!("{driver}:{}", elsewhere.path().display());
    let whole = Actor::start(&["hold", config], "");
    whole.lines.recv().unwrap();
    let longest = clock.now().boot.since(began) * 3 / 2;
    whole.kill();

    let mut random = StdRng::seed_from_u64(1);
    let mut said_up = 0;
    for _ in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        let config = &format!("{driver}:{}", path.display());
        let killed = Actor::start(&["hold", config], "");
        let moment = random.random_range(Duration::ZERO..longest);
        let mut said = Vec::from_iter(killed.lines.recv_timeout(moment));
        said.extend(killed.kill());
        said_up += said.len();
        let next = Actor::start(&["hold", config], "");
        let line = next.lines.recv().unwrap();
        // What was not acknowledged may have been committed all the same.
        assert!(line == "up with 5..10" || said.is_empty() && line == "up with 0..5", "{line}");
        next.kill();
    }
    assert!((1..40).contains(&said_up), "{said_up} of 40 came so far as to serve");
}

fn a_second_driver_in_one_process_is_refused_until_the_first_is_shut_down(driver: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let config = format!("{driver}:{path}");
    block_on(async {
        let first = actor::driver(&config).await.unwrap();
        let error = actor::driver(&config).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config);
        assert!(format!("{error:#}").contains(path), "{error:#}");
        first.shutdown().await.unwrap();
        actor::driver(&config).await.unwrap().shutdown().await.unwrap();
    });
}

fn a_missing_directory_is_made_with_those_above_it(driver: &str) {
    let directory = tempfile::tempdir().unwrap();
    let above = directory.path().display();
    block_on(async {
        let driver = actor::driver(&format!("{driver}:{above}/a/b/c%20d")).await.unwrap();
        driver.shutdown().await.unwrap();
    });
    let made = fs::read_dir(directory.path().join("a/b/c d")).unwrap();
    let names: Vec<_> = made.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.len() == 2 && names.contains(&"LOCK".into()), "{names:?}");
}

fn a_directory_that_cannot_be_used_is_named_in_one_line(driver: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    // The last two are out of bounds even for root.
    for path in [file.join("below"), file, "/proc/tsoracle".into(), "/proc".into()] {
        let path = path.to_str().unwrap();
        let error = block_on(actor::driver(&format!("{driver}:{path}"))).unwrap_err();
        let text = format!("{error:#}");
        assert_eq!(*error.kind(), ErrorKind::Config, "{text}");
        assert!(text.starts_with(&format!("cannot use directory {path}: ")), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}
