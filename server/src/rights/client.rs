use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderValue, header};
use rustls_pki_types::CertificateDer;
use subtle::ConstantTimeEq;
use tonic::Status;
use tsoracle_core::{Caller, CallerId, CallerLimits, Error, ErrorKind, Identity, Oracle, Result};

use super::{
    ANONYMOUS, Access, Audit, Right, Trust, audit::Who, certificate, granted::Granted,
    token_mistake,
};
use crate::peer::Peer;

/// A connection, or what stands for one.
#[derive(Debug)]
pub(crate) struct Session {
    proof: Arc<Proof>,
    /// Who has made its last call, which is nearly always who makes the next one.
    seen: ArcSwapOption<Client>,
}

/// What is known of a connection's client before it says anything.
#[derive(Debug)]
struct Proof {
    access: Access,
    oracle: Oracle,
    peer: Option<Peer>,
    /// From its certificate.
    names: Vec<Identity>,
}

/// Who makes a call, and what it may do, as long as the rules do not change.
#[derive(Debug)]
pub(crate) struct Client {
    proof: Arc<Proof>,
    /// What the call itself has brought along.
    credential: Option<HeaderValue>,
    /// Of the rules.
    generation: u64,
    has_policy: bool,
    identity: Option<Identity>,
    granted: Arc<Granted>,
    caller: Option<Caller>,
}

impl Session {
    pub(crate) fn new(
        access: Access,
        oracle: Oracle,
        peer: Option<Peer>,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Self {
        let names = certificate.map(certificate::names).unwrap_or_default();
        let proof = Arc::new(Proof { access, oracle, peer, names });
        Self { proof, seen: ArcSwapOption::empty() }
    }

    /// Who makes a call with these headers.
    ///
    /// # Errors
    /// `Unauthenticated` for a token that is not known.
    #[inline]
    pub(crate) fn client(&self, headers: &HeaderMap) -> Result<Arc<Client>> {
        let credential = headers.get(header::AUTHORIZATION);
        match &*self.seen.load() {
            Some(seen) if seen.is_current() && is_same(seen.credential.as_ref(), credential) => {
                Ok(seen.clone())
            }
            _ => {
                let client = self.proof.client(credential)?;
                self.seen.store(Some(client.clone()));
                Ok(client)
            }
        }
    }

    /// Those at the address of the connection, for what nobody has proven to ask for.
    #[cold]
    pub(crate) fn anybody(&self) -> Option<Caller> {
        self.proof.caller(None, CallerLimits::NONE)
    }
}

impl Proof {
    #[cold]
    fn client(self: &Arc<Self>, credential: Option<&HeaderValue>) -> Result<Arc<Client>> {
        // Before the rules, so that newer ones are looked at again.
        let generation = self.access.generation();
        let rules = self.access.rules();
        let identity = match credential {
            Some(credential) if rules.has_policy() => {
                let token = bearer(credential);
                let known = token.and_then(|token| rules.identity_of_token(token));
                Some(known.ok_or_else(|| self.unknown(token))?)
            }
            _ => rules.choose(&self.names),
        };
        let granted = self.access.granted(&rules, identity);
        Ok(Arc::new(Client {
            proof: self.clone(),
            credential: credential.cloned(),
            generation,
            has_policy: rules.has_policy(),
            caller: self.caller(identity, granted.limits),
            identity: identity.cloned(),
            granted,
        }))
    }

    fn caller(&self, identity: Option<&Identity>, limits: CallerLimits) -> Option<Caller> {
        let caller = match (identity, self.peer) {
            (Some(identity), _) => {
                let caller = self.oracle.caller(CallerId::of_identity(identity));
                caller.with_identity(identity.clone())
            }
            (None, Some(peer)) => self.oracle.caller(peer.caller_id()),
            (None, None) => return None,
        };
        Some(match limits == CallerLimits::NONE {
            true => caller,
            false => caller.with_limits(limits),
        })
    }

    fn unknown(&self, token: Option<&[u8]>) -> Error {
        let mistake = token.map(|token| token_mistake(&String::from_utf8_lossy(token)));
        let context = match mistake {
            None => "the header `authorization` is not \"Bearer \" and a token".into(),
            Some(Some(mistake)) => mistake,
            Some(None) => {
                "this token is not known here: it was revoked, or is for another server".into()
            }
        };
        let error = Error::new(ErrorKind::Unauthenticated, context);
        let who = Who { identity: None, peer: self.peer };
        let status = Status::unauthenticated(error.to_string());
        self.access.audit().refused(who, "", "token", &status);
        error
    }
}

/// Compared in a time that tells nothing, since clients may share a connection behind a proxy.
fn is_same(seen: Option<&HeaderValue>, given: Option<&HeaderValue>) -> bool {
    match (seen, given) {
        (None, None) => true,
        (Some(seen), Some(given)) => seen.as_bytes().ct_eq(given.as_bytes()).into(),
        _ => false,
    }
}

fn bearer(credential: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = credential.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

impl Client {
    /// For shares.
    pub(crate) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    pub(crate) fn audit(&self) -> &Audit {
        self.proof.access.audit()
    }

    /// Whether the rules are still those that it was worked out under.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.generation == self.proof.access.generation()
    }

    /// The same client under the rules of today, for calls that last.
    ///
    /// # Errors
    /// `Unauthenticated` if its token is not good any more.
    pub(crate) fn renewed(&self) -> Result<Arc<Self>> {
        self.proof.client(self.credential.as_ref())
    }

    pub(crate) fn who(&self) -> Who<'_> {
        Who { identity: self.identity.as_ref(), peer: self.proof.peer }
    }

    /// Whether it may do something with everything there is.
    pub(crate) fn has(&self, right: Right) -> bool {
        self.granted.has(right)
    }

    /// Checks that it has one of these rights, before it is known which sequences are meant.
    ///
    /// # Errors
    /// `Unauthenticated` or `Denied`.
    #[inline]
    pub(crate) fn check(&self, rights: &[Right]) -> Result<()> {
        match rights.iter().any(|right| self.granted.has_any(*right)) {
            true => Ok(()),
            false => Err(self.denied(rights.first().copied().unwrap_or(Right::Status), None)),
        }
    }

    /// Checks a right for a sequence.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    #[inline]
    pub(crate) fn check_key(&self, right: Right, key: &str) -> Result<()> {
        match self.granted.has_for(right, key) {
            true => Ok(()),
            false => Err(self.denied(right, Some(key))),
        }
    }

    /// Counts requests against the rate of the identity.
    ///
    /// # Errors
    /// `Overloaded`.
    #[inline]
    pub(crate) fn count(&self, requests: usize) -> Result<()> {
        self.granted.count(requests)
    }

    #[cold]
    fn denied(&self, right: Right, key: Option<&str>) -> Error {
        let missing = match key {
            Some(key) => format!("the right {:?}", format!("{right}:{key}")),
            None => format!("the right {:?}", right.name()),
        };
        let elsewhere = match (self.proof.access.trust(), right.is_administrative()) {
            (Trust::Open | Trust::Everyday, true) if !self.has_policy => {
                "; that is for the admin address of the server (--admin-listen), or for an identity to which a policy \
                 gives the right"
            }
            _ => "",
        };
        match &self.identity {
            Some(identity) => {
                let context =
                    format!("identity {:?} lacks {missing}{elsewhere}", identity.as_str());
                Error::new(ErrorKind::Denied, context)
            }
            None => {
                let needed = "prove an identity that has it, by a certificate or a token";
                let context = format!("{ANONYMOUS} clients lack {missing}: {needed}{elsewhere}");
                Error::new(ErrorKind::Unauthenticated, context)
            }
        }
    }
}
