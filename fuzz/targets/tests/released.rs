//! What this release encodes is what it has once encoded.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{fs, path::Path};

use tsoracle_fuzz_targets::{RELEASED, seeds};

#[tokio::test]
async fn nothing_is_encoded_otherwise_than_in_the_fixtures_of_this_release() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut changed = vec![];
    for (target, seeds) in seeds().await.unwrap() {
        let corpus = corpora.join(target);
        let files = fs::read_dir(&corpus).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let released = names.filter(|name| name.starts_with(RELEASED)).count();
        let is_same = |(number, seed): (usize, &Vec<u8>)| {
            let file = corpus.join(format!("{RELEASED}{number:02}"));
            fs::read(file).is_ok_and(|fixture| fixture == *seed)
        };
        if released != seeds.len() || !seeds.iter().enumerate().all(is_same) {
            changed.push(target);
        }
    }
    assert!(
        changed.is_empty(),
        "{changed:?}: what is encoded has changed. What a release has written must be readable by the next one, and what it does \
         not know must have a format number of its own; CONTRIBUTING.md says how"
    );
}
