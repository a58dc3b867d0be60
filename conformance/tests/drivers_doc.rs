//! docs/DRIVERS.md shows the example driver as it is.

use std::{fs, path::Path};

const DOC: &str = include_str!("../../docs/DRIVERS.md");

/// The file that is shown, and its text: a block is announced by its name and a colon.
fn shown() -> Vec<(String, String)> {
    let mut parts = DOC.split("```");
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

#[test]
fn the_doc_shows_every_file_of_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sqlite");
    let shown = shown();
    let names: Vec<_> = shown.iter().map(|(name, _)| name.as_str()).collect();
    let all = ["Cargo.toml", "src/store.rs", "src/lib.rs", "tests/conformance.rs", "src/main.rs"];
    assert_eq!(names, all);
    for (name, text) in &shown {
        let file = fs::read_to_string(example.join(name)).expect(name);
        // A reader's crate lies beside the clone.
        assert_eq!(*text, file.replace("../../../", "../tsoracle/"), "{name}");
    }
}
