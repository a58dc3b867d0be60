//! What is made of settings.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tsoracle_core::OracleOptions;
use tsoracle_server::{Limits, Policy, TlsOptions};

use super::Settings;
use crate::{
    descriptors,
    failure::{Failure, usage_if_config},
};

/// Has a macro do something with the fields of the settings.
macro_rules! each_setting {
    ($act:ident) => {
        $act!(
            driver config policy require_state listen socket_mode insecure_listen admin_listen advertise probe_listen
            metrics_listen log log_format otlp_endpoint otlp_ca trace_ratio
            lease window_ahead failover_advance max_ahead max_clock_step max_clock_jump trust_clock_until hold
            shutdown_timeout tls_cert tls_key tls_client_ca admin_tls_cert admin_tls_key admin_tls_client_ca tokens
            audit_log max_waiting max_seq_count max_keys max_sessions max_leases max_named name_retention reserve_bytes
            min_lease_ttl max_lease_ttl max_message_bytes max_header_bytes max_unread_answers
            max_concurrent_streams max_calls max_connections handshake_time request_time keepalive_interval
            keepalive_timeout drain_time
        )
    };
}

impl Settings {
    /// Adds what the config file says, if one is named.
    pub(crate) fn complete(self) -> Result<Self, Failure> {
        match self.config.clone() {
            Some(path) => Ok(self.over(read(&path)?)),
            None => Ok(self),
        }
    }

    /// These settings, and where one is missing, that of `file`.
    fn over(self, file: Self) -> Self {
        macro_rules! first {
            ($($field:ident)*) => { Self { $($field: self.$field.or(file.$field)),* } }
        }
        each_setting!(first)
    }

    /// The names of those settings that differ, and hold from the next start on.
    pub(crate) fn changed_for_good(&self, other: &Self) -> Vec<String> {
        const RELOADED: [&str; 2] = ["policy", "log"];
        macro_rules! differing {
            ($($field:ident)*) => { [$((
                stringify!($field),
                format!("{:?}", self.$field) != format!("{:?}", other.$field),
            )),*] }
        }
        let settings = each_setting!(differing);
        let changed =
            settings.iter().filter(|(name, differs)| *differs && !RELOADED.contains(name));
        changed.map(|(name, _)| name.replace('_', "-")).collect()
    }

    /// How the engine serves.
    pub(crate) fn oracle_options(&self) -> Result<OracleOptions, Failure> {
        let mut options = OracleOptions::default();
        set(&mut options.lease, self.lease);
        set(&mut options.window_ahead, self.window_ahead);
        set(&mut options.failover_advance, self.failover_advance);
        set(&mut options.max_ahead, self.max_ahead.or(self.window_ahead));
        set(&mut options.max_clock_step, self.max_clock_step);
        set(&mut options.max_clock_jump, self.max_clock_jump);
        options.trust_clock_until_ms = self.trust_clock_until.map(|time| time.0);
        set(&mut options.hold, self.hold);
        set(&mut options.shutdown_timeout, self.shutdown_timeout);
        set(&mut options.max_waiting, self.max_waiting);
        set(&mut options.max_seq_count, self.max_seq_count);
        set(&mut options.limits.keys, self.max_keys);
        set(&mut options.limits.sessions, self.max_sessions);
        set(&mut options.limits.leases, self.max_leases);
        set(&mut options.limits.named, self.max_named);
        set(&mut options.name_retention, self.name_retention);
        set(&mut options.lease_ttl.0, self.min_lease_ttl);
        set(&mut options.lease_ttl.1, self.max_lease_ttl);
        options.validate().map_err(usage_if_config)?;
        Ok(options)
    }

    /// Where to answer probes, under either name.
    pub(crate) fn probe_listen(&self) -> Result<Option<SocketAddr>, Failure> {
        match (self.probe_listen, self.metrics_listen) {
            (Some(one), Some(other)) if one != other => Err(Failure::usage(format!(
                "--metrics-listen is the earlier name of --probe-listen; {one} and {other} are two addresses"
            ))),
            (one, other) => Ok(one.or(other)),
        }
    }

    /// What clients may take.
    pub(crate) fn limits(&self) -> Result<Limits, Failure> {
        let mut limits = Limits::default();
        set(&mut limits.message_bytes, self.max_message_bytes);
        set(&mut limits.header_bytes, self.max_header_bytes);
        set(&mut limits.unread_answers, self.max_unread_answers);
        set(&mut limits.concurrent_streams, self.max_concurrent_streams);
        set(&mut limits.calls, self.max_calls);
        limits.connections = descriptors::connections(self.max_connections)?;
        set(&mut limits.handshake_time, self.handshake_time);
        set(&mut limits.request_time, self.request_time);
        set(&mut limits.keepalive_interval, self.keepalive_interval);
        set(&mut limits.keepalive_timeout, self.keepalive_timeout);
        set(&mut limits.drain_time, self.drain_time);
        limits.validate().map_err(usage_if_config)?;
        Ok(limits)
    }

    /// How to encrypt, with every file read and checked.
    pub(crate) fn tls(&self) -> Result<Option<TlsOptions>, Failure> {
        let tls = tls("", &self.tls_cert, &self.tls_key, self.tls_client_ca.as_ref())?;
        Ok(match self.lets_in_without_certificate()? {
            true => tls.map(TlsOptions::clients_without_certificates),
            false => tls,
        })
    }

    /// Whether there are clients of whom the policy says something, and who need no certificate.
    fn lets_in_without_certificate(&self) -> Result<bool, Failure> {
        let Some(policy) = &self.policy else { return Ok(false) };
        let policy = Policy::new(policy).map_err(usage_if_config)?;
        Ok(self.tokens.is_some() || policy.lets_anonymous_in())
    }

    /// The same, for administrators.
    pub(crate) fn admin_tls(&self) -> Result<Option<TlsOptions>, Failure> {
        tls("admin-", &self.admin_tls_cert, &self.admin_tls_key, self.admin_tls_client_ca.as_ref())
    }

    /// Whether there is anything by which a client can prove who it is.
    pub(crate) fn proves_identities(&self) -> bool {
        self.tokens.is_some() || self.tls_client_ca.is_some() || self.proves_administrators()
    }

    /// Whether administrators have to have certificates.
    pub(crate) fn proves_administrators(&self) -> bool {
        self.admin_tls_client_ca.is_some()
    }
}

fn tls(
    whose: &str,
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
    client_ca: Option<&PathBuf>,
) -> Result<Option<TlsOptions>, Failure> {
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => TlsOptions::from_files(cert, key),
        (None, None) if client_ca.is_none() => return Ok(None),
        _ => {
            let both = format!("TLS takes both --{whose}tls-cert and --{whose}tls-key");
            return Err(Failure::usage(both));
        }
    };
    let tls = match client_ca {
        Some(authorities) => tls.and_then(|tls| tls.client_ca_file(authorities)),
        None => tls,
    };
    let tls = tls.and_then(|tls| tls.check().map(|()| tls));
    tls.map(Some).map_err(usage_if_config)
}

fn set<T>(option: &mut T, given: Option<impl Into<T>>) {
    if let Some(value) = given {
        *option = value.into();
    }
}

fn read(path: &Path) -> Result<Settings, Failure> {
    let place = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("cannot read the config file {place}: {error:#}"))
    })?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| {
            let number = before.matches('\n').count();
            let key = text.lines().nth(number).and_then(|line| line.split_once('='));
            let key = key.map(|(key, _)| format!(", {}", key.trim())).unwrap_or_default();
            format!(", line {}{key}", number + 1)
        });
        let reason = error.message();
        Failure::usage(format!("config file {place}{}: {reason}", line.unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().into())
    }

    #[test]
    fn what_is_given_first_counts() {
        let flags = Settings { lease: Some("2s".parse().unwrap()), ..Settings::default() };
        let file = parse("lease = '4s'\nwindow-ahead = '9s'\nlisten = 'h:1'").unwrap();
        let settings = flags.over(file);
        let options = settings.oracle_options().unwrap();
        assert_eq!(options.lease, Duration::from_secs(2));
        assert_eq!(options.window_ahead, Duration::from_secs(9));
        assert_eq!(options.max_ahead, Duration::from_secs(9));
        assert_eq!(settings.listen.as_deref(), Some("h:1"));
    }

    #[test]
    fn a_driver_has_two_forms() {
        let name = |text| parse(text).unwrap().driver.unwrap().0.name().to_owned();
        assert_eq!(name("driver = 'file:./data'"), "file");
        assert_eq!(name("[driver]\ndriver = 'file'\npath = './data'"), "file");
        assert!(parse("driver = 3").unwrap_err().contains("table"));
        assert!(parse("[driver]\npath = 'x'").unwrap_err().contains("driver = \"NAME\""));
    }

    #[test]
    fn an_unknown_option_lists_the_valid_ones() {
        let error = parse("lesae = '4s'").unwrap_err();
        for word in ["lesae", "lease", "window-ahead", "driver", "tls-client-ca"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(!error.contains("`config`"), "a file names no other: {error}");
    }
}
