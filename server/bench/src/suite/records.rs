use std::collections::BTreeMap;

use tsoracle::bench::load::Measured;

/// What is put under load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Disk,
    Echo,
    UnaryTs,
    ClientTs,
    UnarySeq,
    ClientSeq,
    EchoTail,
    TsTail,
    FewKeys,
    ManyKeys,
    /// Of a small store, beside the same of a large one.
    BesideLarge,
    /// A thousand keys of a large store, and all of it.
    LargeStore,
    Spread,
    /// A cluster of this driver, and one node beside it.
    Cluster(&'static str),
    BesideCluster(&'static str),
    EtcdSeq,
    Puts,
    Redis,
    BesideRedis,
    Public,
    BesidePublic,
}

/// One load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) callers: u32,
    pub(crate) connections: u32,
    pub(crate) keys: u64,
}

impl Spec {
    pub(crate) const DISK: Self = Self::new(Kind::Disk, 1, 1, 1);
    pub(crate) const ECHO_TAIL: Self = Self::new(Kind::EchoTail, 64, 1, 1);
    pub(crate) const TS_TAIL: Self = Self::new(Kind::TsTail, 64, 1, 1);
    pub(crate) const FEW_KEYS: Self = Self::new(Kind::FewKeys, 64, 1, 64);
    pub(crate) const MANY_KEYS: Self = Self::new(Kind::ManyKeys, 64, 1, 0);

    pub(crate) const BESIDE_LARGE: Self = Self::new(Kind::BesideLarge, 1_024, 1, 1_000);
    pub(crate) const LARGE_STORE: Self = Self::new(Kind::LargeStore, 1_024, 1, 1_000);
    pub(crate) const SPREAD: Self = Self::new(Kind::Spread, 1_024, 1, 0);
    pub(crate) const ETCD_SEQ: Self = Self::new(Kind::EtcdSeq, 64, 1, 64);
    pub(crate) const PUTS: Self = Self::new(Kind::Puts, 1, 1, 1);
    pub(crate) const REDIS: Self = Self::new(Kind::Redis, 256, 256, 1);
    pub(crate) const REDIS_BESIDE: Self = Self::new(Kind::BesideRedis, 1_024, 1, 1_000);
    pub(crate) const PUBLIC: Self = Self::new(Kind::Public, 1_024, 1, 1);
    pub(crate) const PUBLIC_BESIDE: Self = Self::new(Kind::BesidePublic, 1_024, 1, 1);

    const fn new(kind: Kind, callers: u32, connections: u32, keys: u64) -> Self {
        Self { kind, callers, connections, keys }
    }

    pub(crate) const fn echo(callers: u32, connections: u32) -> Self {
        Self::new(Kind::Echo, callers, connections, 1)
    }

    pub(crate) const fn ts(callers: u32, connections: u32) -> Self {
        Self::new(Kind::UnaryTs, callers, connections, 1)
    }

    pub(crate) const fn client_ts(callers: u32) -> Self {
        Self::new(Kind::ClientTs, callers, 1, 1)
    }

    pub(crate) const fn seq(callers: u32, keys: u64) -> Self {
        Self::new(Kind::UnarySeq, callers, 1, keys)
    }

    pub(crate) const fn client_seq(callers: u32, keys: u64) -> Self {
        Self::new(Kind::ClientSeq, callers, 1, keys)
    }

    pub(crate) const fn cluster(driver: &'static str) -> Self {
        Self::new(Kind::Cluster(driver), 64, 1, 64)
    }

    pub(crate) const fn beside_cluster(driver: &'static str) -> Self {
        Self::new(Kind::BesideCluster(driver), 64, 1, 64)
    }

    /// In words.
    pub(crate) fn name(self) -> String {
        let plural = |count: u32| if count == 1 { "" } else { "s" };
        let Self { kind, callers, connections, keys } = self;
        let keys = format!("{keys} key{}", if keys == 1 { "" } else { "s" });
        let spread = format!(
            "{callers} caller{}, {connections} connection{}",
            plural(callers),
            plural(connections)
        );
        match kind {
            Kind::Disk => "bare append and fdatasync".into(),
            Kind::Echo => format!("unary echo, {spread}"),
            Kind::UnaryTs => format!("GetTs, unary, {spread}"),
            Kind::ClientTs => format!("`get_ts`, {spread}"),
            Kind::UnarySeq => format!("GetSeq, unary, {spread}, {keys}"),
            Kind::ClientSeq => format!("`get_seq`, {spread}, {keys}"),
            Kind::EchoTail => format!("unary echo, {spread}, long runs"),
            Kind::TsTail => format!("GetTs, unary, {spread}, long runs"),
            Kind::FewKeys => format!("GetSeq, unary, {spread}, {keys} in the store and drawn"),
            Kind::ManyKeys => format!("GetSeq, unary, {spread}, all keys of a large store drawn"),
            Kind::BesideLarge => format!("`get_seq`, {spread}, {keys}, beside a large store"),
            Kind::LargeStore => format!("`get_seq`, {spread}, {keys} of a large store"),
            Kind::Spread => format!("`get_seq`, {spread}, all keys of a large store drawn"),
            Kind::Cluster(driver) => {
                format!("`get_seq`, {spread}, {keys}, three nodes of {driver}")
            }
            Kind::BesideCluster(driver) => {
                format!("`get_seq`, {spread}, {keys}, one node beside {driver}")
            }
            Kind::EtcdSeq => format!("`get_seq`, {spread}, {keys}, one node over etcd"),
            Kind::Puts => "puts into etcd, one after the other".into(),
            Kind::Redis => "Redis, `appendfsync always`, INCR, 256 connections".into(),
            Kind::BesideRedis => format!("`get_seq`, {spread}, {keys}, beside Redis"),
            Kind::Public => "the public client and server, 1024 callers".into(),
            Kind::BesidePublic => {
                format!("`get_ts`, {spread}, beside the public client and server")
            }
        }
    }
}

/// The loads of each round, so ordered that what is compared lies side by side.
pub(crate) const ROUND: &[Spec] = &[
    Spec::DISK,
    Spec::client_seq(1, 1),
    Spec::seq(1, 1),
    Spec::echo(1, 1),
    Spec::ts(1, 1),
    Spec::client_ts(1),
    Spec::echo(1, 4),
    Spec::ts(1, 4),
    Spec::echo(64, 1),
    Spec::ts(64, 1),
    Spec::client_ts(64),
    Spec::seq(64, 64),
    Spec::client_seq(64, 64),
    Spec::echo(64, 4),
    Spec::ts(64, 4),
    Spec::echo(256, 1),
    Spec::ts(256, 1),
    Spec::echo(256, 4),
    Spec::ts(256, 4),
    Spec::echo(1_024, 4),
    Spec::client_ts(1_024),
    Spec::client_seq(1_024, 1_000),
];

/// What one run of a load came to.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(crate) struct Run {
    pub(crate) calls_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) errors: u64,
}

impl Run {
    pub(crate) fn of(measured: &Measured) -> Self {
        Self {
            calls_per_second: measured.calls_per_second(),
            p50_us: measured.quantile_us(0.5),
            p999_us: measured.quantile_us(0.999),
            errors: measured.errors.values().sum(),
        }
    }
}

/// Every run of every load.
#[derive(Default, Debug)]
pub(crate) struct Records(BTreeMap<Spec, Vec<Run>>);

impl Records {
    pub(crate) fn add(&mut self, spec: Spec, run: Run) {
        self.0.entry(spec).or_default().push(run);
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Spec, &[Run])> {
        self.0.iter().map(|(spec, runs)| (*spec, runs.as_slice()))
    }

    /// A figure of each run.
    pub(crate) fn each(&self, spec: Spec, figure: fn(&Run) -> f64) -> Vec<f64> {
        self.0.get(&spec).into_iter().flatten().map(figure).collect()
    }

    /// The echo's best calls per second in each round, whatever the callers and connections.
    pub(crate) fn best_echo(&self) -> Vec<f64> {
        let mut best: Vec<f64> = Vec::new();
        for (_, runs) in self.0.iter().filter(|(spec, _)| spec.kind == Kind::Echo) {
            for (round, run) in runs.iter().enumerate() {
                match best.get_mut(round) {
                    Some(most) => *most = most.max(run.calls_per_second),
                    None => best.push(run.calls_per_second),
                }
            }
        }
        best
    }
}
