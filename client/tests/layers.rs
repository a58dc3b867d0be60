//! The modules of the client use each other in one direction: in the order of `src/lib.rs`, and without circles
//! among the files of one module.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules that each module's file names, all by their paths from the root of the crate.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The code of every module by its path, without tests.
fn modules(folder: &Path, path: &str, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap().path();
        let name = entry.file_stem().unwrap().to_str().unwrap();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") };
        if entry.is_dir() {
            modules(&entry, &path, into);
        } else if name != "lib" && !name.ends_with("_test") {
            let code = fs::read_to_string(&entry).unwrap();
            into.insert(path, code.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned());
        }
    }
}

/// The paths that a line of code names, from the root of the crate.
fn paths<'a>(module: &str, line: &'a str) -> impl Iterator<Item = String> + use<'a> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned();
    let named = [("crate::", String::new()), ("super::", parent)];
    named.into_iter().flat_map(move |(start, base)| {
        line.split(start).skip(1).map(move |rest| {
            let rest = rest.split(|c: char| c != ':' && c != '_' && !c.is_alphanumeric()).next();
            format!("{base}::{}", rest.unwrap_or_default()).trim_matches(':').to_owned()
        })
    })
}

fn uses() -> Uses {
    let mut code = BTreeMap::new();
    modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut code);
    let module_of = |path: String| {
        let mut path = path.as_str();
        while !code.contains_key(path) {
            path = path.rsplit_once("::").map(|(parent, _)| parent)?;
        }
        Some(path.to_owned())
    };
    let lines = |code: &str| {
        let lines = code.lines().map(|line| line.trim_start().to_owned());
        lines.filter(|line| !line.starts_with("//")).collect::<Vec<_>>()
    };
    let used = code.iter().map(|(module, code)| {
        let lines = lines(code);
        let named = lines.iter().flat_map(|line| paths(module, line)).filter_map(module_of);
        (module.clone(), named.filter(|named| named != module).collect())
    });
    used.collect()
}

#[test]
fn no_module_uses_one_above_it() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let layer_of = |module: &str| {
        let top = format!("mod {};", module.split("::").next().unwrap());
        lib.split("\n\n")
            .position(|layer| layer.lines().any(|line| line.trim_start_matches("pub ") == top))
            .unwrap()
    };
    let top = |module: &str| module.split("::").next().unwrap().to_owned();
    for (module, used) in uses() {
        for used in used.iter().filter(|used| top(used) != top(&module)) {
            assert!(layer_of(&module) < layer_of(used), "{module} uses {used}");
        }
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut left = uses();
    assert!(left.len() > 30, "the sources were not found: {left:?}");
    while let Some(lowest) = left.iter().find(|(_, used)| used.is_empty()) {
        let lowest = lowest.0.clone();
        left.remove(&lowest);
        for used in left.values_mut() {
            used.remove(&lowest);
        }
    }
    assert!(left.is_empty(), "in a circle, or above one: {left:#?}");
}
