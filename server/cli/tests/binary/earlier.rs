//! States that releases have left (conformance/fixtures): each is opened, and goes on where it was.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::node::finished;

/// The directory of the fixtures, and those of one driver: releases, and whether of one node or of three.
fn fixtures(driver: &str) -> (PathBuf, Vec<PathBuf>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/fixtures");
    let mut found = vec![];
    for entry in fs::read_dir(&fixtures).unwrap() {
        let release = entry.unwrap().path();
        if !release.is_dir() {
            continue;
        }
        for entry in fs::read_dir(release).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let Some(name) = name.strip_suffix(".tar.gz") else { continue };
            if name.strip_suffix("-3").unwrap_or(name) == driver {
                found.push(path.with_file_name(name));
            }
        }
    }
    (fixtures, found)
}

/// Opens all of a driver, which are so many at least.
fn go_on_where_they_were(driver: &str, least: usize) {
    let (fixtures, found) = fixtures(driver);
    assert!(found.len() >= least, "{found:?}");
    for fixture in found {
        let mut opening = Command::new(fixtures.join("open"));
        let opened = finished(opening.arg(env!("CARGO_BIN_EXE_tsoracle")).arg(&fixture));
        assert!(opened.status.success(), "{}: {opened:?}", fixture.display());
    }
}

#[test]
fn states_of_file_go_on_where_they_were() {
    go_on_where_they_were("file", 1);
}

#[test]
fn what_was_backed_up_goes_on_where_it_was() {
    go_on_where_they_were("backup", 1);
}

#[cfg(feature = "rocksdb")]
#[test]
fn states_of_rocksdb_go_on_where_they_were() {
    go_on_where_they_were("rocksdb", 1);
}

#[cfg(feature = "openraft")]
#[test]
fn states_of_openraft_go_on_where_they_were() {
    go_on_where_they_were("openraft", 2);
}

#[cfg(feature = "etcd")]
#[test]
fn states_in_etcd_go_on_where_they_were() {
    go_on_where_they_were("etcd", 1);
}

#[cfg(feature = "omnipaxos")]
#[test]
fn states_of_omnipaxos_go_on_where_they_were() {
    go_on_where_they_were("omnipaxos", 1);
}
