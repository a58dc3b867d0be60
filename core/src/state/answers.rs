//! What requests were answered, in pages.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{
    keys,
    record::{FORMAT, corrupt, unknown_format},
};
use crate::{MAX_BATCH, Result, varint};

/// The first byte of a page of answers whose requests are distinguished by a keyed hash. Those of the first
/// format are distinguished by SHA-256.
const ANSWERS_FORMAT: u8 = 2;

/// What a request was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct AnswerRecord {
    /// Tells this request from another of the same number.
    pub(super) digest: [u8; 16],
    /// The first value of each block, in the order asked for.
    pub(super) starts: SmallVec<[u64; 1]>,
}

impl AnswerRecord {
    pub(super) fn encoded_len(&self) -> usize {
        let starts = self.starts.iter().map(|start| varint::len(*start));
        self.digest.len() + varint::len(self.starts.len() as u64) + starts.sum::<usize>()
    }

    /// How many bytes the answer to request `number` takes in a page.
    pub(super) fn size(&self, number: u64) -> usize {
        let len = self.encoded_len();
        varint::len(number) + varint::len(len as u64) + len
    }
}

/// How requests are distinguished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Digest {
    Sha256,
    /// SipHash, keyed with the session.
    Keyed,
}

/// The answers to some neighbouring requests: each one's number, then its encoded
/// [`AnswerRecord`]. To add one the others need not be decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnswerPage {
    bytes: Vec<u8>,
    /// A bit per place in the page, set if the request there has an answer.
    answered: u64,
}

impl AnswerPage {
    /// How many bytes a page without an answer has.
    pub(super) const EMPTY_BYTES: usize = 1;

    /// The most bytes that a page has.
    pub(super) const MOST_BYTES: usize =
        1 + keys::PAGE as usize * (10 + 2 + 16 + 2 + 10 * MAX_BATCH);

    /// Reads what is stored under `key`.
    pub(super) fn decode(key: &[u8], bytes: Vec<u8>) -> Result<Self> {
        if !matches!(bytes.first(), Some(&(FORMAT | ANSWERS_FORMAT))) {
            let found = bytes.first().copied().unwrap_or_default();
            return Err(unknown_format(key, found, ANSWERS_FORMAT));
        }
        let mut answered = 0;
        let mut rest = &bytes[1..];
        while !rest.is_empty() {
            let (number, _, behind) = split_answer(key, rest)?;
            answered |= place(number);
            rest = behind;
        }
        Ok(Self { bytes, answered })
    }

    /// How the requests of a page are distinguished, one that does not exist yet included.
    pub(super) fn digest(page: Option<&Self>) -> Digest {
        match page.and_then(|page| page.bytes.first()) {
            Some(&FORMAT) => Digest::Sha256,
            _ => Digest::Keyed,
        }
    }

    /// The page as it is stored.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn find(&self, key: &[u8], number: u64) -> Result<Option<AnswerRecord>> {
        if self.answered & place(number) == 0 {
            return Ok(None);
        }
        let mut rest = &self.bytes[1..];
        while !rest.is_empty() {
            let (found, answer, behind) = split_answer(key, rest)?;
            if found == number {
                return postcard::from_bytes(answer).map(Some).map_err(|source| {
                    corrupt(key, "a stored value is damaged").with_source(source)
                });
            }
            rest = behind;
        }
        Ok(None)
    }

    /// The page with the answer to a request that has none yet. No page is an empty one.
    pub(super) fn with(page: Option<&Self>, number: u64, answer: &AnswerRecord) -> Self {
        let room = page.map_or(1, |page| page.bytes.len()) + answer.size(number);
        let mut bytes = Vec::with_capacity(room.max(PAGE_BYTES));
        match page {
            Some(page) => bytes.extend_from_slice(&page.bytes),
            None => bytes.push(ANSWERS_FORMAT),
        }
        let mut page = Self { bytes, answered: page.map_or(0, |page| page.answered) };
        page.append(number, answer);
        page
    }

    /// Adds the answer to a request that has none yet.
    pub(super) fn append(&mut self, number: u64, answer: &AnswerRecord) {
        self.answered |= place(number);
        varint::push(&mut self.bytes, number);
        varint::push(&mut self.bytes, answer.encoded_len() as u64);
        self.bytes.extend_from_slice(&answer.digest);
        varint::push(&mut self.bytes, answer.starts.len() as u64);
        answer.starts.iter().for_each(|start| varint::push(&mut self.bytes, *start));
    }
}

/// What a page of answers to requests for one block takes.
const PAGE_BYTES: usize = 448;

/// The bit of a request in its page.
fn place(number: u64) -> u64 {
    1 << (number % keys::PAGE)
}

/// The first answer of a page's rest: the request's number, the answer, and what follows.
fn split_answer<'p>(key: &[u8], rest: &'p [u8]) -> Result<(u64, &'p [u8], &'p [u8])> {
    let ((number, answer), behind) = postcard::take_from_bytes(rest)
        .map_err(|source| corrupt(key, "a stored value is damaged").with_source(source))?;
    Ok((number, answer, behind))
}
