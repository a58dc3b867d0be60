use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use tsoracle_core::{Error, Identity, Result};

use super::{Audit, Policy, Right, Tokens, granted::Granted};

/// Who may do what at one address. All clones change together.
#[derive(Clone)]
pub struct Access {
    shared: Arc<Shared>,
    trust: Trust,
}

struct Shared {
    rules: ArcSwap<Rules>,
    /// How often the rules were replaced: what was worked out under others counts no more.
    generation: AtomicU64,
    audit: Audit,
    everything: Arc<Granted>,
    open: Arc<Granted>,
    everyday: Arc<Granted>,
}

/// What those may do at an address of whom no policy says anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Everything but what takes away others' leases, where there is no policy: for addresses that nobody else
    /// reaches.
    Open,
    /// What changes neither the cluster nor what belongs to others, where there is no policy.
    Everyday,
    /// Everything, for clients that prove nothing, and where there is no policy for all: for the address of
    /// administrators, whose reach is their proof.
    Administrators,
}

/// Everything that is written down about rights.
#[derive(Default, Debug)]
pub struct Rules {
    policy: Option<Policy>,
    tokens: Tokens,
}

impl Rules {
    /// A policy, and the tokens that prove the identities in it.
    ///
    /// # Errors
    /// `Config` if there are tokens, and no policy that says what they are good for.
    pub fn new(policy: Option<Policy>, tokens: Option<Tokens>) -> Result<Self> {
        match (policy, tokens) {
            (None, Some(_)) => Err(Error::setting(
                "tokens prove names, and without a policy that says what these may do they are good for nothing",
            )),
            (policy, tokens) => Ok(Self { policy, tokens: tokens.unwrap_or_default() }),
        }
    }

    pub(super) fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    pub(super) fn identity_of_token(&self, token: &[u8]) -> Option<&Identity> {
        self.tokens.identity(token)
    }

    /// The name by which the holder of all these goes: the first one of which the policy says anything, or else
    /// the first.
    pub(super) fn choose<'a>(&self, names: &'a [Identity]) -> Option<&'a Identity> {
        let listed = |name: &&Identity| {
            self.policy.as_ref().is_some_and(|policy| policy.lists(name.as_str()))
        };
        names.iter().find(listed).or(names.first())
    }
}

impl Access {
    /// Access by these rules, trusting nobody without a policy with more than [everyday calls](Trust::Everyday).
    pub fn new(rules: Rules, audit: Audit) -> Self {
        let of = |is_held: fn(&Right) -> bool| {
            Arc::new(Granted::of_rights(Right::ALL.into_iter().filter(is_held)))
        };
        let shared = Shared {
            rules: ArcSwap::from_pointee(rules),
            generation: AtomicU64::new(0),
            audit,
            everything: of(|_| true),
            open: of(|right| *right != Right::Release),
            everyday: of(|right| !right.is_administrative()),
        };
        Self { shared: Arc::new(shared), trust: Trust::Everyday }
    }

    /// The same rules, for an address that is trusted so.
    #[must_use]
    pub fn trusting(&self, trust: Trust) -> Self {
        Self { shared: self.shared.clone(), trust }
    }

    /// Replaces the rules: they hold for every call that begins from now on. That is on record.
    pub fn replace(&self, rules: Rules) {
        self.shared.rules.store(Arc::new(rules));
        self.shared.generation.fetch_add(1, Ordering::Release);
        self.shared.audit.reloaded(None);
    }

    /// The rules were to be replaced, and are not, for this reason. That is on record.
    pub fn not_replaced(&self, reason: &str) {
        self.shared.audit.reloaded(Some(reason));
    }

    pub(super) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    pub(super) fn rules(&self) -> Guard<Arc<Rules>> {
        self.shared.rules.load()
    }

    pub(super) fn trust(&self) -> Trust {
        self.trust
    }

    pub(super) fn audit(&self) -> &Audit {
        &self.shared.audit
    }

    /// What an identity may do, or one who has proven none.
    pub(super) fn granted(&self, rules: &Rules, identity: Option<&Identity>) -> Arc<Granted> {
        match (&rules.policy, self.trust) {
            (None, Trust::Administrators) => self.shared.everything.clone(),
            (Some(_), Trust::Administrators) if identity.is_none() => {
                self.shared.everything.clone()
            }
            (Some(policy), _) => policy.of(identity).clone(),
            (None, Trust::Open) => self.shared.open.clone(),
            (None, Trust::Everyday) => self.shared.everyday.clone(),
        }
    }
}

/// Everybody may do everything, as among the parts of one program.
impl Default for Access {
    fn default() -> Self {
        Self::new(Rules::default(), Audit::default()).trusting(Trust::Open)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("trust", &self.trust).finish_non_exhaustive()
    }
}
