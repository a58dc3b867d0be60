//! All tables in one file, as of one commit.
//!
//! ```text
//! header | block ... | end
//! block:  checksum 4 | length 4 | length of the table's name 1, the name | entries: key, value
//! end:    checksum 4 | 0 4
//! ```
//!
//! Each checksum is over all that follows it in the block, the number of the block, and the salt. So that
//! of the end tells how many blocks there are.

use tsoracle_core::{Random, Result};

use crate::{
    files::{OpenFile, Place},
    header::{Header, Kind},
    record::{put_bytes, seal, take_bytes},
    tables::{Map, Tables},
};

/// What the file is called. It has this name only once it is whole and on the disk.
pub(crate) const NAME: &str = "snapshot";

/// What it is called until then.
pub(crate) const UNFINISHED: &str = "snapshot.new";

/// Bytes after which a block ends; one entry may go beyond.
const BLOCK: usize = 128 << 10;

/// Bytes after which what was written is synced, so that no sync of the journal waits for more.
const SYNC: usize = 1 << 20;

/// A block's checksum and length.
const HEAD: usize = 8;

/// What a snapshot holds.
pub(crate) struct Snapshot {
    pub(crate) store: u128,
    pub(crate) sequence: u64,
    pub(crate) tables: Tables,
    /// The size of the file.
    pub(crate) size: u64,
}

/// Puts a snapshot in the place of the one before, durably, unless it is cancelled meanwhile.
/// Returns the size of the file, or `None` if the one before is still there.
///
/// # Errors
/// Those of the files. Then one of the two exists.
pub(crate) fn write(
    place: &Place,
    store: u128,
    sequence: u64,
    tables: &Tables,
    goes_on: impl Fn() -> bool,
) -> Result<Option<u64>> {
    let mut writer = Writer::create(place, store, sequence)?;
    for (name, map) in tables.iter() {
        writer.begin(name);
        for (key, value) in map.iter() {
            if writer.block.len() >= BLOCK {
                if !goes_on() {
                    return Ok(None);
                }
                writer.flush()?;
                writer.begin(name);
            }
            writer.put(key, value);
        }
        writer.flush()?;
    }
    let size = writer.end()?;
    if !goes_on() {
        return Ok(None);
    }
    place.files.rename(UNFINISHED, NAME).map_err(place.failed(NAME))?;
    place.sync_names()?;
    Ok(Some(size))
}

struct Writer<'a> {
    place: &'a Place,
    file: Box<dyn OpenFile>,
    salt: u32,
    /// How much is written, and how much of that is not synced.
    size: u64,
    unsynced: usize,
    blocks: u64,
    block: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn create(place: &'a Place, store: u128, sequence: u64) -> Result<Self> {
        let salt = Random::default().draw() as u32;
        let file = place.create(UNFINISHED)?;
        let block = Vec::with_capacity(BLOCK * 2);
        let (size, unsynced, blocks) = (0, 0, 0);
        let mut writer = Self { place, file, salt, size, unsynced, blocks, block };
        writer.append(&Header { store, sequence, salt }.encode(Kind::Snapshot))?;
        Ok(writer)
    }

    fn begin(&mut self, table: &str) {
        self.block.clear();
        self.block.resize(HEAD, 0);
        let length = u8::try_from(table.len()).expect("a journal takes no longer name");
        self.block.push(length);
        self.block.extend_from_slice(table.as_bytes());
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        put_bytes(&mut self.block, key);
        put_bytes(&mut self.block, value);
    }

    fn end(mut self) -> Result<u64> {
        self.block.clear();
        self.block.resize(HEAD, 0);
        self.flush()?;
        self.sync()?;
        Ok(self.size)
    }

    fn flush(&mut self) -> Result<()> {
        let length = u32::try_from(self.block.len() - HEAD).expect("a journal takes no such entry");
        self.block[4..HEAD].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(self.salt, self.blocks, &self.block[4..]);
        self.block[..4].copy_from_slice(&checksum.to_le_bytes());
        self.blocks += 1;
        let block = std::mem::take(&mut self.block);
        self.append(&block)?;
        self.block = block;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(self.size, bytes).map_err(self.place.failed(UNFINISHED))?;
        self.size += bytes.len() as u64;
        self.unsynced += bytes.len();
        if self.unsynced >= SYNC { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.unsynced = 0;
        self.file.sync().map_err(self.place.failed(UNFINISHED))
    }
}

/// Reads the snapshot, and verifies all of it.
///
/// # Errors
/// `Corrupt` if it is missing or damaged; those of the files.
pub(crate) fn read(place: &Place) -> Result<Snapshot> {
    let file = place.files.open(NAME).map_err(place.failed(NAME))?;
    file.sync().map_err(place.failed(NAME))?;
    file.forget_cached();
    let size = file.size().map_err(place.failed(NAME))?;
    let Header { store, sequence, salt } = Header::read(place, NAME, &*file, Kind::Snapshot)?;
    let mut reader = Reader { place, file, salt, offset: Header::SIZE as u64, size, blocks: 0 };
    let (mut tables, mut block) = (Tables::default(), vec![]);
    while reader.next(&mut block)? {
        take_block(&block, &mut tables)
            .ok_or_else(|| place.damaged(NAME, "a block cannot be read"))?;
    }
    if reader.offset != size {
        return Err(place.damaged(NAME, "it goes on after its end"));
    }
    Ok(Snapshot { store, sequence, tables, size })
}

struct Reader<'a> {
    place: &'a Place,
    file: Box<dyn OpenFile>,
    salt: u32,
    offset: u64,
    size: u64,
    blocks: u64,
}

impl Reader<'_> {
    /// Reads the next block, without its head. False for the end.
    fn next(&mut self, block: &mut Vec<u8>) -> Result<bool> {
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let [checked, length] = [0, 4]
            .map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        if u64::from(length) > self.size - self.offset {
            return Err(self.place.damaged(NAME, "a block is longer than the file"));
        }
        block.clear();
        block.extend_from_slice(&head[4..]);
        block.resize(4 + length as usize, 0);
        self.fill(&mut block[4..])?;
        if checksum(self.salt, self.blocks, block) != checked {
            let how = format!("block {} fails its checksum", self.blocks);
            return Err(self.place.damaged(NAME, how));
        }
        block.drain(..4);
        self.blocks += 1;
        Ok(length > 0)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read(self.offset, bytes).map_err(self.place.failed(NAME))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Puts what a block holds into the tables.
fn take_block(mut block: &[u8], tables: &mut Tables) -> Option<()> {
    let length = *block.split_off_first()?;
    let name = str::from_utf8(block.split_off(..usize::from(length))?).ok()?;
    let table: &mut Map = tables.table(name);
    while !block.is_empty() {
        let key = take_bytes(&mut block)?;
        table.put(key, take_bytes(&mut block)?);
    }
    Some(())
}

pub(crate) fn checksum(salt: u32, number: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(seal(salt, &number.to_le_bytes()), block)
}
