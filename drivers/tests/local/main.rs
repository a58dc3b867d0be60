//! What every driver has to stand that keeps its state in a directory of its own: kills, second
//! processes, full and failing disks. The drivers are those of this build.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
#![cfg(target_os = "linux")]

mod actor;
mod directory;
mod earlier;
mod failing_disk;
mod kill;
mod worker;

/// Makes tests of functions that take the name of a driver: one for each driver of this build.
macro_rules! for_each_driver {
    ($($test:ident)*) => {
        #[cfg(feature = "file")]
        mod file {
            $(#[test] fn $test() { super::$test("file"); })*
        }

        #[cfg(feature = "rocksdb")]
        mod rocksdb {
            $(#[test] fn $test() { super::$test("rocksdb"); })*
        }
    };
}
use for_each_driver;

/// What this process does if it was started as an [`Actor`](actor::Actor).
#[test]
fn child() {
    let Some(role) = actor::role() else { return };
    actor::block_on(async {
        match role[0].as_str() {
            "serve" | "finish" => worker::run(&role).await,
            "hold" | "race" | "intrude" => directory::run(&role).await,
            "fill" | "fail" => failing_disk::run(&role).await,
            other => panic!("there is no role {other}"),
        }
    });
}
