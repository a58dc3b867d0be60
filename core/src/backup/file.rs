//! The format of backup files. All numbers are big-endian.
//!
//! ```text
//! file   = magic (16 bytes), format (4 bytes), header, entries…, end
//! part   = kind (1 byte), length (4), content, CRC-32C of all before it in the part (4)
//! header = what the backup is of, in postcard
//! entries = key length (4), key, value length (4), value, …; in the order of keys, over all parts
//! end    = number of entries (8), SHA-256 of everything before this part (32)
//! ```
//!
//! The checksums show whether the file is damaged, and where. They are no signature: anybody who can write the file
//! can make another one that passes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::contents::{Contents, Inspector, corrupt};
use crate::{Entry, Epoch, Error, ErrorKind, NodeId, Result, Version, state::RULES};

const MAGIC: &[u8; 16] = b"tsoracle backup\n";

/// The format that is written, and the only one so far.
const FORMAT: u32 = 1;

const HEADER: u8 = 1;
const ENTRIES: u8 = 2;
const END: u8 = 3;

/// How many bytes of entries a part has, about.
const PART_BYTES: usize = 256 << 10;

/// How long a part may be at most. Nothing is as long that was ever written.
const MOST_PART_BYTES: u32 = 64 << 20;

/// What a backup is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The product and its release that made the file.
    pub product: String,
    /// Where the state was: the driver, or the server.
    pub source: String,
    /// The node that it was read from, if that was stopped.
    pub node: Option<NodeId>,
    /// The version of the state.
    pub version: Version,
    /// The epoch of its last reign.
    pub epoch: Epoch,
    /// The version of the rules that the state is under.
    pub rules: u32,
    /// When it was taken, in milliseconds since 1970, by the clock of who took it.
    pub taken_ms: u64,
}

impl BackupHeader {
    /// Whether the state is under rules that this release does not know.
    pub const fn is_newer(&self) -> bool {
        self.rules > RULES
    }
}

/// Writes a backup.
#[derive(Debug)]
pub struct BackupWriter<W> {
    output: W,
    digest: Sha256,
    part: Vec<u8>,
    inspector: Inspector,
    entries: u64,
}

impl<W: Write> BackupWriter<W> {
    /// Begins a backup.
    ///
    /// # Errors
    /// `Fatal` if it cannot be written.
    pub fn new(output: W, header: &BackupHeader) -> Result<Self> {
        let inspector = Inspector::new(header.rules);
        let mut writer =
            Self { output, digest: Sha256::new(), part: vec![], inspector, entries: 0 };
        writer.write(MAGIC)?;
        writer.write(&FORMAT.to_be_bytes())?;
        let header = postcard::to_stdvec(header).map_err(|source| {
            Error::new(ErrorKind::Fatal, "a backup's header cannot be encoded").with_source(source)
        })?;
        writer.write_part(HEADER, &header)?;
        Ok(writer)
    }

    /// Adds an entry behind all before it.
    ///
    /// # Errors
    /// `Fatal` if it cannot be written; `Corrupt` for one that no state has there.
    pub fn put(&mut self, entry: &Entry) -> Result<()> {
        self.inspector.look_at(entry)?;
        self.entries += 1;
        for bytes in [&entry.0, &entry.1] {
            let length = u32::try_from(bytes.len()).map_err(|_| corrupt("an entry is too long"))?;
            self.part.extend_from_slice(&length.to_be_bytes());
            self.part.extend_from_slice(bytes);
        }
        if self.part.len() >= PART_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Ends the backup, and returns what it was written to.
    ///
    /// # Errors
    /// `Fatal` if it cannot be written; `Corrupt` if the entries do not make a whole state.
    pub fn finish(mut self) -> Result<(W, Contents)> {
        self.flush()?;
        let mut end = self.entries.to_be_bytes().to_vec();
        end.extend_from_slice(&self.digest.clone().finalize());
        self.write_part(END, &end)?;
        self.output.flush().map_err(unwritable)?;
        let contents = self.inspector.finish()?;
        Ok((self.output, contents))
    }

    fn flush(&mut self) -> Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let mut part = std::mem::take(&mut self.part);
        self.write_part(ENTRIES, &part)?;
        part.clear();
        self.part = part;
        Ok(())
    }

    fn write_part(&mut self, kind: u8, content: &[u8]) -> Result<()> {
        let length = u32::try_from(content.len()).map_err(|_| corrupt("a part is too long"))?;
        let head = [&[kind][..], &length.to_be_bytes()].concat();
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head), content);
        self.write(&head)?;
        self.write(content)?;
        self.write(&sum.to_be_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.digest.update(bytes);
        self.output.write_all(bytes).map_err(unwritable)
    }
}

/// Reads a backup, and checks everything that can be checked: what it returns counts once it has come to its end.
#[derive(Debug)]
pub struct BackupReader<R> {
    parts: Parts<R>,
    header: BackupHeader,
    entries: u64,
    /// Until the end was read.
    inspector: Option<Inspector>,
    contents: Option<Contents>,
}

impl<R: Read> BackupReader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// `Config` for what is no backup, or one that a newer release has made; `Corrupt` for a damaged one.
    pub fn new(mut input: R) -> Result<Self> {
        let mut start = Vec::new();
        let most = (MAGIC.len() + 4) as u64;
        input.by_ref().take(most).read_to_end(&mut start).map_err(unreadable)?;
        if start.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "the backup is cut short: it is empty"));
        }
        let length = start.len().min(MAGIC.len());
        if start[..length] != MAGIC[..length] {
            return Err(Error::new(ErrorKind::Config, "this is no backup of tsoracle"));
        }
        let Some(format) = start.get(MAGIC.len()..).and_then(|format| format.try_into().ok())
        else {
            return Err(cut_short(start.len() as u64));
        };
        let format = u32::from_be_bytes(format);
        if format != FORMAT {
            let made = if format > FORMAT { "was made by a newer release" } else { "is damaged" };
            let context = format!(
                "the backup {made}: it has format {format}, and this release reads {FORMAT}"
            );
            return Err(Error::new(ErrorKind::Config, context));
        }
        let mut parts = Parts { input, offset: start.len() as u64, digest: Sha256::new() };
        parts.digest.update(&start);
        let (kind, content) = parts.next()?;
        if kind != HEADER {
            return Err(corrupt("it does not begin with a header"));
        }
        let header: BackupHeader = postcard::from_bytes(&content)
            .map_err(|source| corrupt("its header cannot be read").with_source(source))?;
        let inspector = Some(Inspector::new(header.rules));
        Ok(Self { parts, header, entries: 0, inspector, contents: None })
    }

    /// What it is of.
    pub const fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// How much was read.
    pub const fn bytes(&self) -> u64 {
        self.parts.offset
    }

    /// What is in it, once the end was read.
    pub const fn contents(&self) -> Option<&Contents> {
        self.contents.as_ref()
    }

    /// The next entries; nothing at the end, which has been found whole then.
    ///
    /// # Errors
    /// `Corrupt` for a file that is cut short, damaged or altered; `Fatal` if it cannot be read.
    pub fn next_entries(&mut self) -> Result<Option<Vec<Entry>>> {
        let Some(inspector) = &mut self.inspector else { return Ok(None) };
        let before = self.parts.digest.clone();
        let (kind, content) = self.parts.next()?;
        match kind {
            ENTRIES => {
                let entries = entries(&content)?;
                entries.iter().try_for_each(|entry| inspector.look_at(entry))?;
                self.entries += entries.len() as u64;
                Ok(Some(entries))
            }
            END => {
                self.check_end(&content, before)?;
                self.contents = self.inspector.take().map(Inspector::finish).transpose()?;
                Ok(None)
            }
            _ => Err(corrupt(&format!("it has a part of the unknown kind {kind}"))),
        }
    }

    fn check_end(&mut self, end: &[u8], digest: Sha256) -> Result<()> {
        let Some((count, sum)) = end.split_first_chunk() else {
            return Err(corrupt("its end cannot be read"));
        };
        let count = u64::from_be_bytes(*count);
        if count != self.entries {
            let found = self.entries;
            return Err(corrupt(&format!("it has {found} entries, and its end says {count}")));
        }
        if digest.finalize()[..] != *sum {
            return Err(corrupt(
                "its digest is another one, so that it was altered after it was made",
            ));
        }
        match self.parts.input.by_ref().take(1).read_to_end(&mut vec![]).map_err(unreadable)? {
            0 => Ok(()),
            _ => Err(corrupt("something follows its end")),
        }
    }
}

/// Reads parts.
#[derive(Debug)]
struct Parts<R> {
    input: R,
    /// Where in the file.
    offset: u64,
    digest: Sha256,
}

impl<R: Read> Parts<R> {
    fn next(&mut self) -> Result<(u8, Vec<u8>)> {
        let at = self.offset;
        let head = self.take(5)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        if length > MOST_PART_BYTES {
            return Err(damaged_at(at));
        }
        let content = self.take(length)?;
        let sum = self.take(4)?;
        let expected = crc32c::crc32c_append(crc32c::crc32c(&head), &content);
        if sum != expected.to_be_bytes() {
            return Err(damaged_at(at));
        }
        Ok((head[0], content))
    }

    /// That many bytes. No room is made for more than there are.
    fn take(&mut self, length: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(length.into()).read_to_end(&mut bytes);
        read.map_err(unreadable)?;
        self.offset += bytes.len() as u64;
        if bytes.len() as u64 != u64::from(length) {
            return Err(cut_short(self.offset));
        }
        self.digest.update(&bytes);
        Ok(bytes)
    }
}

fn entries(mut content: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = vec![];
    while !content.is_empty() {
        let (key, rest) = text(content)?;
        let (value, rest) = text(rest)?;
        entries.push((key, value));
        content = rest;
    }
    Ok(entries)
}

fn text(content: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let split = content.split_first_chunk().and_then(|(length, rest)| {
        rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
    });
    let (text, rest) = split.ok_or_else(|| corrupt("an entry is longer than its part"))?;
    Ok((text.to_vec(), rest))
}

fn damaged_at(offset: u64) -> Error {
    corrupt(&format!("the part at byte {offset} is not what was written"))
}

fn cut_short(offset: u64) -> Error {
    let context =
        format!("the backup is cut short: it ends after {offset} bytes, before its end record");
    Error::new(ErrorKind::Corrupt, context)
}

fn unreadable(source: io::Error) -> Error {
    Error::new(ErrorKind::Fatal, "the backup cannot be read").with_source(source)
}

fn unwritable(source: io::Error) -> Error {
    Error::new(ErrorKind::Fatal, "the backup cannot be written").with_source(source)
}
