//! Tokens that prove identities: made, listed and revoked in the file that servers read them from.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use tempfile::NamedTempFile;
use tsoracle_core::{Clock as _, Identity, Random, SystemClock, Timestamp, sync_directory};
use tsoracle_server::{ANONYMOUS, TokenRecord};

use crate::{failure::Failure, output::Output, regular::has_regular};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle token new billing --tokens tokens     prints a token, once
  tsoracle token list --tokens tokens            whose there are, since when
  tsoracle token revoke billing --tokens tokens  all tokens of that identity
  tsoracle token revoke 3f9a01bc --tokens tokens  one of them, by its id

The file holds hashes: whoever reads it cannot use them. Give it to each node
(serve --tokens FILE); a server that runs takes up changes within seconds. A
client sends its token with --token-file, or as `authorization: Bearer TOKEN`.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a token that proves an identity, and print it: it cannot be shown again
    New(NewArguments),
    /// List the tokens there are: id, identity, and when they were made
    List(ListArguments),
    /// Remove tokens: those of an identity, or one by its id
    Revoke(RevokeArguments),
}

/// Where tokens are.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// The file of tokens, which servers read
    #[arg(long, value_name = "FILE", env = "TSORACLE_TOKENS")]
    tokens: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle token new`.
#[derive(Args, Debug)]
pub(crate) struct NewArguments {
    /// Whom it proves to be: a name of the policy
    #[arg(value_parser = identity)]
    name: Identity,

    #[command(flatten)]
    common: Common,
}

/// Options of `tsoracle token list`.
#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    common: Common,
}

/// Options of `tsoracle token revoke`.
#[derive(Args, Debug)]
pub(crate) struct RevokeArguments {
    /// The identity, or the id of one token
    which: String,

    #[command(flatten)]
    common: Common,
}

fn identity(text: &str) -> Result<Identity, String> {
    match text {
        ANONYMOUS => Err(format!("{ANONYMOUS} is the identity of those who prove none")),
        _ => Identity::new(text).map_err(|error| error.to_string()),
    }
}

#[derive(Serialize)]
struct Made<'a> {
    token: &'a str,
    #[serde(flatten)]
    listed: Listed<'a>,
}

#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    created: &'a str,
}

impl<'a> Listed<'a> {
    fn of(record: &'a TokenRecord) -> Self {
        Self { id: record.id(), name: &record.name, created: &record.created }
    }
}

#[derive(Serialize)]
struct Revoked {
    revoked: usize,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::New(NewArguments { name, common }) => new(&name, &common),
        Command::List(ListArguments { common }) => list(&common),
        Command::Revoke(RevokeArguments { which, common }) => revoke(&which, &common),
    }
}

fn new(name: &Identity, Common { tokens, output }: &Common) -> Result<(), Failure> {
    let mut records = read(tokens)?;
    let random = Random::default();
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&random.draw().to_be_bytes());
    bytes[16..].copy_from_slice(&random.draw().to_be_bytes());
    let now = Timestamp::from_parts(SystemClock.now().wall_ms, 0);
    let created = now.map(Timestamp::to_rfc3339).unwrap_or_default();
    let (token, record) = TokenRecord::new(name, bytes, created);
    records.push(record);
    write(tokens, &records)?;
    let record = records.last().map(Listed::of);
    let listed = record.ok_or_else(|| Failure::failed("the token is not in the file"))?;
    output.print(&Made { token: &token, listed }, || token.clone())
}

fn list(Common { tokens, output }: &Common) -> Result<(), Failure> {
    for record in &read(tokens)? {
        let listed = Listed::of(record);
        output.print(&listed, || format!("{}  {}  {}", listed.id, listed.created, listed.name))?;
    }
    Ok(())
}

fn revoke(which: &str, Common { tokens, output }: &Common) -> Result<(), Failure> {
    let records = read(tokens)?;
    let (gone, kept): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| record.name == which || record.id() == which);
    if gone.is_empty() {
        return Err(Failure::failed(format!(
            "there is no token of {which:?} in {}, and none of that id; see `tsoracle token list`",
            tokens.display()
        )));
    }
    write(tokens, &kept)?;
    let revoked = Revoked { revoked: gone.len() };
    output.print(&revoked, || match gone.len() {
        1 => "1 token revoked; servers take that up within seconds".into(),
        count => format!("{count} tokens revoked; servers take that up within seconds"),
    })
}

/// The tokens of a file; none if there is no such file.
fn read(path: &Path) -> Result<Vec<TokenRecord>, Failure> {
    let place = path.display();
    match fs::read_to_string(path) {
        Ok(text) => TokenRecord::read_all(&text)
            .map_err(|error| Failure::usage(format!("tokens {place}, {error:#}"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(Failure::failed(format!("cannot read {place}: {error:#}"))),
    }
}

/// Replaces the file as a whole, so that a server never reads half of one.
fn write(path: &Path, records: &[TokenRecord]) -> Result<(), Failure> {
    has_regular(path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let written = || {
        // Made with 0600.
        let mut file = NamedTempFile::new_in(directory)?;
        for record in records {
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_directory(&fs::File::open(directory)?)
    };
    written().map_err(|error: std::io::Error| {
        Failure::failed(format!("cannot write {}: {error:#}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tokens_is_private_and_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        assert_eq!(read(&path).unwrap(), []);
        let name = Identity::new("billing").unwrap();
        let (_, record) = TokenRecord::new(&name, [1; 32], "2026-01-01T00:00:00Z");
        let records = [record.clone(), record];
        write(&path, &records).unwrap();
        assert_eq!(read(&path).unwrap(), records);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(identity(ANONYMOUS).is_err());
        // A link is not replaced, nor what it leads to.
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("tokens", &link).unwrap();
        let refused = write(&link, &[]).unwrap_err().to_string();
        assert!(refused.contains("is a symbolic link"), "{refused}");
        assert!(link.is_symlink());
        assert_eq!(read(&path).unwrap(), records);
    }
}
