use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    num::NonZeroU32,
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use tsoracle_core::{CallerLimits, Error, Identity, MAX_KEY_BYTES, Result};

use super::{
    Right,
    granted::{Grant, Granted, Pattern},
};

/// The identity of those who prove none.
pub const ANONYMOUS: &str = "anonymous";

/// The roles that there are without being written down.
const ROLES: [(&str, &[Right]); 3] = [
    ("reader", &[Right::Status, Right::Read, Right::List]),
    ("client", &[Right::Status, Right::Read, Right::Ts, Right::Seq, Right::Lease]),
    ("admin", &Right::ALL),
];

/// A policy as it is written down.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Rights under a name, besides `reader`, `client` and `admin`.
    pub roles: BTreeMap<String, Vec<String>>,
    /// What each identity may do.
    pub identities: BTreeMap<String, IdentityConfig>,
}

/// What an identity may do: written as a list of roles and rights, or as a table with limits.
#[derive(Clone, Default, Debug)]
pub struct IdentityConfig {
    /// Roles, and rights.
    pub may: Vec<String>,
    /// What it may have at once, and how much of it there may be in a second.
    pub limits: IdentityLimits,
}

/// The limits of an identity; where one is missing there is none.
#[derive(Clone, Default, Debug)]
pub struct IdentityLimits {
    /// Requests a second, those of streams and batches included.
    pub rate: Option<NonZeroU32>,
    /// As in [`CallerLimits`].
    pub waiting: Option<usize>,
    /// As in [`CallerLimits`].
    pub keys: Option<u64>,
    /// As in [`CallerLimits`].
    pub sessions: Option<u64>,
    /// As in [`CallerLimits`].
    pub leases: Option<u64>,
    /// As in [`CallerLimits`].
    pub named: Option<u64>,
}

/// What each identity may do.
#[derive(Debug)]
pub struct Policy {
    listed: HashMap<String, Arc<Granted>>,
    anonymous: Arc<Granted>,
}

impl Policy {
    /// Works out a policy.
    ///
    /// # Errors
    /// `Config`, naming what is wrong: a role or a right that there is not, or sequences that are named twice.
    pub fn new(config: &PolicyConfig) -> Result<Self> {
        let mut roles: HashMap<&str, Vec<Grant>> = HashMap::new();
        for (name, rights) in ROLES {
            let grants = rights.iter().map(|right| Grant { right: *right, of: None });
            roles.insert(name, grants.collect());
        }
        for (name, rights) in &config.roles {
            let place = format!("role {name:?}");
            if Right::of_name(name).is_some() || roles.contains_key(&**name) {
                let context = format!(
                    "{place} of the policy: there is a role or a right of that name already; choose another name"
                );
                return Err(Error::setting(context));
            }
            let grants = rights.iter().map(|text| grant(text)).collect::<Result<Vec<_>, _>>();
            let grants = grants.map_err(|reason| wrong(&place, &reason))?;
            distinct(&grants).map_err(|reason| wrong(&place, &reason))?;
            roles.insert(name, grants);
        }
        let mut listed = HashMap::new();
        for (name, identity) in &config.identities {
            let place = format!("identity {name:?}");
            Identity::new(name.clone()).map_err(|error| wrong(&place, &error))?;
            let granted = identity.granted(&roles).map_err(|reason| wrong(&place, &reason))?;
            listed.insert(name.clone(), Arc::new(granted));
        }
        let nothing = || Arc::new(Granted::of_rights([]));
        let anonymous = listed.get(ANONYMOUS).cloned().unwrap_or_else(nothing);
        Ok(Self { listed, anonymous })
    }

    /// Whether somebody may change the cluster.
    pub fn has_admin(&self) -> bool {
        self.listed.values().any(|granted| granted.has(Right::Cluster))
    }

    /// Whether those who prove nothing may do anything.
    pub fn lets_anonymous_in(&self) -> bool {
        Right::ALL.into_iter().any(|right| self.anonymous.has_any(right))
    }

    /// Whether those who prove nothing may change the cluster, or what belongs to others.
    pub fn lets_anonymous_administrate(&self) -> bool {
        let mut rights = Right::ALL.into_iter().filter(|right| right.is_administrative());
        rights.any(|right| self.anonymous.has_any(right))
    }

    /// Whether it says anything of those who prove who they are.
    pub fn lists_identities(&self) -> bool {
        self.listed.keys().any(|name| name != ANONYMOUS)
    }

    /// Whether it says anything of an identity.
    pub fn lists(&self, identity: &str) -> bool {
        self.listed.contains_key(identity)
    }

    /// What an identity may do: as much as those who prove nothing, if it is not listed.
    pub(super) fn of(&self, identity: Option<&Identity>) -> &Arc<Granted> {
        identity.and_then(|identity| self.listed.get(identity.as_str())).unwrap_or(&self.anonymous)
    }
}

impl IdentityConfig {
    fn granted(&self, roles: &HashMap<&str, Vec<Grant>>) -> Result<Granted, String> {
        let mut grants = vec![];
        let mut own = vec![];
        for text in &self.may {
            match roles.get(&**text) {
                Some(role) => grants.extend_from_slice(role),
                None => own.push(grant(text).map_err(|reason| {
                    let mut names: Vec<_> = roles.keys().copied().collect();
                    names.sort_unstable();
                    format!("{reason}; the roles are {}", names.join(", "))
                })?),
            }
        }
        distinct(&own)?;
        grants.append(&mut own);
        let limits = &self.limits;
        let none = CallerLimits::NONE;
        let caller = CallerLimits {
            waiting: limits.waiting.unwrap_or(none.waiting),
            keys: limits.keys.unwrap_or(none.keys),
            sessions: limits.sessions.unwrap_or(none.sessions),
            leases: limits.leases.unwrap_or(none.leases),
            named: limits.named.unwrap_or(none.named),
        };
        Ok(Granted::new(&grants, caller, limits.rate))
    }
}

/// Reads a right: `ts`, `seq`, `seq:orders`, `seq:invoices/*`.
fn grant(text: &str) -> Result<Grant, String> {
    let (name, of) = match text.split_once(':') {
        Some((name, of)) => (name, Some(of)),
        None => (text, None),
    };
    let Some(right) = Right::of_name(name) else {
        let names: Vec<_> = Right::ALL.into_iter().map(Right::name).collect();
        return Err(format!("there is no right {text:?}; the rights are {}", names.join(", ")));
    };
    let of = match of {
        None => None,
        Some(_) if !right.takes_keys() => {
            return Err(format!(
                "{text:?}: the right {right} is not for single sequences; write {name:?}"
            ));
        }
        Some(of) => Some(pattern(right, text, of)?),
    };
    Ok(Grant { right, of })
}

fn pattern(right: Right, text: &str, of: &str) -> Result<Pattern, String> {
    let (stem, is_prefix) = match of.strip_suffix('*') {
        Some(stem) => (stem, true),
        None => (of, false),
    };
    if stem.contains('*') {
        return Err(format!("{text:?}: a star stands at the end, for all that begins so"));
    }
    if stem.len() > MAX_KEY_BYTES {
        return Err(format!("{text:?}: no key is longer than {MAX_KEY_BYTES} bytes"));
    }
    match (is_prefix, right) {
        (true, _) => Ok(Pattern::Prefix(stem.into())),
        (false, _) if stem.is_empty() => Err(format!("{text:?} names no sequence")),
        (false, Right::List) => {
            Err(format!("{text:?}: what is listed begins alike; write \"{text}*\""))
        }
        (false, _) => Ok(Pattern::Key(stem.into())),
    }
}

/// Refuses a list of which one entry says what another one says already.
fn distinct(grants: &[Grant]) -> Result<(), String> {
    for (at, one) in grants.iter().enumerate() {
        for (_, other) in grants.iter().enumerate().filter(|(other, _)| *other != at) {
            let covered = one.right == other.right
                && match (&one.of, &other.of) {
                    (None, _) => true,
                    (Some(one), Some(other)) => one.covers(other),
                    (Some(_), None) => false,
                };
            if covered {
                return Err(format!("{other} is part of {one} already; leave one of them out"));
            }
        }
    }
    Ok(())
}

fn wrong(place: &str, reason: &dyn fmt::Display) -> Error {
    Error::setting(format!("{place} of the policy: {reason}"))
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            None => write!(f, "{}", self.right),
            Some(Pattern::Key(key)) => write!(f, "{}:{key}", self.right),
            Some(Pattern::Prefix(prefix)) => write!(f, "{}:{prefix}*", self.right),
        }
    }
}

impl<'de> Deserialize<'de> for IdentityConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            may: Vec<String>,
            rate: Option<NonZeroU32>,
            waiting: Option<usize>,
            keys: Option<u64>,
            sessions: Option<u64>,
            leases: Option<u64>,
            named: Option<u64>,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = IdentityConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a list of roles and rights, or a table with that list as `may`, and limits",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut may = vec![];
                while let Some(text) = list.next_element()? {
                    may.push(text);
                }
                Ok(IdentityConfig { may, limits: IdentityLimits::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let Table { may, rate, waiting, keys, sessions, leases, named } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                let limits = IdentityLimits { rate, waiting, keys, sessions, leases, named };
                Ok(IdentityConfig { may, limits })
            }
        }

        from.deserialize_any(Either)
    }
}

#[cfg(test)]
#[path = "policy_test.rs"]
mod tests;
