use std::{collections::BTreeSet, fmt};

use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result};

/// Which driver to open, with its options: parsed, but not yet checked by the driver.
///
/// A config string is `name`, `name:path?key=value&…` or `name://authority/path?key=value&…`. The
/// part behind the colon becomes the options `authority` and `path`. The same options may stand in
/// a TOML table with `driver = "name"`. `Debug` shows no values, since some are secrets.
#[derive(Clone, PartialEq)]
pub struct DriverConfig {
    name: String,
    options: Options,
}

#[derive(Clone, PartialEq)]
enum Options {
    /// Percent-decoded pairs of a string; numbers and booleans still as text.
    Pairs(Vec<(String, String)>),
    Table(toml::Table),
}

impl DriverConfig {
    /// Takes a config string apart.
    ///
    /// # Errors
    /// `Config` if it has no name, or text that percent-encodes no UTF-8.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let (name, rest) = match name.split_once('?') {
            Some((name, _)) => (name, &text[name.len()..]),
            None => (name, rest),
        };
        if name.is_empty() {
            let context =
                format!("{text:?} names no driver; the form is NAME:PATH?KEY=VALUE&KEY=VALUE");
            return Err(Error::new(ErrorKind::Config, context));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut pairs = Vec::new();
        let path = match place.strip_prefix("//") {
            Some(place) => {
                let (authority, path) = place.split_once('/').unwrap_or((place, ""));
                pairs.push(("authority".into(), decode(authority)?));
                path
            }
            None => place,
        };
        if !path.is_empty() {
            pairs.push(("path".into(), decode(path)?));
        }
        pairs.extend(form_urlencoded::parse(query.as_bytes()).into_owned());
        Ok(Self { name: name.into(), options: Options::Pairs(pairs) })
    }

    /// Takes a TOML table: `driver` names the driver, the rest are its options.
    ///
    /// # Errors
    /// `Config` if there is no text under `driver`.
    pub fn from_table(mut table: toml::Table) -> Result<Self> {
        match table.remove("driver") {
            Some(toml::Value::String(name)) => Ok(Self { name, options: Options::Table(table) }),
            _ => Err(Error::new(ErrorKind::Config, "the driver's table lacks driver = \"NAME\"")),
        }
    }

    /// The driver's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of the options that are given.
    pub fn keys(&self) -> Vec<&str> {
        match &self.options {
            Options::Pairs(pairs) => pairs.iter().map(|(key, _)| key.as_str()).collect(),
            Options::Table(table) => table.keys().map(String::as_str).collect(),
        }
    }

    /// The options as the driver's own struct, which should deny unknown fields.
    ///
    /// # Errors
    /// `Config` for an unknown option, with the valid ones, or a value that does not fit.
    pub fn options<T: DeserializeOwned>(&self) -> Result<T> {
        let refused = |reason: &dyn fmt::Display| {
            Error::setting(format!("driver {:?} cannot be configured so: {reason}", self.name))
        };
        match &self.options {
            Options::Table(table) => T::deserialize(table.clone()).map_err(|error| {
                let reason = error.message();
                let fails_so = |(key, value): &(&String, &toml::Value)| {
                    let alone = toml::Table::from_iter([((*key).clone(), (*value).clone())]);
                    T::deserialize(alone).is_err_and(|error| error.message() == reason)
                };
                match table.iter().find(fails_so) {
                    // The value may be one that a debugger must not show; the file has it.
                    Some((key, _)) if !reason.contains(key.as_str()) => {
                        refused(&format_args!("`{key}`: {reason}"))
                    }
                    _ => refused(&reason),
                }
            }),
            Options::Pairs(pairs) => {
                let mut seen = BTreeSet::new();
                if let Some((key, _)) = pairs.iter().find(|(key, _)| !seen.insert(key)) {
                    return Err(refused(&format_args!("option `{key}` is given twice")));
                }
                let mut query = form_urlencoded::Serializer::new(String::new());
                query.extend_pairs(pairs);
                serde_html_form::from_str(&query.finish()).map_err(|error| {
                    let reason = error.to_string();
                    match pairs.iter().find(|pair| fails_so::<T>(pair, &reason)) {
                        Some((key, value)) if !reason.contains(key.as_str()) => {
                            refused(&format_args!("`{key}` cannot be {value:?}: {reason}"))
                        }
                        _ => refused(&reason),
                    }
                })
            }
        }
    }
}

/// Whether that option alone is refused for that reason.
fn fails_so<T: DeserializeOwned>((key, value): &(String, String), reason: &str) -> bool {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair(key, value);
    let alone = serde_html_form::from_str::<T>(&query.finish());
    alone.is_err_and(|error| error.to_string() == reason)
}

impl fmt::Debug for DriverConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverConfig")
            .field("name", &self.name)
            .field("options", &self.keys())
            .finish()
    }
}

fn decode(text: &str) -> Result<String> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|source| {
        Error::new(ErrorKind::Config, format!("{text:?} encodes no text")).with_source(source)
    })
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, PartialEq, Debug, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        authority: Option<String>,
        path: PathBuf,
        node: u32,
        fast: bool,
        #[serde(with = "humantime_serde")]
        ttl: Duration,
    }

    fn sample(text: &str) -> Result<Sample> {
        DriverConfig::parse(text)?.options()
    }

    #[test]
    fn every_form_of_string_is_understood() {
        let plain = sample("file").unwrap();
        assert_eq!(plain, Sample::default());
        assert_eq!(sample("file:./data").unwrap().path, PathBuf::from("./data"));
        assert_eq!(sample("file:/var/a%20b").unwrap().path, PathBuf::from("/var/a b"));
        let etcd = sample("etcd://h1:2379,h2:2379/prefix/x?ttl=2s&node=3&fast=true").unwrap();
        assert_eq!(etcd.authority.as_deref(), Some("h1:2379,h2:2379"));
        assert_eq!(etcd.path, PathBuf::from("prefix/x"));
        assert_eq!((etcd.node, etcd.fast, etcd.ttl), (3, true, Duration::from_secs(2)));
        assert_eq!(sample("file?node=2").unwrap().node, 2);
        assert_eq!(sample("file:?node=2").unwrap().node, 2);
    }

    #[test]
    fn a_table_gives_the_same_options() {
        let table = "driver = 'file'\npath = './data'\nnode = 3\nfast = true\nttl = '2s'";
        let config = DriverConfig::from_table(table.parse().unwrap()).unwrap();
        assert_eq!(config.name(), "file");
        let from_string = sample("file:./data?node=3&fast=true&ttl=2s").unwrap();
        assert_eq!(config.options::<Sample>().unwrap(), from_string);
    }

    #[test]
    fn a_wrong_option_is_named_with_the_valid_ones() {
        let table: toml::Table = "driver = 'file'\nspeed = 1".parse().unwrap();
        let from_table = DriverConfig::from_table(table).unwrap().options::<Sample>();
        for error in [sample("file:./x?speed=1").unwrap_err(), from_table.unwrap_err()] {
            assert_eq!(*error.kind(), ErrorKind::Config);
            let text = error.to_string();
            assert!(text.contains("`speed`") && text.contains("`ttl`"), "{text}");
        }
        assert!(sample("file:./x?node=1&node=2").unwrap_err().to_string().contains("`node`"));
        for wrong in ["node = 'many'", "ttl = 'soon'", "fast = 1"] {
            let table = format!("driver = 'file'\nauthority = 'h'\n{wrong}").parse().unwrap();
            let error = DriverConfig::from_table(table).unwrap().options::<Sample>().unwrap_err();
            let key = wrong.split(' ').next().unwrap();
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
        assert!(sample("file:./x?node=many").unwrap_err().to_string().contains("`node`"));
        assert!(DriverConfig::parse(":./x").is_err());
        assert!(DriverConfig::from_table("path = './x'".parse().unwrap()).is_err());
    }

    #[test]
    fn debug_shows_no_values() {
        let config = DriverConfig::parse("etcd://user:secret@h/p?password=secret").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
