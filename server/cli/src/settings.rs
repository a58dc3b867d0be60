mod made;
mod socket_mode;

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Deserialize;
use tsoracle_core::DriverConfig;
use tsoracle_server::PolicyConfig;

pub(crate) use self::socket_mode::SocketMode;
use crate::{
    log::Format,
    time::{Lasting, Time},
};

const PLACES: &str = "Place";
const TIME: &str = "Time and leases";
const TLS: &str = "TLS";
const RIGHTS: &str = "Rights";
const LIMITS: &str = "Limits";

/// The options of `tsoracle serve`: on the command line, in the environment, and in the file.
#[derive(Args, Deserialize, Clone, Default, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    /// What keeps the state: a name or a config string [default: file]
    #[arg(value_name = "DRIVER", env = "TSORACLE_DRIVER", value_parser = DriverChoice::from_text,
          hide_env_values = true)]
    pub(crate) driver: Option<DriverChoice>,

    /// TOML file with the same options, named without the dashes in front
    #[arg(long, value_name = "FILE", env = "TSORACLE_CONFIG")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,

    /// Who may do what. In the file alone.
    #[arg(skip)]
    pub(crate) policy: Option<PolicyConfig>,

    /// Refuse to begin a new state: for a directory on a volume that may not be mounted
    #[arg(long, value_name = "BOOL", env = "TSORACLE_REQUIRE_STATE", help_heading = PLACES,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_possible_values = true)]
    pub(crate) require_state: Option<bool>,

    /// Where to listen: HOST:PORT, where port 0 finds a free one, or unix:PATH, a socket for programs of this
    /// machine [default: 127.0.0.1:50551]
    #[arg(long, value_name = "PLACE", env = "TSORACLE_LISTEN", help_heading = PLACES)]
    pub(crate) listen: Option<String>,

    /// Who may connect to sockets in the file system: their mode, in octal [default: 660]
    #[arg(long, value_name = "MODE", env = "TSORACLE_SOCKET_MODE", help_heading = PLACES)]
    pub(crate) socket_mode: Option<SocketMode>,

    /// Serve in plain text even where other machines can listen in, and send what they like
    #[arg(long, value_name = "BOOL", env = "TSORACLE_INSECURE_LISTEN", help_heading = PLACES,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_possible_values = true)]
    pub(crate) insecure_listen: Option<bool>,

    /// Where to serve administrators: HOST:PORT, a port of this machine alone, or unix:PATH. They are then
    /// served nowhere else, but for identities to which a policy gives the right [default: nowhere]
    #[arg(long, value_name = "PLACE", env = "TSORACLE_ADMIN_LISTEN", help_heading = PLACES)]
    pub(crate) admin_listen: Option<String>,

    /// Where clients reach this server [default: the address it listens on]
    #[arg(long, value_name = "HOST:PORT", env = "TSORACLE_ADVERTISE", help_heading = PLACES)]
    pub(crate) advertise: Option<String>,

    /// Where to answer probes (/livez, /readyz) and Prometheus (/metrics) over plain HTTP, to everybody
    /// who reaches it [default: nowhere]
    #[arg(long, value_name = "IP:PORT", env = "TSORACLE_PROBE_LISTEN", help_heading = PLACES)]
    probe_listen: Option<SocketAddr>,

    /// The earlier name of --probe-listen
    #[arg(long, value_name = "IP:PORT", env = "TSORACLE_METRICS_LISTEN", hide = true)]
    metrics_listen: Option<SocketAddr>,

    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as
    /// tsoracle_core=debug,warn [default: info]
    #[arg(long, value_name = "FILTER", env = "TSORACLE_LOG", help_heading = PLACES)]
    pub(crate) log: Option<String>,

    /// How to write the log: text, for people, or json, an object a line [default: text]
    #[arg(long, value_name = "FORMAT", env = "TSORACLE_LOG_FORMAT", help_heading = PLACES,
          hide_possible_values = true)]
    pub(crate) log_format: Option<Format>,

    /// Where a collector takes traces of requests, over gRPC, as http://127.0.0.1:4317, or https:// with --otlp-ca; in
    /// builds with the feature `otlp` [default: nowhere]
    #[arg(long, value_name = "URL", env = "TSORACLE_OTLP_ENDPOINT", help_heading = PLACES)]
    pub(crate) otlp_endpoint: Option<String>,

    /// Encrypt what goes to the collector, and trust one with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_OTLP_CA", help_heading = PLACES)]
    pub(crate) otlp_ca: Option<PathBuf>,

    /// The share of requests to trace whose callers do not say whether to, from 0 to 1 [default: 0.01]
    #[arg(long, value_name = "SHARE", env = "TSORACLE_TRACE_RATIO", help_heading = PLACES)]
    pub(crate) trace_ratio: Option<f64>,

    /// How long a leader serves after its last renewal; a successor may wait a tenth longer
    /// [default: 1s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_LEASE", help_heading = TIME)]
    lease: Option<Lasting>,

    /// How far beyond the present timestamps are reserved by each renewal [default: 3s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_WINDOW_AHEAD", help_heading = TIME)]
    window_ahead: Option<Lasting>,

    /// How far timestamps are reserved when taking over [default: 1s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_FAILOVER_ADVANCE", help_heading = TIME)]
    failover_advance: Option<Lasting>,

    /// How far timestamps may run ahead of the wall clock under load [default: the window]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_MAX_AHEAD", help_heading = TIME)]
    max_ahead: Option<Lasting>,

    /// How far the wall clock may leap ahead and still be followed [default: 10s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_MAX_CLOCK_STEP", help_heading = TIME)]
    max_clock_step: Option<Lasting>,

    /// How far ahead of the stored time the wall clock may be at a start or a take-over, and still be
    /// followed [default: 30days]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_MAX_CLOCK_JUMP", help_heading = TIME)]
    max_clock_jump: Option<Lasting>,

    /// The wall clock is right at a start or a take-over until it shows this, in RFC 3339 or in
    /// milliseconds since 1970, whatever the state or other nodes say [default: never]
    #[arg(long, value_name = "TIME", env = "TSORACLE_TRUST_CLOCK_UNTIL", help_heading = TIME)]
    trust_clock_until: Option<Time>,

    /// How long a call waits for a leader before it is refused [default: 1s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_HOLD", help_heading = TIME)]
    hold: Option<Lasting>,

    /// How long releasing the lease may take when stopping [default: 5s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_SHUTDOWN_TIMEOUT", help_heading = TIME)]
    shutdown_timeout: Option<Lasting>,

    /// Encrypt, with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_TLS_CERT", help_heading = TLS)]
    tls_cert: Option<PathBuf>,

    /// The private key that goes with --tls-cert (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_TLS_KEY", help_heading = TLS)]
    tls_key: Option<PathBuf>,

    /// Let in only clients with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_TLS_CLIENT_CA", help_heading = TLS)]
    tls_client_ca: Option<PathBuf>,

    /// Encrypt for administrators, with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_ADMIN_TLS_CERT", help_heading = TLS)]
    admin_tls_cert: Option<PathBuf>,

    /// The private key that goes with --admin-tls-cert (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_ADMIN_TLS_KEY", help_heading = TLS)]
    admin_tls_key: Option<PathBuf>,

    /// Let in only administrators with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", env = "TSORACLE_ADMIN_TLS_CLIENT_CA", help_heading = TLS)]
    admin_tls_client_ca: Option<PathBuf>,

    /// The tokens that prove identities, as `tsoracle token` writes them
    #[arg(long, value_name = "FILE", env = "TSORACLE_TOKENS", help_heading = RIGHTS)]
    pub(crate) tokens: Option<PathBuf>,

    /// Where to record administrative actions and refusals, a line of JSON each
    /// [default: the log, as tsoracle::audit]
    #[arg(long, value_name = "FILE", env = "TSORACLE_AUDIT_LOG", help_heading = RIGHTS)]
    pub(crate) audit_log: Option<PathBuf>,

    /// The most calls that wait for a commit, a leader or the clock [default: 65536]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_WAITING", help_heading = LIMITS)]
    max_waiting: Option<usize>,

    /// The most values of one sequence block [default: 65536]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_SEQ_COUNT", help_heading = LIMITS)]
    max_seq_count: Option<u32>,

    /// The most sequences [default: 100000000]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_KEYS", help_heading = LIMITS)]
    max_keys: Option<u64>,

    /// The most clients whose requests are exactly once [default: 100000]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_SESSIONS", help_heading = LIMITS)]
    max_sessions: Option<u64>,

    /// The most stamping leases [default: 10000]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_LEASES", help_heading = LIMITS)]
    max_leases: Option<u64>,

    /// The most requests with a name whose answers are kept [default: 1000000]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_NAMED", help_heading = LIMITS)]
    max_named: Option<u64>,

    /// How long the answer to a named request is kept [default: 30d]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_NAME_RETENTION", help_heading = LIMITS)]
    name_retention: Option<Lasting>,

    /// How many bytes of the disk to keep free: with less, nothing new is begun [default: a twentieth
    /// of the disk, 268435456 at most]
    #[arg(long, value_name = "BYTES", env = "TSORACLE_RESERVE_BYTES", help_heading = LIMITS)]
    pub(crate) reserve_bytes: Option<u64>,

    /// The shortest time that a stamping lease may be asked to run [default: 5s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_MIN_LEASE_TTL", help_heading = LIMITS)]
    min_lease_ttl: Option<Lasting>,

    /// The longest; timestamps may run as far ahead of the clock after a take-over [default: 5m]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_MAX_LEASE_TTL", help_heading = LIMITS)]
    max_lease_ttl: Option<Lasting>,

    /// The largest message that is read [default: 1048576]
    #[arg(long, value_name = "BYTES", env = "TSORACLE_MAX_MESSAGE_BYTES", help_heading = LIMITS)]
    max_message_bytes: Option<usize>,

    /// The largest list of headers of a call [default: 16384]
    #[arg(long, value_name = "BYTES", env = "TSORACLE_MAX_HEADER_BYTES", help_heading = LIMITS)]
    max_header_bytes: Option<u32>,

    /// The most requests of streams whose answers clients have not read [default: 262144]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_UNREAD_ANSWERS", help_heading = LIMITS)]
    max_unread_answers: Option<usize>,

    /// The most calls under way on one connection [default: 1024]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_CONCURRENT_STREAMS", help_heading = LIMITS)]
    max_concurrent_streams: Option<u32>,

    /// The most calls under way on all connections [default: 32768]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_CALLS", help_heading = LIMITS)]
    max_calls: Option<usize>,

    /// The most connections [default: 10000, or what the limit of open files leaves]
    #[arg(long, value_name = "N", env = "TSORACLE_MAX_CONNECTIONS", help_heading = LIMITS)]
    max_connections: Option<usize>,

    /// How long a new connection may take to agree on TLS, and on HTTP/2 [default: 5s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_HANDSHAKE_TIME", help_heading = LIMITS)]
    handshake_time: Option<Lasting>,

    /// How long a call may take, whatever its deadline says [default: 30s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_REQUEST_TIME", help_heading = LIMITS)]
    request_time: Option<Lasting>,

    /// How often a silent connection is asked for a sign of life [default: 20s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_KEEPALIVE_INTERVAL", help_heading = LIMITS)]
    keepalive_interval: Option<Lasting>,

    /// How long that sign may take [default: 10s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_KEEPALIVE_TIMEOUT", help_heading = LIMITS)]
    keepalive_timeout: Option<Lasting>,

    /// How long calls under way may take to end when stopping [default: 5s]
    #[arg(long, value_name = "DURATION", env = "TSORACLE_DRAIN_TIME", help_heading = LIMITS)]
    drain_time: Option<Lasting>,
}

/// The driver, in one of its two forms.
#[derive(Deserialize, Clone, Debug)]
#[serde(try_from = "toml::Value")]
pub(crate) struct DriverChoice(pub(crate) DriverConfig);

impl DriverChoice {
    fn from_text(text: &str) -> Result<Self, String> {
        DriverConfig::parse(text).map(Self).map_err(|error| format!("{error:#}"))
    }
}

impl TryFrom<toml::Value> for DriverChoice {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::from_text(&text),
            toml::Value::Table(table) => {
                DriverConfig::from_table(table).map(Self).map_err(|error| format!("{error:#}"))
            }
            _ => Err("the driver is a config string or a table".into()),
        }
    }
}
