#![doc = include_str!("../README.md")]

mod keeper;
mod log;
mod machine;
mod types;
mod waiting;

#[cfg(test)]
mod storage_test;
