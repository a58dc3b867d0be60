#![doc = include_str!("../README.md")]

#[cfg(feature = "file")]
use tsoracle_file as _;
#[cfg(feature = "omnipaxos")]
use tsoracle_omnipaxos as _;
#[cfg(feature = "openraft")]
use tsoracle_openraft as _;
#[cfg(feature = "rocksdb")]
use tsoracle_rocksdb as _;

/// Does nothing but name this crate, which a program must do for its drivers to be linked in.
///
/// `use tsoracle_drivers as _;` does the same.
pub fn link() {}

#[cfg(test)]
mod tests {
    use tsoracle_core::Registry;

    #[test]
    fn exactly_the_drivers_of_this_build_are_linked() {
        super::link();
        let mut expected = vec!["memory"];
        if cfg!(feature = "file") {
            expected.push("file");
        }
        if cfg!(feature = "omnipaxos") {
            expected.push("omnipaxos");
        }
        if cfg!(feature = "openraft") {
            expected.push("openraft");
        }
        if cfg!(feature = "rocksdb") {
            expected.push("rocksdb");
        }
        expected.sort_unstable();
        let registry = Registry::linked().unwrap();
        assert_eq!(registry.drivers().map(|driver| driver.name).collect::<Vec<_>>(), expected);
    }
}
