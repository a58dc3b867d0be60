use std::{fmt, fs::File, io::Read as _, path::PathBuf, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tsoracle_core::{Error, Result};

/// What a file is read up to. A bundle with every authority of a browser is a fifth of it.
const MAX_BYTES: u64 = 1 << 20;

/// Where a text in PEM comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, which may change.
    File(PathBuf),
    /// Memory.
    Memory {
        /// The text.
        text: Arc<[u8]>,
        /// What to call it when it is wrong.
        name: &'static str,
    },
}

impl Source {
    /// A text in memory, and what to call it when it is wrong.
    pub fn memory(text: impl Into<Vec<u8>>, name: &'static str) -> Self {
        Self::Memory { text: text.into().into(), name }
    }

    pub(crate) fn read(&self) -> Result<Pem> {
        let bytes = match self {
            Self::Memory { text, .. } => text.to_vec(),
            Self::File(path) => {
                let mut bytes = Vec::new();
                let read = File::open(path)
                    .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
                read.map_err(|source| {
                    Error::setting(format!("cannot read {self}")).with_source(source)
                })?;
                if bytes.len() as u64 > MAX_BYTES {
                    return Err(Error::setting(format!(
                        "{self} has more than {MAX_BYTES} bytes, so it is not a file of certificates or keys"
                    )));
                }
                bytes
            }
        };
        Ok(Pem { bytes, origin: self.to_string() })
    }

    /// Whether it is a file that every user of the machine may read.
    pub(crate) fn is_readable_by_all(&self) -> bool {
        match self {
            #[cfg(unix)]
            Self::File(path) => {
                use std::os::unix::fs::PermissionsExt as _;
                let metadata = std::fs::metadata(path);
                metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory { name, .. } => f.write_str(name),
        }
    }
}

/// Keys never show.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// A text in PEM, and what to call it when it is wrong.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    pub(crate) bytes: Vec<u8>,
    pub(crate) origin: String,
}

impl Pem {
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let found = CertificateDer::pem_slice_iter(&self.bytes).collect::<Result<Vec<_>, _>>();
        match found {
            Ok(found) if found.is_empty() => Err(self.refused(&"it holds no certificate in PEM")),
            Ok(found) => Ok(found),
            Err(error) => Err(self.refused(&error)),
        }
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| self.refused(&error))
    }

    pub(crate) fn refused(&self, reason: &dyn fmt::Display) -> Error {
        Error::setting(format!("{} cannot be used for TLS: {reason}", self.origin))
    }
}
