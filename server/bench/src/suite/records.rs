use std::collections::BTreeMap;

use tsoracle::bench::load::Measured;

/// How something is put under load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Disk,
    Echo,
    UnaryTs,
    ClientTs,
    UnarySeq,
    ClientSeq,
    /// By a program of its own.
    Other,
}

/// One load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) callers: u32,
    pub(crate) connections: u32,
    /// 0 for all keys of a large store.
    pub(crate) keys: u64,
    /// What tells it from others of its kind, at the end of its name.
    note: (&'static str, &'static str),
}

impl Spec {
    pub(crate) const DISK: Self = Self::new(Kind::Disk, 1, 1, 1);
    pub(crate) const ECHO_TAIL: Self = Self::echo(64, 1).noted(", long runs");
    pub(crate) const TS_TAIL: Self = Self::ts(64, 1).noted(", long runs");
    pub(crate) const FEW_KEYS: Self = Self::seq(64, 64).noted(" in the store and drawn");
    pub(crate) const MANY_KEYS: Self = Self::seq(64, 0).noted(" drawn");
    pub(crate) const BESIDE_LARGE: Self =
        Self::client_seq(1_024, 1_000).noted(", beside a large store");
    pub(crate) const LARGE_STORE: Self = Self::client_seq(1_024, 1_000).noted(" of a large store");
    pub(crate) const SPREAD: Self = Self::client_seq(1_024, 0).noted(" drawn");
    pub(crate) const ETCD_SEQ: Self = Self::client_seq(64, 64).noted(", one node over etcd");
    pub(crate) const PUTS: Self = Self::other("puts into etcd, one after the other");
    pub(crate) const REDIS: Self =
        Self::other("Redis, `appendfsync always`, INCR, 256 connections");
    pub(crate) const REDIS_BESIDE: Self = Self::client_seq(1_024, 1_000).noted(", beside Redis");
    pub(crate) const PUBLIC: Self = Self::other("the public client and server, 1024 callers");
    pub(crate) const PUBLIC_BESIDE: Self =
        Self::client_ts(1_024).noted(", beside the public client and server");

    const fn new(kind: Kind, callers: u32, connections: u32, keys: u64) -> Self {
        Self { kind, callers, connections, keys, note: ("", "") }
    }

    const fn noted(self, note: &'static str) -> Self {
        Self { note: (note, ""), ..self }
    }

    const fn other(name: &'static str) -> Self {
        Self::new(Kind::Other, 1, 1, 1).noted(name)
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
        Self { note: (", three nodes of ", driver), ..Self::client_seq(64, 64) }
    }

    pub(crate) const fn beside_cluster(driver: &'static str) -> Self {
        Self { note: (", one node beside ", driver), ..Self::client_seq(64, 64) }
    }

    /// In words.
    pub(crate) fn name(self) -> String {
        let plural = |count: u32| if count == 1 { "" } else { "s" };
        let Self { kind, callers, connections, keys, note: (note, of) } = self;
        let keys = match keys {
            0 => "all keys of a large store".into(),
            1 => "1 key".into(),
            _ => format!("{keys} keys"),
        };
        let spread = format!(
            "{callers} caller{}, {connections} connection{}",
            plural(callers),
            plural(connections)
        );
        let what = match kind {
            Kind::Disk => "bare append and fdatasync".into(),
            Kind::Echo => format!("unary echo, {spread}"),
            Kind::UnaryTs => format!("GetTs, unary, {spread}"),
            Kind::ClientTs => format!("`get_ts`, {spread}"),
            Kind::UnarySeq => format!("GetSeq, unary, {spread}, {keys}"),
            Kind::ClientSeq => format!("`get_seq`, {spread}, {keys}"),
            Kind::Other => String::new(),
        };
        format!("{what}{note}{of}")
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
        let echoes = self.0.iter();
        for (_, runs) in
            echoes.filter(|(spec, _)| spec.kind == Kind::Echo && spec.note.0.is_empty())
        {
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
