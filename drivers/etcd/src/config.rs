use std::{fmt, path::PathBuf, time::Duration};

use etcd_client::{Certificate, Identity, TlsOptions};
use serde::Deserialize;
use tonic::transport::Endpoint;
use tsoracle_core::{DriverOption, Error, Result};
use tsoracle_tls::{Credentials, Sources, Watched};

/// The members of etcd: what to call each, and how to connect to it.
pub(crate) type Endpoints = Vec<(String, Endpoint)>;

/// The options of the etcd driver.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `HOST:PORT` of etcd's members, with commas between them; `USER:PASSWORD@` may stand before.
    pub authority: String,
    /// The prefix below which everything is kept.
    pub path: String,
    /// How long a leader that has died without a word keeps others from leading, at most.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// How long a leader may leave contenders without an answer before they depose it.
    #[serde(with = "humantime_serde")]
    pub probe: Duration,
    /// How long one attempt at etcd may take before the next member is asked.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The user to authenticate as; empty for none.
    pub user: String,
    /// Its password.
    pub password: String,
    /// A file with the certificates to trust, in PEM; given one, TLS is spoken.
    pub ca: PathBuf,
    /// A file with this node's certificate, in PEM.
    pub cert: PathBuf,
    /// A file with the key of that certificate, in PEM.
    pub key: PathBuf,
    /// The id, in hexadecimal, of an etcd cluster into which the state was restored.
    pub adopt: String,
}

pub(crate) const OPTIONS: &[DriverOption] = &[
    option(
        "authority",
        "127.0.0.1:2379",
        "HOST:PORT of etcd's members, with commas between; USER:PASSWORD@ may stand before",
    ),
    option(
        "path",
        "tsoracle",
        "the prefix below which everything is kept; nothing outside of it is touched",
    ),
    option(
        "ttl",
        "2s",
        "how long a dead leader keeps others from leading at most; etcd has no less than 2s",
    ),
    option(
        "probe",
        "600ms",
        "how long a leader's service may leave the other nodes unanswered before it is deposed",
    ),
    option(
        "timeout",
        "500ms",
        "how long one attempt at a member of etcd may take before the next one is asked",
    ),
    option("user", "", "the user to authenticate as"),
    option("password", "", "the user's password"),
    option("ca", "", "a PEM file with the certificates to trust; given one, TLS is spoken"),
    option("cert", "", "a PEM file with this node's certificate"),
    option("key", "", "a PEM file with that certificate's key"),
    option(
        "adopt",
        "",
        "the id of the etcd cluster into which the state was restored from a backup",
    ),
];

const fn option(name: &'static str, default: &'static str, help: &'static str) -> DriverOption {
    DriverOption { name, default, help }
}

/// Keys repeat the prefix, and a commit has to stay below etcd's limit on requests.
const LONGEST_PREFIX: usize = 64;

const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const PROBE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

impl Default for Config {
    fn default() -> Self {
        Self {
            authority: "127.0.0.1:2379".into(),
            path: "tsoracle".into(),
            ttl: Duration::from_secs(2),
            probe: Duration::from_millis(600),
            timeout: Duration::from_millis(500),
            user: String::new(),
            password: String::new(),
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            adopt: String::new(),
        }
    }
}

impl Config {
    /// The prefix, with a `/` at its end, so that none is the beginning of another.
    pub(crate) fn prefix(&self) -> Result<String> {
        match self.path.trim_matches('/') {
            "" => Err(config("the prefix in etcd must not be empty; give one as path")),
            path if path.len() > LONGEST_PREFIX => Err(config(format!(
                "the prefix in etcd must have at most {LONGEST_PREFIX} bytes, and {path:?} has {}",
                path.len()
            ))),
            path if path.contains(':') => {
                Err(config(format!("the prefix in etcd must have no colon, as {path:?} has")))
            }
            path => Ok(format!("{path}/")),
        }
    }

    /// Checks what is bounded.
    pub(crate) fn validate(&self) -> Result<()> {
        for (name, value, (least, most)) in [
            ("ttl", self.ttl, TTL),
            ("probe", self.probe, PROBE),
            ("timeout", self.timeout, TIMEOUT),
        ] {
            if value < least || value > most {
                return Err(config(format!("{name} must be {least:?} to {most:?}, not {value:?}")));
            }
        }
        Ok(())
    }

    /// Who to authenticate as, if anybody.
    pub(crate) fn user(&self) -> Result<Option<(String, String)>> {
        let in_authority = self.authority.rsplit_once('@').map(|(user, _)| user);
        match (in_authority, self.user.as_str()) {
            (Some(_), user) if !user.is_empty() => Err(config(
                "a user is given twice; leave the option `user` or the part before @ out",
            )),
            (Some(user), _) => {
                let (user, password) = user
                    .split_once(':')
                    .ok_or_else(|| config("the part before @ must be USER:PASSWORD"))?;
                Ok(Some((user.into(), password.into())))
            }
            (None, "") if self.password.is_empty() => Ok(None),
            (None, "") => Err(config("a password is given, but no user; give the option `user`")),
            (None, user) => Ok(Some((user.into(), self.password.clone()))),
        }
    }

    /// The members of etcd: what to call each, and how to connect to it, by the certificates that the files hold
    /// at the time.
    pub(crate) fn endpoints(&self) -> Result<Watched<Endpoints>> {
        let config = self.clone();
        Watched::open("TLS of etcd", self.sources()?, move |credentials| {
            config.members(credentials)
        })
    }

    fn members(&self, credentials: &Credentials) -> Result<Endpoints> {
        let tls = tls(credentials)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let hosts = self.authority.rsplit_once('@').map_or(&*self.authority, |(_, hosts)| hosts);
        let endpoint = |host: &str| {
            let refused =
                || config(format!("a member of etcd is given as HOST:PORT, not {host:?}"));
            let is_whole = host.rsplit_once(':').is_some_and(|(name, port)| {
                !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
            });
            let endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
                .ok()
                .filter(|_| is_whole)
                .ok_or_else(refused)?
                .connect_timeout(self.timeout);
            match &tls {
                None => Ok((host.to_owned(), endpoint)),
                Some(tls) => endpoint.tls_config(tls.clone()).map_or_else(
                    |source| Err(config("TLS cannot be set up as given").with_source(source)),
                    |endpoint| Ok((host.to_owned(), endpoint)),
                ),
            }
        };
        hosts.split(',').map(endpoint).collect()
    }

    fn sources(&self) -> Result<Sources> {
        let given = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        match (given(&self.ca), given(&self.cert), given(&self.key)) {
            (None, None, None) => Ok(Sources::default()),
            (None, ..) => Err(config("TLS needs `ca`, a file with the certificates to trust")),
            (ca, None, None) => Ok(Sources::files(ca, None)),
            (ca, Some(cert), Some(key)) => Ok(Sources::files(ca, Some((cert, key)))),
            _ => Err(config("`cert` and `key` go together; give both or none")),
        }
    }

    /// The cluster whose state is taken over though it was written in another one.
    pub(crate) fn adopt(&self) -> Result<Option<u64>> {
        match self.adopt.as_str() {
            "" => Ok(None),
            text => u64::from_str_radix(text, 16).map(Some).map_err(|_| {
                config(format!(
                    "adopt takes the id of an etcd cluster in hexadecimal, not {text:?}"
                ))
            }),
        }
    }
}

/// How etcd and this node prove to each other who they are, if they do.
fn tls(credentials: &Credentials) -> Result<Option<TlsOptions>> {
    let Some(authorities) = credentials.authorities_pem() else { return Ok(None) };
    // It names the file that is wrong.
    credentials.client_config()?;
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(authorities));
    Ok(Some(match credentials.identity_pem() {
        None => tls,
        Some((cert, key)) => tls.identity(Identity::from_pem(cert, key)),
    }))
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.authority.rsplit_once('@').map_or(&*self.authority, |(_, hosts)| hosts);
        f.debug_struct("Config")
            .field("members", &hosts)
            .field("path", &self.path)
            .field("ttl", &self.ttl)
            .field("probe", &self.probe)
            .field("timeout", &self.timeout)
            .field("user", &self.user)
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .field("adopt", &self.adopt)
            .finish_non_exhaustive()
    }
}

fn config(context: impl Into<String>) -> Error {
    Error::setting(context)
}

#[cfg(test)]
mod tests {
    use tsoracle_core::{DriverConfig, ErrorKind};

    use super::*;

    fn parse(text: &str) -> Config {
        DriverConfig::parse(text).unwrap().options().unwrap()
    }

    #[test]
    fn a_string_and_a_table_make_the_same_options() {
        assert_eq!(parse("etcd"), Config::default());
        let given = parse("etcd://h1:2379,h2:2379/a/b?ttl=3s&user=u&password=p");
        assert_eq!(given.path, "a/b");
        assert_eq!(given.prefix().unwrap(), "a/b/");
        let members = given.endpoints().unwrap().current();
        let names: Vec<_> = members.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["h1:2379", "h2:2379"]);
        assert_eq!(given.user().unwrap(), Some(("u".into(), "p".into())));
        let table = "driver = 'etcd'\nauthority = 'h1:2379,h2:2379'\npath = 'a/b'\nttl = '3s'\n\
                     user = 'u'\npassword = 'p'";
        let table = DriverConfig::from_table(table.parse().unwrap()).unwrap();
        assert_eq!(table.options::<Config>().unwrap(), given);
    }

    #[test]
    fn the_help_names_every_option_with_its_default() {
        let error = DriverConfig::parse("etcd?size=1").unwrap().options::<Config>().unwrap_err();
        let valid: Vec<_> = OPTIONS.iter().map(|option| format!("`{}`", option.name)).collect();
        assert!(error.to_string().contains(&valid.join(", ")), "{error}");
        let defaults: Vec<_> =
            OPTIONS.iter().map(|option| format!("{}={}", option.name, option.default)).collect();
        assert_eq!(parse(&format!("etcd?{}", defaults.join("&"))), Config::default());
    }

    #[test]
    fn a_user_may_stand_in_the_authority_and_is_not_shown() {
        let given = parse("etcd://tso:secret%40x@h1:2379/p");
        assert_eq!(given.user().unwrap(), Some(("tso".into(), "secret@x".into())));
        assert_eq!(given.endpoints().unwrap().current().len(), 1);
        assert!(!format!("{given:?}").contains("secret"), "{given:?}");
        let given = parse("etcd://h1:2379/p?user=tso&password=secret");
        assert!(!format!("{given:?}").contains("secret"), "{given:?}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["etcd://h1/p", "etcd://h1:0/p", "etcd://,/p", "etcd://h:2379/p?cert=x"] {
            let error = parse(text).endpoints().err();
            let error = error.unwrap_or_else(|| panic!("{text} was accepted"));
            assert_eq!(*error.kind(), ErrorKind::Config, "{error}");
        }
        assert!(parse("etcd://h:2379/p?ttl=100ms").validate().is_err());
        assert!(parse("etcd://h:2379/p?password=x").user().is_err());
        assert!(parse("etcd://u:x@h:2379/p?user=u").user().is_err());
        assert_eq!(parse("etcd://h:2379/p").user().unwrap(), None);
        assert!(parse("etcd://h:2379/p?adopt=xyz").adopt().is_err());
        assert!(parse(&format!("etcd://h:2379/{}", "p".repeat(65))).prefix().is_err());
        assert!(parse("etcd:/").prefix().is_err());
        assert!(parse("etcd://h:2379/a:b").prefix().is_err());
    }
}
