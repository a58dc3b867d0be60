//! A state as a row of chunks, to be kept in a file, sent to another node, and installed there.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use tsoracle_core::{
    Error, ErrorKind, Result,
    state::{Effect, Entry},
};
use tsoracle_store::{StateView, Store, Table};

/// What a snapshot's first chunk begins with, the format last.
const MAGIC: &[u8] = b"tsoracle snapshot 1\n";

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
    pub fn new(view: StateView, header: &[u8]) -> Self {
        Self { view, header: Some(header.into()), next: Some(vec![]), entries: 0 }
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
enum Chunk {
    Begin { magic: Vec<u8>, header: Vec<u8> },
    Entries(Vec<Entry>),
    End { entries: u64 },
}

/// A checksum, then the chunk.
fn encode(chunk: &Chunk) -> Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(chunk, vec![0; 4]).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot encode a chunk of a snapshot").with_source(source)
    })?;
    let checksum = crc32c::crc32c(&bytes[4..]).to_le_bytes();
    bytes[..4].copy_from_slice(&checksum);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Chunk> {
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
        Chunk::Begin { .. } => Err(damaged("it has another format")),
        _ => Err(damaged("it does not begin with a header")),
    }
}

/// Whether these are all the chunks of a snapshot, and as they were written.
///
/// # Errors
/// `Corrupt` if they are not.
pub fn verify(chunks: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<()> {
    opened(chunks)?.try_for_each(|entry| entry.map(drop))
}

fn opened<I: IntoIterator<Item = Result<Vec<u8>>>>(chunks: I) -> Result<Installing<I::IntoIter>> {
    let mut chunks = chunks.into_iter();
    let first = chunks.next().ok_or_else(|| damaged("it is empty"))??;
    header(&first)?;
    Ok(Installing { chunks, batch: vec![].into_iter(), entries: 0, ended: false })
}

/// Makes the snapshot the whole state of `store`, together with `writes`: in one commit, durable on
/// return. A snapshot that is not whole changes nothing.
///
/// # Errors
/// `Corrupt` if the chunks are not a whole snapshot; those of the store.
pub fn install(
    store: &Store,
    chunks: impl IntoIterator<Item = Result<Vec<u8>>>,
    writes: impl IntoIterator<Item = (Table, Effect)>,
) -> Result<()> {
    store.replace_state(opened(chunks)?, writes)
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

/// Writes the chunks to the file at `path`, which is there whole or not at all.
///
/// # Errors
/// Those of the chunks, and `Fatal` or `Config` if the file cannot be written.
pub fn save(path: &Path, chunks: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<()> {
    let mut file = Saving::begin(path)?;
    for chunk in chunks {
        file.add(&chunk?)?;
    }
    file.finish()
}

/// A snapshot's file that is being written, chunk by chunk.
#[derive(Debug)]
pub struct Saving {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Saving {
    /// Begins the file that will be at `path` once it is whole.
    ///
    /// # Errors
    /// `Fatal` or `Config` if it cannot be written.
    pub fn begin(path: &Path) -> Result<Self> {
        let file = File::create(unfinished(path));
        let file = file.map_err(|source| Error::cannot_use(path.display(), source))?;
        Ok(Self { file: BufWriter::new(file), path: path.into() })
    }

    /// Adds a chunk.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin), and `Corrupt` if the chunk is too large to be one.
    pub fn add(&mut self, chunk: &[u8]) -> Result<()> {
        if chunk.len() > MAX_CHUNK_BYTES {
            return Err(damaged("a chunk is too large"));
        }
        let length = (chunk.len() as u32).to_le_bytes();
        let written = self.file.write_all(&length).and_then(|()| self.file.write_all(chunk));
        written.map_err(|source| Error::cannot_use(self.path.display(), source))
    }

    /// Gives it up. What cannot be removed stays, under its other name.
    pub fn abandon(self) {
        let _ = fs::remove_file(unfinished(&self.path));
    }

    /// Has the file survive a power loss, under its name.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    pub fn finish(self) -> Result<()> {
        let Self { file, path } = self;
        let unusable = |source| Error::cannot_use(path.display(), source);
        let file = file.into_inner().map_err(|error| unusable(error.into_error()))?;
        file.sync_all().map_err(unusable)?;
        fs::rename(unfinished(&path), &path).map_err(unusable)?;
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(unusable)
    }
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Reads what [`save`] has written.
///
/// # Errors
/// `Corrupt` for a file that breaks off, `Fatal` or `Config` if it cannot be read.
pub fn load(path: &Path) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
    let file = File::open(path).map_err(|source| Error::cannot_use(path.display(), source))?;
    let mut file = BufReader::new(file);
    let path = path.to_owned();
    Ok(std::iter::from_fn(move || {
        let chunk = read_chunk(&mut file);
        chunk.map_err(|source| unreadable(&path, source)).transpose()
    }))
}

fn read_chunk(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if file.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    file.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_CHUNK_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut chunk = vec![0; length];
    file.read_exact(&mut chunk)?;
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
    use tsoracle_core::SeqStore as _;

    use super::*;

    const MARK: Table = Table::new("mark");

    fn filled(path: &Path, keys: u32) -> Store {
        let mut store = Store::open(path, Default::default()).unwrap();
        let mut effect = Effect::default();
        (0..keys).for_each(|key| effect.put(key.to_be_bytes(), vec![7; 900]));
        store.commit(effect).unwrap();
        store
    }

    fn mark() -> [(Table, Effect); 1] {
        let mut effect = Effect::default();
        effect.put(*b"mark", *b"here");
        [(MARK, effect)]
    }

    #[test]
    fn a_snapshot_replaces_the_state_of_another_store() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut source = filled(from.path(), 2_500);
        let chunks = Chunks::new(source.view().unwrap(), b"header");
        let mut later = Effect::default();
        later.put(*b"later", *b"than the snapshot");
        source.commit(later).unwrap();

        let mut target = Store::open(to.path(), Default::default()).unwrap();
        let mut old = Effect::default();
        old.put(*b"old", *b"state");
        target.commit(old).unwrap();
        let file = to.path().join("snapshot");
        save(&file, chunks).unwrap();
        let mut chunks = load(&file).unwrap();
        assert_eq!(header(&chunks.next().unwrap().unwrap()).unwrap(), b"header");
        install(&target, load(&file).unwrap(), mark()).unwrap();
        let entries = target.scan(&[], &[u8::MAX], 10_000).unwrap();
        assert_eq!(entries.len(), 2_500);
        assert_eq!(entries, source.scan(&[], &[1], 10_000).unwrap());
        assert_eq!(target.read(MARK, b"mark").unwrap(), Some(b"here".to_vec()));
    }

    #[test]
    fn a_snapshot_that_is_not_whole_changes_nothing() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = filled(from.path(), 2_500);
        let chunks: Vec<_> =
            Chunks::new(source.view().unwrap(), b"").map(|chunk| chunk.unwrap()).collect();
        assert!(chunks.len() > 4, "{}", chunks.len());
        let target = filled(to.path(), 3);
        let refused = |chunks: &[Vec<u8>]| {
            let error = install(&target, chunks.iter().cloned().map(Ok), mark()).unwrap_err();
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
        assert_eq!(target.scan(&[], &[u8::MAX], 10_000).unwrap().len(), 3);
        assert_eq!(target.read(MARK, b"mark").unwrap(), None);
    }
}
