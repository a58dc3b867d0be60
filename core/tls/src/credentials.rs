use std::{fmt, path::PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tsoracle_core::Result;

use crate::{Source, pem::Pem, validity::Validity};

/// Where one end of a connection has from what it proves itself by, and what it trusts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sources {
    /// The certificates of the authorities that are trusted.
    pub authorities: Option<Source>,
    /// The own certificate chain, and its private key.
    pub identity: Option<(Source, Source)>,
}

impl Sources {
    /// All from files.
    pub fn files(authorities: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>) -> Self {
        Self {
            authorities: authorities.map(Source::File),
            identity: identity.map(|(chain, key)| (Source::File(chain), Source::File(key))),
        }
    }

    /// Reads all of it. What it is good for is not looked at.
    ///
    /// # Errors
    /// `Config`, naming the file that cannot be read.
    pub fn read(&self) -> Result<Credentials> {
        let identity = match &self.identity {
            Some((chain, key)) => Some((chain.read()?, key.read()?)),
            None => None,
        };
        let authorities = self.authorities.as_ref().map(Source::read).transpose()?;
        Ok(Credentials { authorities, identity })
    }

    /// The file with a private key that every user of the machine may read, if it is.
    pub(crate) fn open_key(&self) -> Option<&Source> {
        self.identity.as_ref().map(|(_, key)| key).filter(|key| key.is_readable_by_all())
    }
}

/// A certificate chain and its private key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What [`Sources`] held when they were read.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) authorities: Option<Pem>,
    pub(crate) identity: Option<(Pem, Pem)>,
}

impl Credentials {
    /// The certificates of the authorities; none if there are none to be trusted.
    ///
    /// # Errors
    /// `Config`, naming the file, if it holds none.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>> {
        self.authorities.as_ref().map_or(Ok(vec![]), Pem::certificates)
    }

    /// The same as text.
    pub fn authorities_pem(&self) -> Option<&[u8]> {
        self.authorities.as_ref().map(|pem| &*pem.bytes)
    }

    /// The own certificate, if there is one.
    ///
    /// # Errors
    /// `Config`, naming the file, if it holds none.
    pub fn own(&self) -> Result<Option<CertificateDer<'static>>> {
        let Some((chain, _)) = &self.identity else { return Ok(None) };
        Ok(chain.certificates()?.into_iter().next())
    }

    /// The own certificate chain and its private key as text.
    pub fn identity_pem(&self) -> Option<(&[u8], &[u8])> {
        self.identity.as_ref().map(|(chain, key)| (&*chain.bytes, &*key.bytes))
    }

    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        let Some((chain, key)) = &self.identity else { return Ok(None) };
        Ok(Some((chain.certificates()?, key.key()?)))
    }

    /// Checks that the certificates are valid when the wall clock shows this: the own one, and one of the
    /// authorities at least, since a file may hold an old one beside its successor.
    ///
    /// # Errors
    /// `Config`, with the file and the date, if they are not.
    pub fn check(&self, wall_ms: u64) -> Result<()> {
        if let (Some((chain, _)), Some(own)) = (&self.identity, self.own()?) {
            Validity::of(&own, &chain.origin)?.check(wall_ms)?;
        }
        let mut refused = None;
        for authority in self.of_authorities()? {
            match authority.check(wall_ms) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// How long the certificates are valid: all that are the own chain, and all authorities.
    pub(crate) fn validities(&self) -> Result<Vec<Validity>> {
        let mut all = match &self.identity {
            Some((chain, _)) => of_all(chain)?,
            None => vec![],
        };
        all.extend(self.of_authorities()?);
        Ok(all)
    }

    fn of_authorities(&self) -> Result<Vec<Validity>> {
        self.authorities.as_ref().map_or(Ok(vec![]), of_all)
    }
}

fn of_all(pem: &Pem) -> Result<Vec<Validity>> {
    pem.certificates()?.iter().map(|one| Validity::of(one, &pem.origin)).collect()
}

/// Keys never show.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authorities", &self.authorities.as_ref().map(|pem| &pem.origin))
            .field("identity", &self.identity.as_ref().map(|(chain, _)| &chain.origin))
            .finish()
    }
}
