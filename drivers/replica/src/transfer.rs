//! States on their way between nodes.
//!
//! The chunks of a state go ahead, as calls of kind [`CHUNK`]. Then the driver sends a message of its own
//! that names the transfer, and the receiver takes the state, which is whole or not there.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::spawn_blocking};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::{
    Calls, Tasks,
    snapshot::{self, Chunk, load, write_chunk},
};

/// The kind of the calls that carry chunks: no other call of a driver is of it.
pub const CHUNK: u32 = u32::MAX;

/// How long a chunk may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Chunks that are read ahead.
const AHEAD: usize = 2;

/// What the names of received files begin with.
const RECEIVED: &str = "received-";

/// A chunk, the transfer that it belongs to, and its number in it, from 0.
pub(crate) struct Part<'a> {
    transfer: u64,
    number: u64,
    chunk: &'a [u8],
}

impl Part<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.transfer.to_be_bytes()[..], &self.number.to_be_bytes(), self.chunk].concat()
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Part<'_>> {
        let (transfer, rest) = body.split_first_chunk()?;
        let (number, chunk) = rest.split_first_chunk()?;
        let (transfer, number) = (u64::from_be_bytes(*transfer), u64::from_be_bytes(*number));
        Some(Part { transfer, number, chunk })
    }
}

/// The bodies of the calls that bring a state, as [`send`] makes them one after the other.
pub fn calls(
    transfer: u64,
    chunks: impl Iterator<Item = Result<Vec<u8>>>,
) -> impl Iterator<Item = Result<Vec<u8>>> {
    let encode = move |(number, chunk): (u64, Result<Vec<u8>>)| {
        Ok(Part { transfer, number, chunk: &chunk? }.encode())
    };
    (0..).zip(chunks).map(encode)
}

/// Brings a state to node `to`, whose inbox then holds it under `transfer`: a number that this node has
/// not used before in this process.
///
/// # Errors
/// Those of the chunks, and those of the calls.
pub async fn send<I>(
    peers: &dyn Calls,
    tasks: &Tasks,
    to: u32,
    transfer: u64,
    chunks: I,
) -> Result<()>
where
    I: Iterator<Item = Result<Vec<u8>>> + Send + 'static,
{
    if tasks.are_simulated() {
        for call in calls(transfer, chunks) {
            peers.call(to, CHUNK, call?.into(), DEADLINE).await?;
        }
        return Ok(());
    }
    let (ahead, mut read) = mpsc::channel(AHEAD);
    // Reading may block. It ends when the receiver is gone.
    let reading = spawn_blocking(move || {
        let _ = calls(transfer, chunks).try_for_each(|call| ahead.blocking_send(call));
    });
    while let Some(call) = read.recv().await {
        peers.call(to, CHUNK, call?.into(), DEADLINE).await?;
    }
    let panicked = |source| {
        Error::new(ErrorKind::Unavailable, "reading the state panicked").with_source(source)
    };
    reading.await.map_err(panicked)
}

/// The states that come from other nodes, one of each at a time, in files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox(Arc<Files>);

#[derive(Debug)]
struct Files {
    directory: PathBuf,
    /// How many bytes a state may have.
    max_bytes: u64,
    count: AtomicU64,
    incoming: Mutex<BTreeMap<u32, Incoming>>,
}

#[derive(Debug)]
struct Incoming {
    transfer: u64,
    next: u64,
    bytes: u64,
    has_ended: bool,
    file: BufWriter<Arc<File>>,
    received: Received,
}

impl Inbox {
    /// The inbox in a node's directory, emptied of what an earlier process left. A state may have `max_bytes`.
    ///
    /// # Errors
    /// `Config` or `Fatal` if the directory cannot be used.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self> {
        let directory = directory.join("received");
        let unusable = |source| Error::cannot_use(directory.display(), source);
        fs::create_dir_all(&directory).map_err(unusable)?;
        for found in fs::read_dir(&directory).map_err(unusable)? {
            let path = found.map_err(unusable)?.path();
            let name = path.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with(RECEIVED) {
                fs::remove_file(&path).map_err(unusable)?;
            }
        }
        Ok(Self(Arc::new(Files {
            directory,
            max_bytes,
            count: AtomicU64::new(0),
            incoming: Mutex::default(),
        })))
    }

    /// Takes the body of a call of kind [`CHUNK`]; returns that of the answer.
    ///
    /// # Errors
    /// `Unavailable` if chunks before it are missing: the transfer is begun again. `Corrupt` or `Invalid` if it is
    /// no part of a state, or the state is too large: what has come of it is removed. `Fatal` or `Config` if the file
    /// cannot be written.
    pub async fn take(&self, tasks: &Tasks, from: u32, body: &[u8]) -> Result<Bytes> {
        let (inbox, body) = (self.clone(), body.to_vec());
        tasks.blocking(move || inbox.blocking_take(from, &body)).await?;
        Ok(Bytes::new())
    }

    /// As [`take`](Self::take), on this thread.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn blocking_take(&self, from: u32, body: &[u8]) -> Result<()> {
        let part = Part::decode(body).ok_or_else(out_of_order)?;
        let begun = self.incoming().remove(&from);
        let mut incoming = match begun {
            Some(incoming)
                if (incoming.transfer, incoming.next) == (part.transfer, part.number) =>
            {
                incoming
            }
            // What was begun before is of no use any more.
            _ if part.number == 0 => self.begin(part.transfer)?,
            _ => return Err(out_of_order()),
        };
        let chunk = snapshot::decode(part.chunk)?;
        if incoming.has_ended || matches!(chunk, Chunk::Begin { .. }) != (part.number == 0) {
            return Err(out_of_order());
        }
        incoming.has_ended = matches!(chunk, Chunk::End { .. });
        incoming.bytes += part.chunk.len() as u64;
        if incoming.bytes > self.0.max_bytes {
            let context = format!(
                "the state that node {from} sends has more than {} MiB; raise transfer_mb if it is as large",
                self.0.max_bytes >> 20
            );
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let written = write_chunk(&mut incoming.file, part.chunk);
        written.map_err(|source| Error::cannot_use(incoming.received.path.display(), source))?;
        incoming.next += 1;
        self.incoming().insert(from, incoming);
        Ok(())
    }

    /// Removes what has come from node `from`, which brings the rest no more.
    pub fn abandon(&self, from: u32) {
        self.incoming().remove(&from);
    }

    /// The state that has come from node `from` as `transfer`, found to be whole.
    ///
    /// # Errors
    /// `Unavailable` if it has not come; `Corrupt` if it is not whole; `Fatal` or `Config` if the file
    /// cannot be used.
    pub async fn finish(&self, tasks: &Tasks, from: u32, transfer: u64) -> Result<Received> {
        let inbox = self.clone();
        tasks.blocking(move || inbox.blocking_finish(from, transfer)).await
    }

    /// As [`finish`](Self::finish), on this thread.
    ///
    /// # Errors
    /// As for [`finish`](Self::finish).
    pub fn blocking_finish(&self, from: u32, transfer: u64) -> Result<Received> {
        let incoming = self.incoming().remove(&from);
        let incoming = incoming.filter(|incoming| incoming.transfer == transfer);
        let Incoming { mut file, received, .. } = incoming.ok_or_else(out_of_order)?;
        file.flush().map_err(|source| Error::cannot_use(received.path.display(), source))?;
        snapshot::verify(received.chunks()?)?;
        Ok(received)
    }

    fn begin(&self, transfer: u64) -> Result<Incoming> {
        let number = self.0.count.fetch_add(1, Ordering::Relaxed);
        let path = self.0.directory.join(format!("{RECEIVED}{number}"));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = Arc::new(file.map_err(|source| Error::cannot_use(path.display(), source))?);
        let (file, received) = (BufWriter::new(file.clone()), Received { path, file });
        Ok(Incoming { transfer, next: 0, bytes: 0, has_ended: false, file, received })
    }

    fn incoming(&self) -> MutexGuard<'_, BTreeMap<u32, Incoming>> {
        self.0.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state that has come, in a file that goes when this is dropped.
///
/// The file stays open: where no more files can be opened, the state can be installed all the same.
#[derive(Debug)]
pub struct Received {
    path: PathBuf,
    file: Arc<File>,
}

impl Received {
    /// Its chunks, for [`Replica::restore`](crate::Replica::restore).
    ///
    /// # Errors
    /// `Fatal` or `Config` if the file cannot be read.
    pub fn into_chunks(self) -> Result<impl Iterator<Item = Result<Vec<u8>>> + Send + use<>> {
        let mut chunks = self.chunks()?;
        Ok(std::iter::from_fn(move || {
            // The file stays for as long as it is read.
            let _file = &self;
            chunks.next()
        }))
    }

    /// How far it has applied the log, in the driver's terms.
    ///
    /// # Errors
    /// As for [`into_chunks`](Self::into_chunks), and `Corrupt`.
    pub fn applied(&self) -> Result<Vec<u8>> {
        match self.chunks()?.next() {
            Some(first) => snapshot::header(&first?),
            None => Err(Error::new(ErrorKind::Corrupt, "a received state is empty")),
        }
    }

    fn chunks(&self) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
        load(&self.path, self.file.clone())
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // What cannot be removed is removed by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

fn out_of_order() -> Error {
    let context = "chunks of a state are missing, or came out of order; it is sent again";
    Error::new(ErrorKind::Unavailable, context)
}

#[cfg(test)]
mod tests {
    use tsoracle_core::BootTime;
    use tsoracle_store::Store;

    use super::*;
    use crate::Replica;

    /// The chunks of an empty state that has applied `applied`.
    fn chunks(applied: &[u8]) -> Vec<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let mut replica = Replica::open(store, BootTime::default()).unwrap();
        replica.set_applied(applied.into());
        replica.snapshot().unwrap().map(|chunk| chunk.unwrap()).collect()
    }

    async fn take(
        inbox: &Inbox,
        from: u32,
        transfer: u64,
        number: u64,
        chunk: &[u8],
    ) -> Result<()> {
        inbox.take(&Tasks::here(), from, &Part { transfer, number, chunk }.encode()).await.map(drop)
    }

    fn files(inbox: &Inbox) -> usize {
        fs::read_dir(&inbox.0.directory).unwrap().count()
    }

    #[tokio::test]
    async fn a_state_that_has_come_is_installed_without_opening_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(directory.path(), 1 << 20).unwrap();
        let sent = chunks(b"12");
        for (number, chunk) in (0..).zip(&sent) {
            take(&inbox, 1, 7, number, chunk).await.unwrap();
        }
        let received = inbox.finish(&Tasks::here(), 1, 7).await.unwrap();
        // So that it could not be opened again.
        fs::remove_file(&received.path).unwrap();
        assert_eq!(received.applied().unwrap(), b"12");
        let chunks: Vec<_> = received.into_chunks().unwrap().map(Result::unwrap).collect();
        assert_eq!(chunks, sent);
    }

    #[tokio::test]
    async fn states_from_several_nodes_come_whole_and_leave_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(directory.path(), 1 << 20).unwrap();
        let (first, second) = (chunks(b"1"), chunks(b"2"));
        for (number, (first, second)) in first.iter().zip(&second).enumerate() {
            take(&inbox, 1, 7, number as u64, first).await.unwrap();
            take(&inbox, 2, 7, number as u64, second).await.unwrap();
        }
        let received = inbox.finish(&Tasks::here(), 2, 7).await.unwrap();
        assert_eq!(received.applied().unwrap(), b"2");
        assert_eq!(
            *inbox.finish(&Tasks::here(), 2, 7).await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        assert_eq!(files(&inbox), 2);
        let read: Vec<_> = received.into_chunks().unwrap().map(|chunk| chunk.unwrap()).collect();
        assert_eq!(read, second);
        drop(inbox.finish(&Tasks::here(), 1, 7).await.unwrap());
        assert_eq!(files(&inbox), 0);
    }

    #[tokio::test]
    async fn a_state_that_is_not_whole_is_refused_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(directory.path(), 1 << 20).unwrap();
        let chunks = chunks(b"1");
        take(&inbox, 1, 7, 0, &chunks[0]).await.unwrap();
        let error = take(&inbox, 1, 7, 2, &chunks[1]).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable);
        take(&inbox, 1, 8, 0, &chunks[0]).await.unwrap();
        assert_eq!(
            *inbox.finish(&Tasks::here(), 1, 8).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        // Begun again, it takes the place of what came before.
        for transfer in [9, 10] {
            take(&inbox, 1, transfer, 0, &chunks[0]).await.unwrap();
        }
        assert_eq!(
            *inbox.finish(&Tasks::here(), 1, 9).await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        assert_eq!(files(&inbox), 0);
        take(&inbox, 1, 11, 0, &chunks[0]).await.unwrap();
        assert_eq!(files(&inbox), 1);
        // What a process leaves unfinished is removed by the next one.
        std::mem::forget(inbox);
        assert_eq!(files(&Inbox::open(directory.path(), 1 << 20).unwrap()), 0);
    }

    #[tokio::test]
    async fn a_state_that_never_ends_takes_no_more_than_its_share_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(directory.path(), 1 << 20).unwrap();
        let chunks = chunks(b"1");
        let entries = snapshot::encode(&Chunk::Entries(vec![(vec![1], vec![0; 99_000])])).unwrap();
        take(&inbox, 1, 7, 0, &chunks[0]).await.unwrap();
        let mut taken = 0;
        let error = loop {
            match take(&inbox, 1, 7, taken + 1, &entries).await {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((taken, error.kind().clone()), (10, ErrorKind::Invalid));
        assert!(error.to_string().contains("transfer_mb"), "{error}");
        assert_eq!(files(&inbox), 0);
        // Nor does one whose sender is gone.
        take(&inbox, 1, 8, 0, &chunks[0]).await.unwrap();
        take(&inbox, 2, 8, 0, &chunks[0]).await.unwrap();
        inbox.abandon(1);
        assert_eq!(files(&inbox), 1);
        // What is no part of a state is not kept.
        for (number, chunk) in [(0, &b"garbage"[..]), (0, &entries), (1, &chunks[0])] {
            take(&inbox, 2, 8, number, chunk).await.unwrap_err();
        }
        assert_eq!(files(&inbox), 0);
        for (number, chunk) in (0..).zip(&chunks) {
            take(&inbox, 1, 9, number, chunk).await.unwrap();
        }
        take(&inbox, 1, 9, chunks.len() as u64, &entries).await.unwrap_err();
    }
}
