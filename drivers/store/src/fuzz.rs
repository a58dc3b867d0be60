//! Decoders that are not public, for the fuzz targets. Each says whether the bytes could be read.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tsoracle_core::{Effect, Entry};

use crate::{
    files::{Files, OpenFile, Place},
    header::{Header, Kind},
    record::{self, ALIGNMENT, HEAD, seal},
    recovery::Recovered,
    segment,
    snapshot::{self, checksum},
    tables::Tables,
};

const STORE: u128 = 1;
const SALT: u32 = 7;

/// Reads the files of a store and writes what they hold again.
///
/// Without a first byte of 1, their checksums are made right: the commit of the snapshot in eight bytes, then
/// parts, each a byte that says where it belongs (a block of the snapshot, 0, or a record, 1), a length of two
/// bytes, and the contents. With it, files come as they are: their parts are the contents of the snapshot and
/// of the segment after commit 0.
pub fn store(data: &[u8]) -> bool {
    let Some((is_raw, mut rest)) = data.split_first() else { return false };
    let files = Memory::default();
    if *is_raw == 1 {
        while let Some((place, contents)) = take_part(&mut rest) {
            files.append(if place == 0 { snapshot::NAME } else { FIRST }, contents);
        }
    } else {
        let Some((sequence, mut rest)) = rest.split_first_chunk() else { return false };
        let sequence = u64::from_le_bytes(*sequence);
        let mut writer = Sealed::new(&files, sequence);
        while let Some((place, contents)) = take_part(&mut rest) {
            if place == 0 { writer.block(contents) } else { writer.record(contents) }
        }
        writer.end();
    }
    let Ok(read) = Recovered::read(Place::new(files, "memory")) else { return false };
    let copy = Place::new(Memory::default(), "copy");
    let written = snapshot::write(&copy, STORE, read.commits(), &read.tables, || true);
    written.expect("memory does not fail");
    let again = snapshot::read(&copy).expect("what was written can be read");
    assert_eq!(again.sequence, read.commits());
    assert_eq!(all(&again.tables), all(&read.tables));
    true
}

/// Parts of stores, as they are written.
pub fn stores() -> Vec<Vec<u8>> {
    let effect = |writes: &[(&str, Option<&str>)]| {
        let write =
            |(key, value): &(&str, Option<&str>)| (key.as_bytes().to_vec(), value.map(Into::into));
        writes.iter().map(write).collect::<Effect>()
    };
    let body = |writes: &[(&str, Effect)]| {
        let mut buffer = vec![];
        let writes = writes.iter().map(|(table, effect)| (*table, effect));
        record::encode(&mut buffer, SALT, (1, 0), writes).expect("it is short");
        buffer.split_off(HEAD)
    };
    let block = b"\x05state\x02s1\x02\x01\x05\x02s2\x02\x01\x06".to_vec();
    let first = body(&[("state", effect(&[("s1", Some("one")), ("s2", None)]))]);
    let second = body(&[
        ("state", effect(&[("v", Some("two"))])),
        ("log", effect(&[("\0\0", Some("entry"))])),
    ]);
    let parts = |sequence: u64, parts: &[(u8, &Vec<u8>)]| {
        let mut data = [&[0][..], &sequence.to_le_bytes()].concat();
        parts.iter().for_each(|(place, contents)| put_part(&mut data, *place, contents));
        data
    };
    let sealed = [parts(0, &[]), parts(41, &[(0, &block), (1, &first), (1, &second)])];
    // The files of the second one, as they are.
    let files = Memory::default();
    let mut writer = Sealed::new(&files, 0);
    writer.block(&block);
    writer.record(&first);
    writer.record(&second);
    writer.end();
    let mut raw = vec![1];
    for (place, name) in [(0, snapshot::NAME), (1, FIRST)] {
        put_part(&mut raw, place, &lock(&files.file(name)));
    }
    sealed.into_iter().chain([raw]).collect()
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let place = *rest.split_off_first()?;
    let length = [*rest.split_off_first()?, *rest.split_off_first()?];
    let length = usize::from(u16::from_le_bytes(length)).min(rest.len());
    Some((place, rest.split_off(..length)?))
}

fn put_part(data: &mut Vec<u8>, place: u8, contents: &[u8]) {
    let length = u16::try_from(contents.len()).expect("it is short");
    data.push(place);
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(contents);
}

fn all(tables: &Tables) -> Vec<(String, Vec<Entry>)> {
    let owned = |(key, value): (&[u8], &[u8])| (key.to_vec(), value.to_vec());
    tables.iter().map(|(name, map)| (name.into(), map.iter().map(owned).collect())).collect()
}

/// The segment after commit 0.
const FIRST: &str = "journal-00000000000000000001";

/// Writes files whose checksums are right, whatever they hold.
struct Sealed<'a> {
    files: &'a Memory,
    segment: String,
    blocks: u64,
    sequence: u64,
}

impl<'a> Sealed<'a> {
    fn new(files: &'a Memory, sequence: u64) -> Self {
        let header = |sequence, kind| Header { store: STORE, sequence, salt: SALT }.encode(kind);
        let first = sequence.wrapping_add(1);
        let segment = segment::name_of(first);
        files.append(snapshot::NAME, &header(sequence, Kind::Snapshot));
        files.append(&segment, &header(first, Kind::Segment));
        Self { files, segment, blocks: 0, sequence }
    }

    fn block(&mut self, contents: &[u8]) {
        let length = (contents.len() as u32).to_le_bytes();
        let sealed = [&length[..], contents].concat();
        let checksum = checksum(SALT, self.blocks, &sealed).to_le_bytes();
        self.blocks += 1;
        self.files.append(snapshot::NAME, &[&checksum[..], &sealed].concat());
    }

    fn record(&mut self, body: &[u8]) {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(ALIGNMENT), 0);
        let before = self.sequence;
        self.sequence = before.wrapping_add(1);
        let length = (body.len() as u32).to_le_bytes();
        let numbers = [self.sequence.to_le_bytes(), before.to_le_bytes()].concat();
        let sealed = [&length[..], &numbers, &body].concat();
        let checksum = seal(SALT, &sealed).to_le_bytes();
        self.files.append(&self.segment, &[&checksum[..], &sealed].concat());
    }

    fn end(mut self) {
        self.block(&[]);
    }
}

/// Files in memory.
#[derive(Clone, Default, Debug)]
struct Memory(Arc<Mutex<BTreeMap<String, File>>>);

type File = Arc<Mutex<Vec<u8>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn file(&self, name: &str) -> File {
        lock(&self.0).entry(name.into()).or_default().clone()
    }

    fn append(&self, name: &str, bytes: &[u8]) {
        lock(&self.file(name)).extend_from_slice(bytes);
    }
}

impl Files for Memory {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let file = File::default();
        lock(&self.0).insert(name.into(), file.clone());
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let found = lock(&self.0).get(name).cloned();
        Ok(Box::new(found.ok_or(io::ErrorKind::NotFound)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let moved = lock(&self.0).remove(from).ok_or(io::ErrorKind::NotFound)?;
        lock(&self.0).insert(to.into(), moved);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl OpenFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(self).len() as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let contents = lock(self);
        let from = usize::try_from(offset).ok().and_then(|offset| contents.get(offset..));
        let found = from.and_then(|from| from.get(..bytes.len()));
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = lock(self);
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = offset + bytes.len();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[offset..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn forget_cached(&self) {}
}
