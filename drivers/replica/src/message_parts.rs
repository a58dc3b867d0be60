//! Messages that are larger than a frame of the [transport](crate::transport), in parts.
//!
//! Every part begins with the session that it belongs to, and its place. Messages of an earlier session
//! of the same peer that arrive late are left out, and so is one of which a part is missing.

use tsoracle_core::{Error, ErrorKind, Result};

use crate::leaps::MAX_LEAP;

/// The body of one part.
const PART_BYTES: usize = 1 << 20;

/// A whole message, at most.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Names a session of a node with a peer: a later one is greater, for as long as a node can be started again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Session {
    /// How often the node was started.
    pub start: u64,
    /// Rises with every session since.
    pub number: u64,
}

/// Where a part belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    session: Session,
    /// Counts the messages of the session. It may begin anew: it only tells a message from the next one.
    message: u32,
    part: u32,
}

const PLACE_BYTES: usize = 25;

/// The parts of a message, which is the session's one of that number.
///
/// # Errors
/// `Fatal` if the message is too large.
pub fn split(message: &[u8], session: Session, number: u32) -> Result<Vec<Vec<u8>>> {
    if message.len() > MAX_MESSAGE_BYTES {
        let context = format!("a message of {} bytes to a peer is too large", message.len());
        return Err(Error::new(ErrorKind::Fatal, context));
    }
    let last = message.len().div_ceil(PART_BYTES).saturating_sub(1);
    let parts = (0..=last).map(|index| {
        let end = message.len().min((index + 1) * PART_BYTES);
        let part = &message[index * PART_BYTES..end];
        let mut body = Vec::with_capacity(PLACE_BYTES + part.len());
        body.push(u8::from(index == last));
        body.extend_from_slice(&session.start.to_be_bytes());
        body.extend_from_slice(&session.number.to_be_bytes());
        body.extend_from_slice(&number.to_be_bytes());
        body.extend_from_slice(&(index as u32).to_be_bytes());
        body.extend_from_slice(part);
        body
    });
    Ok(parts.collect())
}

/// What has come from one peer, and is not a whole message yet.
#[derive(Debug, Default)]
pub struct Joiner {
    session: Session,
    begun: Option<(Place, Vec<u8>)>,
}

impl Joiner {
    /// Takes a part. Returns the message if it was its last one.
    ///
    /// # Errors
    /// `Invalid` if it is no part, or of a session that leaps so far that no later one may be left. It changes
    /// nothing then.
    pub fn take(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>> {
        let (is_last, place, bytes) = parse(body)?;
        if place.session < self.session {
            return Ok(None);
        }
        let (known, named) = (self.session, place.session);
        let number = if known.start == named.start { known.number } else { 0 };
        let leaps = named.start - known.start > MAX_LEAP || named.number - number > MAX_LEAP;
        if known != Session::default() && leaps {
            return Err(malformed("is of a session that leaps"));
        }
        self.session = place.session;
        let before = match place.part.checked_sub(1) {
            None => Some(vec![]),
            Some(part) => self
                .begun
                .take()
                .and_then(|(last, bytes)| (last == Place { part, ..place }).then_some(bytes)),
        };
        self.begun = None;
        let Some(mut message) = before else { return Ok(None) };
        if message.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return Err(malformed("is too large"));
        }
        message.extend_from_slice(bytes);
        if is_last {
            return Ok(Some(message));
        }
        self.begun = Some((place, message));
        Ok(None)
    }
}

fn parse(body: &[u8]) -> Result<(bool, Place, &[u8])> {
    let (head, bytes) =
        body.split_first_chunk::<PLACE_BYTES>().ok_or_else(|| malformed("breaks off"))?;
    let [last, place @ ..] = head;
    let is_last = match last {
        0 => false,
        1 => true,
        other => return Err(malformed(&format!("begins with {other}"))),
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let session = Session { start: number(&place[..8]), number: number(&place[8..16]) };
    let (message, part) = (number(&place[16..20]) as u32, number(&place[20..]) as u32);
    Ok((is_last, Place { session, message, part }, bytes))
}

fn malformed(how: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("a part of a message {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(start: u64, number: u64) -> Session {
        Session { start, number }
    }

    fn large() -> Vec<u8> {
        (0..2 * PART_BYTES + 5).map(|index| (index / 999) as u8).collect()
    }

    #[test]
    fn a_message_in_parts_is_read_as_sent() {
        let mut joiner = Joiner::default();
        for (number, message) in [large(), vec![], vec![7; PART_BYTES], large()].iter().enumerate()
        {
            let parts = split(message, session(7, 1), number as u32).unwrap();
            assert_eq!(parts.len(), message.len().div_ceil(PART_BYTES).max(1));
            let (last, before) = parts.split_last().unwrap();
            assert!(before.iter().all(|part| joiner.take(part).unwrap().is_none()));
            assert_eq!(joiner.take(last).unwrap().as_ref(), Some(message));
        }
    }

    #[test]
    fn a_message_with_a_part_missing_is_left_out_and_the_next_one_is_not() {
        let sent = large();
        let of = |number| split(&sent, session(7, 1), number).unwrap();
        let (first, second) = (of(u32::MAX), of(0));
        for missing in 0..first.len() {
            let mut joiner = Joiner::default();
            for (_, part) in first.iter().enumerate().filter(|(index, _)| *index != missing) {
                assert!(joiner.take(part).unwrap().is_none(), "{missing}");
            }
            let (last, before) = second.split_last().unwrap();
            assert!(before.iter().all(|part| joiner.take(part).unwrap().is_none()));
            assert_eq!(joiner.take(last).unwrap(), Some(sent.clone()));
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_and_not_kept() {
        let mut joiner = Joiner::default();
        let mut part = split(&vec![7; PART_BYTES + 1], session(7, 1), 0).unwrap().remove(0);
        let mut take = |index: u32| {
            part[PLACE_BYTES - 4..PLACE_BYTES].copy_from_slice(&index.to_be_bytes());
            joiner.take(&part)
        };
        let most = (MAX_MESSAGE_BYTES / PART_BYTES) as u32;
        assert!((0..most).all(|index| take(index).unwrap().is_none()));
        assert_eq!(*take(most).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(joiner.begun.is_none());
        split(&vec![7; MAX_MESSAGE_BYTES + 1], session(7, 1), 0).unwrap_err();
    }

    #[test]
    fn parts_of_an_earlier_session_are_left_out_and_garbage_is_refused() {
        let part = |start| split(b"small", session(start, 1), 0).unwrap().remove(0);
        let mut joiner = Joiner::default();
        assert!(joiner.take(&part(2)).unwrap().is_some());
        assert!(joiner.take(&part(1)).unwrap().is_none());
        for length in 0..PLACE_BYTES {
            let error = joiner.take(&part(2)[..length]).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{length}");
        }
        joiner.take(&[9; 30]).unwrap_err();
        assert!(joiner.take(&part(2)).unwrap().is_some());
    }

    #[test]
    fn a_session_is_later_than_all_of_earlier_starts_and_none_leaps() {
        let part = |start, number| split(b"small", session(start, number), 0).unwrap().remove(0);
        let mut joiner = Joiner::default();
        let later = [(3, 1 << 40), (3, (1 << 40) + MAX_LEAP), (4, 1), (4 + MAX_LEAP, 1)];
        for (start, number) in later {
            assert!(joiner.take(&part(start, number)).unwrap().is_some(), "{start} {number}");
        }
        let known = 4 + MAX_LEAP;
        for (start, number) in [(known, MAX_LEAP + 2), (u64::MAX, 1), (known + 1, u64::MAX)] {
            let error = joiner.take(&part(start, number)).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{start} {number}");
        }
        assert!(joiner.take(&part(known, 2)).unwrap().is_some());
    }
}
