//! docs/DRIVERS.md shows the example drivers as they are.

use std::{fs, path::Path};

const DOC: &str = include_str!("../../docs/DRIVERS.md");

/// Where the second example begins.
const SECOND: &str = "\n# A driver of several nodes\n";

/// The files that are shown, and their texts: a block is announced by its name and a colon.
fn shown(doc: &str) -> Vec<(String, String)> {
    let mut parts = doc.split("```");
    let mut shown = Vec::new();
    while let (Some(prose), Some(block)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').expect("a block begins with its language");
        if language != "sh" {
            let name = prose.trim_end().strip_suffix("`:").and_then(|prose| prose.rsplit_once('`'));
            let (_, name) = name.unwrap_or_else(|| panic!("a file's name announces:\n{text}"));
            shown.push((name.to_owned(), text.to_owned()));
        }
    }
    shown
}

fn shows(doc: &str, example: &str, all: &[&str]) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
    let shown = shown(doc);
    let names: Vec<_> = shown.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, all);
    for (name, text) in &shown {
        let file = fs::read_to_string(example.join(name)).expect(name);
        // A reader's crate lies beside the clone.
        assert_eq!(*text, file.replace("../../../", "../tsoracle/"), "{name}");
    }
}

#[test]
fn the_doc_shows_every_file_of_the_store() {
    let (doc, _) = DOC.split_once(SECOND).expect("there are two examples");
    let all = ["Cargo.toml", "src/store.rs", "src/lib.rs", "tests/conformance.rs", "src/main.rs"];
    shows(doc, "sqlite", &all);
}

#[test]
fn the_doc_shows_every_file_of_the_driver_and_how_it_is_tested() {
    let (_, doc) = DOC.split_once(SECOND).expect("there are two examples");
    let all = [
        "Cargo.toml",
        "src/config.rs",
        "src/store.rs",
        "src/lib.rs",
        "src/main.rs",
        "tests/conformance.rs",
        "tests/cluster.rs",
    ];
    shows(doc, "postgres", &all);
}
