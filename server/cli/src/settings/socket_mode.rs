use std::str::FromStr;

use serde::Deserialize;

/// The mode of a socket in the file system, written in octal, as `chmod` takes it.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "String")]
pub(crate) struct SocketMode(pub(crate) u32);

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o200 != 0 => Ok(Self(mode)),
            Ok(mode) if mode <= 0o777 => {
                Err(format!("{text} lets not even the owner connect; 600, for example, does"))
            }
            _ => Err(format!("{text:?} is no mode: three octal digits, such as 660")),
        }
    }
}

impl TryFrom<String> for SocketMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_octal_digits() {
        assert_eq!("660".parse(), Ok(SocketMode(0o660)));
        assert_eq!("0600".parse(), Ok(SocketMode(0o600)));
        for text in ["", "8", "rw", "1777", "-1", "0x1"] {
            assert!(text.parse::<SocketMode>().unwrap_err().contains("octal"), "{text}");
        }
        assert!("440".parse::<SocketMode>().unwrap_err().contains("owner"));
    }
}
