use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use super::{Oracle, unplanned};
use crate::{
    CommitLimits, Entry, Epoch, Error, ErrorKind, KeyRange, MAX_BATCH, Reads, Result, SeqKey,
    Snapshot, Version,
    engine::{Reign, Tap, Tapped},
    state::{BACKED_UP, Command, OpenSequences, REIGN, ReignRecord, Reply, Stage},
};

/// How many entries one read asks for. Some hold hundreds of small parts, of which fewer are asked for.
const PAGE_ENTRIES: usize = 1_000;

/// How many bytes one part has at most, unless a single entry or effect has more.
const PART_BYTES: usize = 512 << 10;

/// A copy of the whole state, taken while it is served: pages in the order of their keys, each of a version of its
/// own, and between them what was committed meanwhile, from which [`Assembly`](crate::Assembly) makes the state of
/// one version.
#[derive(Debug)]
pub struct StateCopy {
    oracle: Oracle,
    reign: Arc<Reign>,
    tap: Tap,
    /// The key behind the last one that pages have covered.
    through: Vec<u8>,
    /// Parts of a page that was read.
    ready: VecDeque<CopyPart>,
    /// The version of the first page, and the newest ones of a page and of a commit.
    first: Option<Version>,
    page: Version,
    committed: Option<Version>,
    page_entries: usize,
    /// Whether the next part is a page if there is a choice.
    page_next: bool,
    stage: CopyStage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CopyStage {
    Pages,
    /// All is read; the commits have to reach the newest page.
    CatchingUp,
    Ended,
}

/// A part of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyPart {
    /// Everything from where the page before has ended to before the key `through`, as of a version.
    Page {
        /// The version.
        version: Version,
        /// In the order of their keys.
        entries: Vec<Entry>,
        /// The key behind the page.
        through: Vec<u8>,
    },
    /// What was committed meanwhile, in order.
    Commits(Vec<CopiedCommit>),
    /// The copy is complete, and of this version.
    End {
        /// The version.
        version: Version,
        /// The epoch of the leader that it was taken from.
        epoch: Epoch,
    },
}

/// A commit that was stored while a copy was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopiedCommit {
    /// The version that it was made on.
    pub base: Version,
    /// The version that it made.
    pub version: Version,
    /// What it writes to keys that pages have covered: a value, or nothing for a key that it deletes.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Oracle {
    /// Begins a copy of the whole state. It holds up no commit: one that is taken too slowly ends with an error.
    ///
    /// # Errors
    /// `NotLeader`, `Unavailable`, `Overloaded`, `Fatal`.
    pub async fn copy_state(&self) -> Result<StateCopy> {
        let reign = self.wait(|| self.reign()).await?;
        reign.touch();
        let (request, tap) = oneshot::channel();
        // A reign that has ended meanwhile drops it.
        let _ = reign.queues.taps.send(request);
        let over = |_| Error::new(ErrorKind::NotLeader(None), "this node does not lead any more");
        let tap = tap.await.map_err(over)??;
        Ok(StateCopy {
            oracle: self.clone(),
            reign,
            tap,
            through: BACKED_UP[..1].to_vec(),
            ready: VecDeque::new(),
            first: None,
            page: Version::EMPTY,
            committed: None,
            page_entries: PAGE_ENTRIES,
            page_next: true,
            stage: CopyStage::Pages,
        })
    }

    /// Opens sequences of a state that was restored from a backup: some not below a floor, or all as they are.
    /// Returns the next values of those with floors, and whether all others are still closed.
    ///
    /// # Errors
    /// `Rejected` with [`NotRestored`](crate::Reject::NotRestored) if there are floors and none is closed.
    /// `Invalid` for more floors than one request has keys. Otherwise as [`get_seq`](Self::get_seq); whatever was
    /// answered, it can be asked again.
    pub async fn open_seqs(
        &self,
        floors: Vec<(SeqKey, u64)>,
        all: bool,
    ) -> Result<(Vec<u64>, bool)> {
        if floors.len() > MAX_BATCH {
            let context = format!("{} floors at once; at most {MAX_BATCH}", floors.len());
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        match self.run(Command::OpenSequences(OpenSequences { floors, all })).await? {
            (Reply::SequencesOpened { nexts, closed }, _) => Ok((nexts, closed)),
            (other, _) => Err(unplanned("an opening of sequences", &other)),
        }
    }
}

impl StateCopy {
    /// The same, with pages of at most that many entries.
    #[must_use]
    pub fn with_page_entries(self, page_entries: usize) -> Self {
        Self { page_entries: page_entries.clamp(1, PAGE_ENTRIES), ..self }
    }

    /// The next part; nothing after the end.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Unavailable` or `NotLeader` if the leader has changed, or lost track of a commit; `Overloaded` if the copy
    /// was taken too slowly: take it again. Those of the driver.
    pub async fn next(&mut self) -> Result<Option<CopyPart>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                if let CopyPart::Page { through, version, .. } = &part {
                    (self.through, self.page) = (through.clone(), *version);
                    self.first = self.first.or(Some(*version));
                    self.page_next = false;
                }
                return Ok(Some(part));
            }
            match self.stage {
                CopyStage::Ended => return Ok(None),
                CopyStage::Pages if self.page_next => self.read_page().await?,
                CopyStage::Pages => {
                    self.page_next = true;
                    if let Some(first) = self.tap.try_next()? {
                        return self.commits(first).map(Some);
                    }
                }
                CopyStage::CatchingUp if self.is_caught_up() => return self.end().await.map(Some),
                CopyStage::CatchingUp => {
                    let first = self.tap.next().await?;
                    return self.commits(first).map(Some);
                }
            }
        }
    }

    /// Whether every commit after the first page and up to the newest one is known. A read may show a commit before
    /// the tap does.
    fn is_caught_up(&self) -> bool {
        match self.committed {
            Some(committed) => committed.position() >= self.page.position(),
            None => self.first == Some(self.page),
        }
    }

    /// The commits that are there, as far as they fit into one part.
    fn commits(&mut self, first: Tapped) -> Result<CopyPart> {
        let (mut commits, mut bytes) = (vec![], 0);
        let mut next = Some(first);
        while let Some(tapped) = next {
            bytes += tapped.effect.size();
            let commit = copied(&tapped, &self.through)?;
            self.committed = Some(commit.version);
            commits.push(commit);
            next = match bytes < PART_BYTES {
                true => self.tap.try_next()?,
                false => None,
            };
        }
        Ok(CopyPart::Commits(commits))
    }

    /// Reads what comes next. It is never older than the commits that were passed on before: those were stored
    /// before it was asked for.
    async fn read_page(&mut self) -> Result<()> {
        let Some(&kind) = BACKED_UP.iter().find(|kind| self.through[..] < [**kind + 1][..]) else {
            self.stage = CopyStage::CatchingUp;
            return Ok(());
        };
        self.reign.touch();
        let from = self.through.clone().max(vec![kind]);
        let limit = match kind {
            b'a' | b'q' => self.page_entries.min(MAX_BATCH),
            _ => self.page_entries,
        };
        let range = KeyRange { from, to: vec![kind + 1], limit };
        let wanted = Reads { keys: vec![REIGN.into()], ranges: vec![range] };
        let snapshot = self.oracle.shared.guard.read(&wanted, self.oracle.shared.options.lease);
        let Snapshot { version, values, ranges } = snapshot.await?;
        self.check_reign(values)?;
        let entries = ranges.into_iter().next().unwrap_or_default();
        let end = match entries.last() {
            // Behind a key comes first the one that is a zero byte longer.
            Some((last, _)) if entries.len() == limit => [&last[..], &[0]].concat(),
            _ => vec![kind + 1],
        };
        let most = CommitLimits { writes: usize::MAX, bytes: PART_BYTES };
        let mut parts = crate::import::split(entries, most);
        let rest = parts.pop().unwrap_or_default();
        for entries in parts {
            let through =
                entries.last().map_or_else(Vec::new, |(last, _)| [&last[..], &[0]].concat());
            self.ready.push_back(CopyPart::Page { version, entries, through });
        }
        self.ready.push_back(CopyPart::Page { version, entries: rest, through: end });
        Ok(())
    }

    /// That the state is still of the reign that the commits are of.
    fn check_reign(&self, values: Vec<Option<Vec<u8>>>) -> Result<()> {
        match ReignRecord::first_of(values)? {
            Some(record) if record.epoch == self.reign.epoch && record.stage == Stage::Open => {
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::NotLeader(None), "another node has taken over")),
        }
    }

    /// The last part. Only a leader has everything that was answered before the copy began.
    async fn end(&mut self) -> Result<CopyPart> {
        let clock = &self.oracle.shared.clock;
        self.oracle.wait(|| self.reign.check(clock.now().boot)).await?;
        self.stage = CopyStage::Ended;
        let version = self.committed.unwrap_or(self.page);
        Ok(CopyPart::End { version, epoch: self.reign.epoch })
    }
}

/// What a commit writes below a key, of what copies hold.
fn copied(tapped: &Tapped, through: &[u8]) -> Result<CopiedCommit> {
    let is_copied = |key: &[u8]| key.first().is_some_and(|kind| BACKED_UP.contains(kind));
    let writes = tapped.effect.iter().filter(|(key, _)| *key < through && is_copied(key));
    Ok(CopiedCommit {
        base: tapped.base,
        version: tapped.effect.version()?,
        writes: writes.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect(),
    })
}
