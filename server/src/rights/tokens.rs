use std::{collections::HashMap, fmt::Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tsoracle_core::{Error, Identity, Result};

/// What every token begins with, so that it is known for one wherever it turns up.
const MARK: &str = "tso_";

/// How many random bytes a token has, written as two characters each.
const BYTES: usize = 32;

/// How many characters a token has.
pub const TOKEN_CHARS: usize = MARK.len() + 2 * BYTES;

/// A token as it is kept: its hash, so that whoever reads the file cannot use it. One line of JSON each.
///
/// A token is random and long, so that its plain SHA-256 tells nothing about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// The identity that it proves.
    pub name: String,
    /// SHA-256 of the token, in hexadecimal.
    pub sha256: String,
    /// When it was made, in RFC 3339.
    pub created: String,
}

impl TokenRecord {
    /// A token of these random bytes for an identity, and what is kept of it.
    pub fn new(name: &Identity, random: [u8; BYTES], created: impl Into<String>) -> (String, Self) {
        let token = format!("{MARK}{}", hex(&random));
        let sha256 = hex(&Sha256::digest(&token));
        (token, Self { name: name.as_str().into(), sha256, created: created.into() })
    }

    /// What names the token where it cannot be shown.
    pub fn id(&self) -> &str {
        self.sha256.get(..8).unwrap_or(&self.sha256)
    }

    /// Reads all tokens of a file.
    ///
    /// # Errors
    /// `Config`, naming the line.
    pub fn read_all(text: &str) -> Result<Vec<Self>> {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(number, line)| {
                let wrong = |reason: String| Error::setting(format!("line {number}: {reason}"));
                let record: Self =
                    serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
                Identity::new(record.name.clone()).map_err(|error| wrong(error.to_string()))?;
                match unhex(&record.sha256) {
                    Some(_) => Ok(record),
                    None => Err(wrong("sha256 is not 64 hexadecimal digits".into())),
                }
            })
            .collect()
    }
}

/// The tokens that prove identities.
#[derive(Default, Debug)]
pub struct Tokens(HashMap<[u8; 32], Identity>);

impl Tokens {
    /// Those of a file's records.
    ///
    /// # Errors
    /// `Config` if one has no name or hash.
    pub fn new(records: &[TokenRecord]) -> Result<Self> {
        let token = |record: &TokenRecord| {
            let hash = unhex(&record.sha256).ok_or_else(|| {
                Error::setting(format!("the token of {:?} has no hash", record.name))
            })?;
            Ok((hash, Identity::new(record.name.clone())?))
        };
        Ok(Self(records.iter().map(token).collect::<Result<_>>()?))
    }

    /// The names that they prove.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(Identity::as_str)
    }

    pub(super) fn identity(&self, token: &[u8]) -> Option<&Identity> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&hash)
    }
}

/// Why a text cannot be a token, if it cannot.
pub fn token_mistake(text: &str) -> Option<String> {
    let chars = text.chars().count();
    if chars != TOKEN_CHARS {
        return Some(format!("a token has {TOKEN_CHARS} characters, this one has {chars}"));
    }
    let digits = text.strip_prefix(MARK);
    match digits.and_then(unhex) {
        Some(_) => None,
        None => Some(format!("a token is {MARK} and {} hexadecimal digits", 2 * BYTES)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn billing() -> (String, TokenRecord) {
        TokenRecord::new(&Identity::new("billing").unwrap(), [7; 32], "2026-01-01T00:00:00Z")
    }

    #[test]
    fn a_token_proves_its_identity_and_its_record_does_not_show_it() {
        let (token, record) = billing();
        assert_eq!(token.len(), TOKEN_CHARS);
        assert_eq!(token_mistake(&token), None);
        let line = serde_json::to_string(&record).unwrap();
        assert!(!line.contains(&token[8..]), "{line}");
        let records = TokenRecord::read_all(&format!("\n{line}\n")).unwrap();
        assert_eq!(records, std::slice::from_ref(&record));
        let tokens = Tokens::new(&records).unwrap();
        assert_eq!(tokens.identity(token.as_bytes()).unwrap().as_str(), "billing");
        for wrong in [&token[..67], &token.to_uppercase(), record.sha256.as_str(), ""] {
            assert_eq!(tokens.identity(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_token_is_named() {
        assert!(token_mistake("tso_12").unwrap().contains("68 characters, this one has 6"));
        assert!(token_mistake(&"x".repeat(68)).unwrap().contains("tso_ and 64 hexadecimal"));
        assert!(token_mistake(&format!("tso_{}", "g".repeat(64))).is_some());
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_line() {
        let line = serde_json::to_string(&billing().1).unwrap();
        for (wrong, expected) in [
            ("nonsense".to_owned(), "line 2"),
            (line.replace("\"sha256\":\"", "\"sha256\":\"x"), "hexadecimal"),
            (line.replace("billing", ""), "must not be empty"),
            (line.replace("created", "creatd"), "line 2"),
        ] {
            let error = TokenRecord::read_all(&format!("{line}\n{wrong}")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
