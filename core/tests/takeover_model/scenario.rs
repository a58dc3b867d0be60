//! How large a state space to look through.

/// The nodes, their clocks and leases, and how often each thing may happen.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Per node, how many units its boot clock runs per tick of real time: 10 or 11.
    pub(crate) rates: Vec<u16>,
    /// Per node, its configured lease in units.
    pub(crate) leases: Vec<u16>,
    /// What the wall clock may say at a fence.
    pub(crate) wall_clocks: Vec<u8>,
    /// How many timestamps beyond its floor a fence reserves.
    pub(crate) headroom: u8,
    /// By how much an extension raises the ceiling; 0 only renews the lease.
    pub(crate) extension: u8,
    /// Whether nodes gather evidence about the writes they see.
    pub(crate) evidence: bool,
    pub(crate) budget: Budget,
}

/// How often each thing may still happen. It is part of the state, so that every bounded space is
/// looked through to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) ticks: u8,
    pub(crate) claims: u8,
    pub(crate) calls: u8,
    pub(crate) extensions: u8,
    pub(crate) releases: u8,
    pub(crate) crashes: u8,
    /// How often a node may give up on a commit, which may still land, and send another one.
    pub(crate) retries: u8,
    /// How often an operator may restore a backup and adopt it.
    pub(crate) adoptions: u8,
}

/// A lease that a slow clock sees valid one tick on, and that a fast one has waited out after two.
pub(crate) const SHORT_LEASE: u16 = 11;
/// The same with one tick more.
pub(crate) const LONG_LEASE: u16 = 21;

impl Scenario {
    /// Two nodes, the first with the slow clock, one take-over, and time enough to wait for it.
    pub(crate) fn two_nodes() -> Self {
        Self {
            rates: vec![10, 11],
            leases: vec![SHORT_LEASE; 2],
            wall_clocks: vec![0],
            headroom: 1,
            extension: 1,
            evidence: false,
            budget: Budget {
                ticks: 2,
                claims: 2,
                calls: 2,
                extensions: 0,
                releases: 0,
                crashes: 0,
                retries: 0,
                adoptions: 0,
            },
        }
    }

    /// Three nodes, each of which may lead once.
    pub(crate) fn three_nodes() -> Self {
        Self { rates: vec![10, 11, 10], leases: vec![SHORT_LEASE; 3], ..Self::two_nodes() }
            .claims(3)
    }

    pub(crate) fn ticks(mut self, ticks: u8) -> Self {
        self.budget.ticks = ticks;
        self
    }

    pub(crate) fn claims(mut self, claims: u8) -> Self {
        self.budget.claims = claims;
        self
    }

    pub(crate) fn calls(mut self, calls: u8) -> Self {
        self.budget.calls = calls;
        self
    }

    pub(crate) fn extensions(mut self, extensions: u8) -> Self {
        self.budget.extensions = extensions;
        self
    }

    pub(crate) fn releases(mut self, releases: u8) -> Self {
        self.budget.releases = releases;
        self
    }

    pub(crate) fn crashes(mut self, crashes: u8) -> Self {
        self.budget.crashes = crashes;
        self
    }

    pub(crate) fn retries(mut self, retries: u8) -> Self {
        self.budget.retries = retries;
        self
    }

    pub(crate) fn adoptions(mut self, adoptions: u8) -> Self {
        self.budget.adoptions = adoptions;
        self
    }

    pub(crate) fn evidence(self) -> Self {
        Self { evidence: true, ..self }
    }

    /// Extensions renew the lease and leave the high-water as it is.
    pub(crate) fn bare_renewals(self) -> Self {
        Self { extension: 0, ..self }
    }

    pub(crate) fn headroom(self, headroom: u8) -> Self {
        Self { headroom, ..self }
    }

    pub(crate) fn leases(self, leases: &[u16]) -> Self {
        Self { leases: leases.to_vec(), ..self }
    }

    pub(crate) fn rates(self, rates: &[u16]) -> Self {
        Self { rates: rates.to_vec(), ..self }
    }

    pub(crate) fn wall_clocks(self, wall_clocks: &[u8]) -> Self {
        Self { wall_clocks: wall_clocks.to_vec(), ..self }
    }
}
