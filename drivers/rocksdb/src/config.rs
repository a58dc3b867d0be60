use std::path::PathBuf;

use serde::Deserialize;
use tsoracle_core::DriverOption;

/// The options of the RocksDB driver.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory that holds the state.
    pub path: PathBuf,
    /// How many MiB of the tables are kept in memory, at most.
    pub cache_mb: u16,
    /// After how many MiB of writes a table is made of them. Twice as much may be in memory.
    pub write_buffer_mb: u16,
    /// How many files of the database are open at a time.
    pub open_files: u16,
}

pub(crate) const OPTIONS: &[DriverOption] = &[
    DriverOption {
        name: "path",
        default: "./tsoracle-rocksdb",
        help: "the directory that holds the state; made if it is missing",
    },
    DriverOption {
        name: "cache_mb",
        default: "8",
        help: "how many MiB of the tables are kept in memory, at most",
    },
    DriverOption {
        name: "write_buffer_mb",
        default: "4",
        help: "after how many MiB of writes a table is made of them; twice as much may be in memory",
    },
    DriverOption {
        name: "open_files",
        default: "64",
        help: "how many files of the database are open at a time",
    },
];

impl Default for Config {
    fn default() -> Self {
        Self { path: "./tsoracle-rocksdb".into(), cache_mb: 8, write_buffer_mb: 4, open_files: 64 }
    }
}

#[cfg(test)]
mod tests {
    use tsoracle_core::DriverConfig;

    use super::*;

    #[test]
    fn a_string_and_a_table_make_the_same_options() {
        let parse = |text| DriverConfig::parse(text).unwrap().options::<Config>();
        assert_eq!(parse("rocksdb").unwrap(), Config::default());
        let path = PathBuf::from("/var/lib/tso");
        let given = Config { path, cache_mb: 64, write_buffer_mb: 16, open_files: 100 };
        let text = "rocksdb:/var/lib/tso?cache_mb=64&write_buffer_mb=16&open_files=100";
        assert_eq!(parse(text).unwrap(), given);
        let table = "driver = 'rocksdb'\npath = '/var/lib/tso'\ncache_mb = 64\n\
                     write_buffer_mb = 16\nopen_files = 100";
        let table = DriverConfig::from_table(table.parse().unwrap()).unwrap();
        assert_eq!(table.options::<Config>().unwrap(), given);
    }

    #[test]
    fn the_help_names_every_option_with_its_default() {
        let error = DriverConfig::parse("rocksdb?size=1").unwrap().options::<Config>().unwrap_err();
        let valid = OPTIONS.iter().map(|option| format!("`{}`", option.name)).collect::<Vec<_>>();
        let valid = valid.join(", ");
        assert!(error.to_string().ends_with(&format!("expected one of {valid}")), "{error}");
        let defaults = OPTIONS.iter().map(|option| format!("{}={}", option.name, option.default));
        let text = format!("rocksdb?{}", defaults.collect::<Vec<_>>().join("&"));
        let spelled: Config = DriverConfig::parse(&text).unwrap().options().unwrap();
        assert_eq!(spelled, Config::default());
    }
}
