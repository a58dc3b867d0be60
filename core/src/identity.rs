use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// The longest name of an identity, in bytes.
pub const MAX_IDENTITY_BYTES: usize = 128;

/// Who a client has proven to be: 1 to 128 bytes of text in one line. Cloning it is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity(Arc<str>);

impl Identity {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// `Invalid` if it is empty, too long, or could not be printed in one line.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        match name.len() {
            0 => invalid("the name of an identity must not be empty".into()),
            1..=MAX_IDENTITY_BYTES if name.contains(char::is_control) || name.trim() != name => {
                invalid(format!(
                    "{name:?} is no name of an identity: it must be a plain text in one line"
                ))
            }
            1..=MAX_IDENTITY_BYTES => Ok(Self(name.into())),
            bytes => invalid(format!(
                "the name of an identity has at most {MAX_IDENTITY_BYTES} bytes, this one has {bytes}"
            )),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Identity {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.as_str().into()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_text_in_one_line() {
        for name in ["billing", "spiffe://house/billing", "CN=Jürgen", &"n".repeat(128)] {
            assert_eq!(Identity::new(name).unwrap().as_str(), name);
        }
        for name in ["", " a", "a ", "a\nb", "a\u{1b}[31m", &"n".repeat(129)] {
            assert!(Identity::new(name).is_err(), "{name:?}");
        }
    }
}
