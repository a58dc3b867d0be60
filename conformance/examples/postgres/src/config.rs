use std::{fmt, time::Duration};

use serde::Deserialize;
use tokio_postgres::config::TargetSessionAttrs;
use tsoracle_core::{DriverOption, Error, ErrorKind, Result};

/// What a config string can say: `postgres:host=… user=… dbname=…?table=…&ttl=…&timeout=…`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the server is and who connects to it, in the form of libpq's connection strings.
    pub path: String,
    /// The table of the state. Each oracle has one of its own.
    pub table: String,
    /// How long a leader that says nothing keeps others from leading.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// How long a read or a commit may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

pub(crate) const OPTIONS: &[DriverOption] = &[
    option(
        "path",
        "host=127.0.0.1 user=tsoracle dbname=tsoracle",
        "how to connect, as for libpq; without TLS",
    ),
    option("table", "tsoracle", "the table of the state; made if it is missing"),
    option("ttl", "1s", "how long a leader that says nothing keeps others from leading"),
    option("timeout", "2s", "how long a read or a commit may take"),
];

const fn option(name: &'static str, default: &'static str, help: &'static str) -> DriverOption {
    DriverOption { name, default, help }
}

/// PostgreSQL cuts longer names off, and the leader's table has a longer one.
const LONGEST_NAME: usize = 48;

const TIMES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "host=127.0.0.1 user=tsoracle dbname=tsoracle".into(),
            table: "tsoracle".into(),
            ttl: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// Checks what is bounded.
    pub(crate) fn validate(&self) -> Result<()> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let table = &self.table;
        if table.is_empty() || table.len() > LONGEST_NAME || !table.bytes().all(is_name) {
            return Err(config(format!(
                "a table is named by 1 to {LONGEST_NAME} characters of a-z, 0-9 and _, not {table:?}"
            )));
        }
        for (name, value) in [("ttl", self.ttl), ("timeout", self.timeout)] {
            let (least, most) = TIMES;
            if value < least || value > most {
                return Err(config(format!("{name} must be {least:?} to {most:?}, not {value:?}")));
            }
        }
        self.connection().map(drop)
    }

    /// How to connect to the server that takes writes.
    ///
    /// Each statement is a transaction of its own. It sees one snapshot, fails rather than change what
    /// another one has changed since, and is on disk when it is answered. The server ends the session once
    /// it has heard nothing for as long as a leader may say nothing.
    pub(crate) fn connection(&self) -> Result<tokio_postgres::Config> {
        let mut connection: tokio_postgres::Config = self.path.parse().map_err(|source| {
            config("path takes `host=… port=… user=… password=… dbname=…`").with_source(source)
        })?;
        let given = connection.get_options().unwrap_or_default().to_owned();
        // A commit that waits for a lock is given up by the server before it is by this node.
        let (ttl, lock) = (self.ttl.as_millis(), (self.timeout / 2).as_millis());
        connection
            .options(format!(
                "{given} -c default_transaction_isolation=repeatable\\ read -c synchronous_commit=on \
                 -c lock_timeout={lock} -c idle_session_timeout={ttl}"
            ))
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(self.timeout)
            .tcp_user_timeout(self.timeout);
        Ok(connection)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its own `Debug` hides the password.
        let connection = self.path.parse::<tokio_postgres::Config>().ok();
        f.debug_struct("Config")
            .field("connection", &connection)
            .field("table", &self.table)
            .field("ttl", &self.ttl)
            .field("timeout", &self.timeout)
            .finish()
    }
}

fn config(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, context)
}

#[cfg(test)]
mod tests {
    use tsoracle_core::DriverConfig;

    use super::*;

    fn parse(text: &str) -> Config {
        DriverConfig::parse(text).unwrap().options().unwrap()
    }

    #[test]
    fn a_string_and_a_table_make_the_same_options() {
        assert_eq!(parse("postgres"), Config::default());
        let given = parse("postgres:host=db1,db2 user=u password=secret?table=t&ttl=3s&timeout=4s");
        given.validate().unwrap();
        assert_eq!(
            (given.table.as_str(), given.ttl.as_secs(), given.timeout.as_secs()),
            ("t", 3, 4)
        );
        let connection = given.connection().unwrap();
        assert_eq!((connection.get_hosts().len(), connection.get_user()), (2, Some("u")));
        let table = "driver = 'postgres'\npath = 'host=db1,db2 user=u password=secret'\n\
                     table = 't'\nttl = '3s'\ntimeout = '4s'";
        let table = DriverConfig::from_table(table.parse().unwrap()).unwrap();
        assert_eq!(table.options::<Config>().unwrap(), given);
        assert!(!format!("{given:?}").contains("secret"), "{given:?}");
    }

    #[test]
    fn the_help_names_every_option_with_its_default() {
        let error = DriverConfig::parse("postgres?size=1").unwrap().options::<Config>();
        let valid: Vec<_> = OPTIONS.iter().map(|option| format!("`{}`", option.name)).collect();
        assert!(error.unwrap_err().to_string().contains(&valid.join(", ")));
        let table: Vec<_> = OPTIONS
            .iter()
            .map(|option| format!("{} = '{}'\n", option.name, option.default))
            .collect();
        let table = format!("driver = 'postgres'\n{}", table.concat()).parse().unwrap();
        let config = DriverConfig::from_table(table).unwrap();
        assert_eq!(config.options::<Config>().unwrap(), Config::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "postgres?table=",
            "postgres?table=a\"b",
            "postgres?table=A",
            "postgres?ttl=1ms",
            "postgres?timeout=1h",
            "postgres:host=a password=secret size=1",
            "postgres:secret",
        ] {
            let error = parse(text).validate().unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Config, "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(parse(&format!("postgres?table={}", "t".repeat(49))).validate().is_err());
    }
}
