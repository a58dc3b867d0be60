use std::path::PathBuf;

use serde::Deserialize;
use tsoracle_core::DriverOption;
use tsoracle_store::Options;

/// The options of the file driver.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory that holds the state.
    pub path: PathBuf,
    /// How many MiB of the journal there are at least, before the state is written.
    pub journal_mb: u16,
}

pub(crate) const OPTIONS: &[DriverOption] = &[
    DriverOption {
        name: "path",
        default: "./tsoracle-data",
        help: "the directory that holds the state; made if it is missing",
    },
    DriverOption {
        name: "journal_mb",
        default: "16",
        help: "how many MiB of journal there are at least, before the state is written",
    },
];

impl Default for Config {
    fn default() -> Self {
        Self { path: "./tsoracle-data".into(), journal_mb: 16 }
    }
}

impl Config {
    pub(crate) fn options(&self) -> Options {
        Options { journal_bytes: u64::from(self.journal_mb) << 20 }
    }
}

#[cfg(test)]
mod tests {
    use tsoracle_core::DriverConfig;

    use super::*;

    #[test]
    fn a_string_and_a_table_make_the_same_options() {
        let parse = |text| DriverConfig::parse(text).unwrap().options::<Config>();
        assert_eq!(parse("file").unwrap(), Config::default());
        let given = Config { path: "/var/lib/tso".into(), journal_mb: 64 };
        assert_eq!(parse("file:/var/lib/tso?journal_mb=64").unwrap(), given);
        let table = "driver = 'file'\npath = '/var/lib/tso'\njournal_mb = 64".parse().unwrap();
        assert_eq!(DriverConfig::from_table(table).unwrap().options::<Config>().unwrap(), given);
    }

    #[test]
    fn the_help_names_every_option_with_its_default() {
        let error = DriverConfig::parse("file?size=1").unwrap().options::<Config>().unwrap_err();
        let valid = OPTIONS.iter().map(|option| format!("`{}`", option.name)).collect::<Vec<_>>();
        let valid = valid.join(" or ");
        assert!(error.to_string().ends_with(&format!("expected {valid}")), "{error}");
        let defaults = OPTIONS.iter().map(|option| format!("{}={}", option.name, option.default));
        let text = format!("file?{}", defaults.collect::<Vec<_>>().join("&"));
        let spelled: Config = DriverConfig::parse(&text).unwrap().options().unwrap();
        assert_eq!(spelled, Config::default());
    }
}
