//! The state of one version, made of the parts of a copy that was taken while the state changed.
//!
//! A copy has pages, each of a version of its own, and every commit from before the first page to the version that it
//! ends with. What a key holds at that version is what the last commit has written to it, if any has, and what its
//! page shows otherwise:
//!
//! - A commit after the page's version is later than the page, so the last one of these counts, if there is one.
//! - A commit up to the page's version may be there as well, since a read can show it before it is passed on. The
//!   last one that wrote the key wrote what the page shows. So it does no harm to write it once more, as long as
//!   none is left out after it, up to the page's version: writes are absolute.
//!
//! What a commit writes to keys that no page has covered yet is left out. The page that will cover them is read after
//! the commit was stored, so it is of its version or a later one and shows what it wrote, or what came later.
//!
//! Both need the chain of commits to be whole, which is checked by their versions: each is on the one before it, the
//! first page is not older than the base of the first, no page is older than a commit that came before it, and the
//! last commit is not older than any page. Names are compared wherever numbers are the same.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
};

use crate::{
    CopiedCommit, CopyPart, Entry, Epoch, Error, ErrorKind, Result, Version,
    state::{META, Record},
};

/// How many bytes of changes are kept in memory. Beyond, they are put on disk.
const MOST_BYTES: usize = 64 << 20;

/// What an entry of a map takes besides its bytes, about.
const ENTRY_BYTES: usize = 96;

/// What was written to a key: a value, or nothing if it was deleted.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// Makes temporary files without a name, which are deleted when the process ends.
type NewFile = Box<dyn FnMut() -> io::Result<File> + Send>;

/// Puts the parts of a copy together, on disk where they are large.
pub struct Assembly {
    new_file: NewFile,
    most_bytes: usize,
    pages: BufWriter<File>,
    /// Changes on disk, the oldest first, each in the order of keys.
    runs: Vec<File>,
    /// The newest changes.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    chain: Chain,
    through: Vec<u8>,
    counts: Option<Vec<u8>>,
    end: Option<(Version, Epoch)>,
}

/// What is known of the versions of a copy.
#[derive(Default, Debug)]
struct Chain {
    first_page: Option<Version>,
    newest_page: Option<Version>,
    newest_commit: Option<Version>,
    /// Pages that are newer than all commits so far.
    ahead: Vec<Version>,
}

/// A whole state, of one version.
#[derive(Debug)]
pub struct Assembled {
    /// The version.
    pub version: Version,
    /// The epoch of the leader that it was taken from.
    pub epoch: Epoch,
    /// The version of the rules that it is under.
    pub rules: u32,
    /// The pages, then the changes from the oldest to the newest.
    sources: Vec<Source>,
}

impl Assembly {
    /// Nothing yet. `new_file` makes files that are gone when they are closed.
    ///
    /// # Errors
    /// `Fatal` if there can be no such file.
    pub fn new(new_file: impl FnMut() -> io::Result<File> + Send + 'static) -> Result<Self> {
        Self::with_memory(new_file, MOST_BYTES)
    }

    /// As [`new`](Self::new), with that many bytes of changes in memory.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_memory(
        new_file: impl FnMut() -> io::Result<File> + Send + 'static,
        most_bytes: usize,
    ) -> Result<Self> {
        let mut new_file: NewFile = Box::new(new_file);
        let pages = BufWriter::new(new_file().map_err(broken)?);
        Ok(Self {
            new_file,
            most_bytes,
            pages,
            runs: vec![],
            changes: BTreeMap::new(),
            bytes: 0,
            chain: Chain::default(),
            through: vec![],
            counts: None,
            end: None,
        })
    }

    /// Takes the next part of the copy.
    ///
    /// # Errors
    /// `Corrupt` for one that does not follow those before it; `Fatal` if it cannot be put on disk.
    pub fn add(&mut self, part: CopyPart) -> Result<()> {
        if self.end.is_some() {
            return Err(wrong("something follows its end"));
        }
        match part {
            CopyPart::Page { version, entries, through } => self.page(version, entries, through),
            CopyPart::Commits(commits) => {
                commits.into_iter().try_for_each(|commit| self.commit(commit))
            }
            CopyPart::End { version, epoch } => {
                self.chain.end(version)?;
                self.end = Some((version, epoch));
                Ok(())
            }
        }
    }

    fn page(&mut self, version: Version, entries: Vec<Entry>, through: Vec<u8>) -> Result<()> {
        self.chain.page(version)?;
        for (key, value) in entries {
            if key < self.through || key >= through {
                return Err(wrong("a page has keys that are not its own"));
            }
            if key == META {
                self.counts = Some(value.clone());
            }
            write_change(&mut self.pages, &key, Some(&value)).map_err(broken)?;
            self.through = [&key[..], &[0]].concat();
        }
        self.through = through;
        Ok(())
    }

    fn commit(&mut self, commit: CopiedCommit) -> Result<()> {
        let CopiedCommit { base, version, writes } = commit;
        self.chain.commit(base, version)?;
        for (key, value) in writes {
            if key >= self.through {
                continue;
            }
            if key == META {
                self.counts.clone_from(&value);
            }
            let size = key.len() + value.as_ref().map_or(0, Vec::len) + ENTRY_BYTES;
            self.bytes += size;
            if let Some(Some(before)) = self.changes.insert(key, value) {
                self.bytes = self.bytes.saturating_sub(before.len());
            }
        }
        if self.bytes > self.most_bytes { self.put_away() } else { Ok(()) }
    }

    /// Puts the changes on disk.
    fn put_away(&mut self) -> Result<()> {
        let mut run = BufWriter::new((self.new_file)().map_err(broken)?);
        for (key, value) in &self.changes {
            write_change(&mut run, key, value.as_deref()).map_err(broken)?;
        }
        self.runs.push(run.into_inner().map_err(|error| broken(error.into_error()))?);
        self.changes.clear();
        self.bytes = 0;
        Ok(())
    }

    /// The whole state, once its end was added.
    ///
    /// # Errors
    /// `Corrupt` if it was not; `Fatal` if it cannot be read from disk.
    pub fn finish(mut self) -> Result<Assembled> {
        let Some((version, epoch)) = self.end else { return Err(wrong("its end is missing")) };
        if !self.changes.is_empty() {
            self.put_away()?;
        }
        let pages = self.pages.into_inner().map_err(|error| broken(error.into_error()))?;
        let files = [pages].into_iter().chain(self.runs);
        let sources = files.map(Source::open).collect::<io::Result<_>>().map_err(broken)?;
        let rules = match self.counts.map(|counts| Record::decode(META, counts)).transpose()? {
            Some(Record::Meta(counts)) => counts.rules,
            _ => 0,
        };
        Ok(Assembled { version, epoch, rules, sources })
    }
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembly").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Assembled {
    /// The next entry, in the order of keys; nothing after the last one.
    ///
    /// # Errors
    /// `Fatal` if it cannot be read from disk.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            let keys = self.sources.iter().filter_map(|source| source.next.as_ref());
            let Some(key) = keys.map(|(key, _)| key).min().cloned() else { return Ok(None) };
            let mut newest = None;
            for source in &mut self.sources {
                if source.next.as_ref().is_some_and(|(next, _)| *next == key) {
                    newest = source.advance().map_err(broken)?;
                }
            }
            if let Some((key, Some(value))) = newest {
                return Ok(Some((key, value)));
            }
        }
    }
}

impl Chain {
    fn page(&mut self, version: Version) -> Result<()> {
        let before = [self.newest_page, self.newest_commit].into_iter().flatten();
        for before in before {
            if version.position() < before.position() {
                return Err(wrong("a page is older than what came before it"));
            }
            self.same(version, before)?;
        }
        let first = *self.first_page.get_or_insert(version);
        if first.era != version.era {
            return Err(wrong("it is of two eras"));
        }
        self.newest_page = Some(version);
        let is_ahead =
            self.newest_commit.is_none_or(|commit| version.position() > commit.position());
        if is_ahead && self.ahead.last() != Some(&version) {
            self.ahead.push(version);
        }
        Ok(())
    }

    fn commit(&mut self, base: Version, version: Version) -> Result<()> {
        if version.era != base.era || version.number != base.number.saturating_add(1) {
            return Err(wrong("a commit is not on the version before its own"));
        }
        match (self.newest_commit, self.first_page) {
            (Some(before), _) if before != base => return Err(wrong("a commit is missing")),
            (None, Some(first)) if first.position() < base.position() => {
                return Err(wrong("the first commits are missing"));
            }
            (None, Some(first)) => self.same(first, base)?,
            _ => {}
        }
        self.newest_commit = Some(version);
        while let Some(page) = self.ahead.first().copied() {
            if page.position() > version.position() {
                break;
            }
            self.same(page, version)?;
            self.ahead.remove(0);
        }
        Ok(())
    }

    fn end(&self, version: Version) -> Result<()> {
        let Some(first) = self.first_page else { return Err(wrong("it has no pages")) };
        let is_whole = match self.newest_commit {
            Some(commit) => commit == version && self.ahead.is_empty(),
            None => self.newest_page == Some(first) && first == version,
        };
        if is_whole { Ok(()) } else { Err(wrong("the last commits are missing")) }
    }

    /// Versions at one place of one history are the same.
    fn same(&self, one: Version, other: Version) -> Result<()> {
        match one.position() == other.position() && one != other {
            true => Err(wrong("it is of two histories")),
            false => Ok(()),
        }
    }
}

/// Entries or changes on disk, in the order of keys.
#[derive(Debug)]
struct Source {
    file: BufReader<File>,
    next: Option<Change>,
}

impl Source {
    fn open(mut file: File) -> io::Result<Self> {
        file.rewind()?;
        let mut source = Self { file: BufReader::new(file), next: None };
        source.advance()?;
        Ok(source)
    }

    /// Goes on to the next one, and returns that before it.
    fn advance(&mut self) -> io::Result<Option<Change>> {
        let next = read_change(&mut self.file)?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

/// As the length of the key, the length of the value and one, or 0 for none, and both.
fn write_change(output: &mut impl Write, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
    let lengths = [key.len() as u64, value.map_or(0, |value| value.len() as u64 + 1)];
    lengths.iter().try_for_each(|length| output.write_all(&length.to_be_bytes()))?;
    output.write_all(key)?;
    output.write_all(value.unwrap_or_default())
}

fn read_change(input: &mut impl Read) -> io::Result<Option<Change>> {
    let mut head = Vec::with_capacity(16);
    if input.by_ref().take(16).read_to_end(&mut head)? == 0 {
        return Ok(None);
    }
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let head: [u8; 16] = head.try_into().map_err(|_| short())?;
    let mut lengths = head
        .chunks_exact(8)
        .map(|length| length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let (key, value) = (lengths.next().unwrap_or_default(), lengths.next().unwrap_or_default());
    let mut take = |length: u64| {
        let mut bytes = vec![];
        match input.by_ref().take(length).read_to_end(&mut bytes)? as u64 == length {
            true => Ok(bytes),
            false => Err(short()),
        }
    };
    let key = take(key)?;
    let value = match value.checked_sub(1) {
        Some(length) => Some(take(length)?),
        None => None,
    };
    Ok(Some((key, value)))
}

fn wrong(what: &str) -> Error {
    let context =
        format!("what the server sent makes no whole state: {what}; take the backup again");
    Error::new(ErrorKind::Corrupt, context)
}

fn broken(source: io::Error) -> Error {
    Error::new(ErrorKind::Fatal, "the parts of the backup cannot be put on disk")
        .with_source(source)
}
