//! A state as a row of chunks, to be kept in a file, sent to another node, and installed there.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, Write},
    path::Path,
    sync::Arc,
};

use tsoracle_core::{Entry, Error, ErrorKind, Result, VERSION, Version};
use tsoracle_store::StateView;

use crate::{entry::MAX_KEY_BYTES, leaps::MAX_NUMBER};

/// What a snapshot's first chunk begins with, the format last.
pub(crate) const MAGIC: &[u8] = b"tsoracle snapshot 1\n";
const FORMAT: u64 = 1;

/// The format of a snapshot that begins so, whether this release reads it or not.
fn format(magic: &[u8]) -> Option<u64> {
    let number = str::from_utf8(magic).ok()?.strip_prefix("tsoracle snapshot ")?;
    number.strip_suffix('\n')?.parse().ok()
}

/// Entries of one chunk, at most. They are read with one scan.
const CHUNK_ENTRIES: usize = 1_000;

/// Bytes after which a chunk ends; one entry may go beyond.
const CHUNK_BYTES: usize = 512 << 10;

/// No chunk is larger: an entry is at most some 100 KiB.
const MAX_CHUNK_BYTES: usize = 2 << 20;

/// The chunks of a state: the first names the format and holds `header`, which says what the driver
/// wants to know of it; the last is empty of entries and holds their number.
#[derive(Debug)]
pub struct Chunks {
    view: StateView,
    header: Option<Vec<u8>>,
    /// Where the next chunk begins; nothing after the last one.
    next: Option<Vec<u8>>,
    entries: u64,
}

impl Chunks {
    /// The chunks of the state behind `view`.
    pub(crate) fn new(view: StateView, header: &[u8]) -> Self {
        Self { view, header: Some(header.into()), next: Some(vec![]), entries: 0 }
    }

    /// How far the state has applied the log, in the terms of the driver.
    pub fn applied(&self) -> &[u8] {
        self.header.as_deref().unwrap_or_default()
    }

    fn make(&mut self, from: Vec<u8>) -> Result<Vec<u8>> {
        let mut entries = self.view.entries(&from, &[u8::MAX; 1_024], CHUNK_ENTRIES)?;
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|(key, value)| {
            let fits = bytes < CHUNK_BYTES;
            bytes += key.len() + value.len();
            fits
        });
        let fitting = fitting.count();
        entries.truncate(fitting);
        let Some((last, _)) = entries.last() else {
            return encode(&Chunk::End { entries: self.entries });
        };
        self.next = Some([last, &[0][..]].concat());
        self.entries += entries.len() as u64;
        encode(&Chunk::Entries(entries))
    }
}

impl Iterator for Chunks {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(header) = self.header.take() {
            return Some(encode(&Chunk::Begin { magic: MAGIC.into(), header }));
        }
        let from = self.next.take()?;
        Some(self.make(from))
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) enum Chunk {
    Begin { magic: Vec<u8>, header: Vec<u8> },
    Entries(Vec<Entry>),
    End { entries: u64 },
}

/// A checksum, then the chunk.
pub(crate) fn encode(chunk: &Chunk) -> Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(chunk, vec![0; 4]).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot encode a chunk of a snapshot").with_source(source)
    })?;
    let checksum = crc32c::crc32c(&bytes[4..]).to_le_bytes();
    bytes[..4].copy_from_slice(&checksum);
    Ok(bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Chunk> {
    let chunk = bytes.split_first_chunk::<4>().and_then(|(checksum, chunk)| {
        (crc32c::crc32c(chunk) == u32::from_le_bytes(*checksum)).then_some(chunk)
    });
    let chunk = chunk.ok_or_else(|| damaged("a chunk fails its checksum"))?;
    postcard::from_bytes(chunk).map_err(|_| damaged("a chunk cannot be read"))
}

/// The header in a snapshot's first chunk.
///
/// # Errors
/// `Corrupt` if it is no snapshot of this format.
pub fn header(first: &[u8]) -> Result<Vec<u8>> {
    match decode(first)? {
        Chunk::Begin { magic, header } if magic == MAGIC => Ok(header),
        Chunk::Begin { magic, .. } => Err(match format(&magic) {
            Some(found) if found != FORMAT => Error::unknown_format("a snapshot", found, FORMAT),
            _ => damaged("it has another format"),
        }),
        _ => Err(damaged("it does not begin with a header")),
    }
}

/// Whether these are all the chunks of a snapshot, as they were written, and of a state that can be opened: once
/// it is installed, every start opens it.
///
/// # Errors
/// `Corrupt` if they are not.
pub fn verify(chunks: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<()> {
    let mut last: Option<Vec<u8>> = None;
    let mut version = None;
    for entry in open(chunks)?.1 {
        let (key, value) = entry?;
        if last.is_some_and(|last| last >= key) || key.len() > MAX_KEY_BYTES {
            return Err(damaged("it has keys that no state has, or not in their order"));
        }
        if key == VERSION {
            version = Some(Version::decode(Some(&value))?);
        }
        last = Some(key);
    }
    match version {
        None if last.is_some() => Err(damaged("it has no version")),
        Some(Version { era, number, .. }) if era.max(number) > MAX_NUMBER => {
            Err(damaged("its version leaves no room for later ones"))
        }
        _ => Ok(()),
    }
}

/// The header and the entries of a snapshot; the last of these is an error unless it was whole.
pub(crate) fn open<I: IntoIterator<Item = Result<Vec<u8>>>>(
    chunks: I,
) -> Result<(Vec<u8>, impl Iterator<Item = Result<Entry>>)> {
    let mut chunks = chunks.into_iter();
    let first = chunks.next().ok_or_else(|| damaged("it is empty"))??;
    let entries = Installing { chunks, batch: vec![].into_iter(), entries: 0, ended: false };
    Ok((header(&first)?, entries))
}

/// The entries of the chunks; an error unless the end was among them.
struct Installing<I> {
    chunks: I,
    batch: std::vec::IntoIter<Entry>,
    entries: u64,
    ended: bool,
}

impl<I: Iterator<Item = Result<Vec<u8>>>> Installing<I> {
    fn entry(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.batch.next() {
                self.entries += 1;
                return Ok(Some(entry));
            }
            if self.ended {
                return Ok(None);
            }
            let chunk = self.chunks.next().ok_or_else(|| damaged("its end is missing"))??;
            match decode(&chunk)? {
                Chunk::Entries(entries) => self.batch = entries.into_iter(),
                Chunk::End { entries } if entries == self.entries => self.ended = true,
                _ => return Err(damaged("chunks are missing")),
            }
        }
    }
}

impl<I: Iterator<Item = Result<Vec<u8>>>> Iterator for Installing<I> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entry().transpose()
    }
}

/// Writes a chunk, which [`load`] reads.
pub(crate) fn write_chunk(file: &mut impl Write, chunk: &[u8]) -> io::Result<()> {
    if chunk.len() > MAX_CHUNK_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.write_all(&(chunk.len() as u32).to_le_bytes())?;
    file.write_all(chunk)
}

/// Reads the chunks in a file, which is at `path`, from its beginning.
///
/// # Errors
/// `Corrupt` for a file that breaks off, `Fatal` or `Config` if it cannot be read.
pub(crate) fn load(
    path: &Path,
    mut file: Arc<File>,
) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
    file.rewind().map_err(|source| Error::cannot_use(path.display(), source))?;
    let mut file = BufReader::new(file);
    let path = path.to_owned();
    Ok(std::iter::from_fn(move || {
        let chunk = read_chunk(&mut file);
        chunk.map_err(|source| unreadable(&path, source)).transpose()
    }))
}

pub(crate) fn read_chunk(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if file.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    file.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_CHUNK_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Not more at once than there is, whatever the length says.
    let mut chunk = vec![];
    file.take(length as u64).read_to_end(&mut chunk)?;
    if chunk.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(chunk))
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            damaged(&format!("{} breaks off", path.display()))
        }
        _ => Error::cannot_use(path.display(), source),
    }
}

fn damaged(how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a snapshot is damaged: {how}; it is not used"))
}

#[cfg(test)]
mod tests {
    use tsoracle_core::{BootTime, Effect, SeqStore as _};
    use tsoracle_store::{Store, Table};

    use super::*;
    use crate::{LogEntry, Replica};

    const NOTES: Table = Table::new("notes");
    const NOW: BootTime = BootTime::from_nanos(7);

    /// A replica whose state holds `keys` keys, and whose mark is `applied`.
    fn filled(path: &Path, keys: u32, applied: &[u8]) -> Replica {
        let mut replica =
            Replica::open(Store::open(path, Default::default()).unwrap(), NOW).unwrap();
        let mut effect = Effect::default();
        (0..keys).for_each(|key| effect.put(key.to_be_bytes(), vec![7; 900]));
        commit(&mut replica, effect);
        replica.set_applied(applied.into());
        replica
    }

    fn commit(replica: &mut Replica, mut effect: Effect) {
        let base = replica.version();
        effect.set_version(base.next(u128::from(base.number) + 9).unwrap());
        let entry = LogEntry::new(base, effect).unwrap();
        replica.apply(base, entry.into_effect(), NOW).unwrap().unwrap();
    }

    fn note() -> [(Table, Effect); 1] {
        let mut effect = Effect::default();
        effect.put(*b"note", *b"here");
        [(NOTES, effect)]
    }

    #[test]
    fn a_snapshot_replaces_the_state_of_another_replica() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut source = filled(from.path(), 2_500, b"12");
        let (version, chunks) = (source.version(), source.snapshot().unwrap());
        let mut later = Effect::default();
        later.put(*b"later", *b"than the snapshot");
        commit(&mut source, later);

        let mut target = filled(to.path(), 0, b"1");
        let mut old = Effect::default();
        old.put(*b"old", *b"state");
        commit(&mut target, old);
        let file = to.path().join("snapshot");
        let mut written = File::create(&file).unwrap();
        chunks.for_each(|chunk| write_chunk(&mut written, &chunk.unwrap()).unwrap());
        let first = load(&file, opened(&file)).unwrap().next().unwrap().unwrap();
        assert_eq!(header(&first).unwrap(), b"12");
        target.restore(load(&file, opened(&file)).unwrap(), note(), NOW).unwrap();
        assert_eq!((target.version(), target.applied()), (version, Some(&b"12"[..])));
        // The keys, and the version.
        let entries = target.store().scan(&[], &[u8::MAX], 10_000).unwrap();
        assert_eq!(entries.len(), 2_501);
        assert_eq!(target.store().read(NOTES, b"note").unwrap(), Some(b"here".to_vec()));
        drop(target);
        let target = Replica::open(Store::open(to.path(), Default::default()).unwrap(), NOW);
        let target = target.unwrap();
        assert_eq!((target.version(), target.applied()), (version, Some(&b"12"[..])));
    }

    fn opened(path: &Path) -> Arc<File> {
        Arc::new(File::open(path).unwrap())
    }

    #[test]
    fn a_chunk_that_is_too_long_is_neither_written_nor_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("snapshot");
        let (longest, longer) = (vec![7; MAX_CHUNK_BYTES], vec![7; MAX_CHUNK_BYTES + 1]);
        let mut written = File::create(&file).unwrap();
        write_chunk(&mut written, &longest).unwrap();
        write_chunk(&mut written, &longer).unwrap_err();
        written.write_all(&(longer.len() as u32).to_le_bytes()).unwrap();
        written.write_all(&longer).unwrap();
        let mut chunks = load(&file, opened(&file)).unwrap();
        assert_eq!(chunks.next().unwrap().unwrap(), longest);
        assert_eq!(*chunks.next().unwrap().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_file_that_breaks_off_within_a_chunk_has_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("snapshot");
        let mut whole = vec![];
        write_chunk(&mut whole, &[7; 100]).unwrap();
        for length in 1..whole.len() {
            std::fs::write(&file, &whole[..length]).unwrap();
            let mut chunks = load(&file, opened(&file)).unwrap();
            let error = chunks.next().unwrap().unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt, "{length}: {error}");
            assert!(error.to_string().contains("breaks off"), "{length}: {error}");
        }
    }

    #[test]
    fn a_state_that_could_not_be_opened_is_not_installed() {
        let state = |entries: Vec<Entry>| {
            let end = Chunk::End { entries: entries.len() as u64 };
            let begin = Chunk::Begin { magic: MAGIC.into(), header: vec![] };
            verify([begin, Chunk::Entries(entries), end].map(|chunk| encode(&chunk)))
        };
        let version = |era, number| {
            let version = Version { era, number, name: 7 };
            (VERSION.to_vec(), version.encode().to_vec())
        };
        let key = |key: &[u8]| (key.to_vec(), vec![]);
        assert!(VERSION < b"a".as_slice(), "it is the first key");
        state(vec![]).unwrap();
        state(vec![version(MAX_NUMBER, MAX_NUMBER), key(b"a"), key(b"b")]).unwrap();
        state(vec![version(1, 1), key(&[b'k'; MAX_KEY_BYTES])]).unwrap();
        for (entries, why) in [
            (vec![key(b"a")], "no version"),
            (vec![version(1, MAX_NUMBER + 1)], "no room"),
            (vec![version(MAX_NUMBER + 1, 1)], "no room"),
            (vec![version(1, 1), key(b"b"), key(b"a")], "not in their order"),
            (vec![version(1, 1), key(b"a"), key(b"a")], "not in their order"),
            (vec![version(1, 1), key(&[b'k'; MAX_KEY_BYTES + 1])], "keys that no state has"),
        ] {
            let error = state(entries).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn a_snapshot_that_is_not_whole_changes_nothing() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut source = filled(from.path(), 2_500, b"12");
        let chunks: Vec<_> = source.snapshot().unwrap().map(|chunk| chunk.unwrap()).collect();
        assert!(chunks.len() > 4, "{}", chunks.len());
        // An entry may go beyond the bound, and what belongs to each is not counted.
        let longest = chunks.iter().map(Vec::len).max().unwrap();
        assert!(longest < CHUNK_BYTES + CHUNK_BYTES / 16, "{longest}");
        let mut target = filled(to.path(), 3, b"1");
        let version = target.version();
        let mut refused = |chunks: &[Vec<u8>]| {
            let error = target.restore(chunks.iter().cloned().map(Ok), note(), NOW).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt);
            verify(chunks.iter().cloned().map(Ok)).unwrap_err();
        };
        verify(chunks.iter().cloned().map(Ok)).unwrap();
        for missing in 0..chunks.len() {
            let mut cut = chunks.clone();
            cut.remove(missing);
            refused(&cut);
        }
        for flipped in 0..chunks.len() {
            let mut damaged = chunks.clone();
            *damaged[flipped].last_mut().unwrap() ^= 1;
            refused(&damaged);
        }
        assert_eq!((target.version(), target.applied()), (version, Some(&b"1"[..])));
        assert_eq!(target.store().read(NOTES, b"note").unwrap(), None);
    }
}
