use tonic::Status;
use tsoracle_core::{Error, ErrorKind, RequestId, Result, SeqKey, SeqRequest, Session};
use tsoracle_proto::{SESSION_BYTES, v1::SeqRun};

/// The requests of a run, one after the other.
pub(super) struct Run {
    session: Session,
    wire: SeqRun,
    /// The position of the next request, and where its key begins.
    next: (usize, usize),
}

impl Run {
    /// Checks that the parts of a run belong together. What is wrong with one request is its own failure.
    pub(super) fn new(wire: SeqRun) -> Result<Self, Status> {
        let invalid = |what: String| Status::invalid_argument(format!("a run {what}"));
        let session = wire.session[..].try_into().map(Session).map_err(|_| {
            let given = wire.session.len();
            invalid(format!("has a session of {SESSION_BYTES} bytes, not of {given}"))
        })?;
        let (given, needed) =
            (wire.keys.len() as u64, wire.key_bytes.iter().copied().map(u64::from));
        let needed: u64 = needed.sum();
        if given != needed {
            return Err(invalid(format!("has {needed} bytes of keys, not {given}")));
        }
        let (requests, counts) = (wire.key_bytes.len(), wire.counts.len());
        if requests == 0 || (counts != 1 && counts != requests) {
            return Err(invalid(format!("of {requests} requests must not have {counts} counts")));
        }
        Ok(Self { session, wire, next: (0, 0) })
    }

    fn request(&self, place: usize, key: &[u8]) -> Result<SeqRequest> {
        let invalid = |what: &str| Error::new(ErrorKind::Invalid, what);
        let wire = &self.wire;
        let key = str::from_utf8(key).map_err(|_| invalid("a sequence key must be UTF-8"))?;
        let number = wire.first_number.checked_add(place as u64);
        let number = number.ok_or_else(|| invalid("the numbers of the run exceed 64 bits"))?;
        let id = RequestId::new(self.session, number, wire.first_incomplete)?;
        let count = wire.counts.get(place).or(wire.counts.first()).copied().unwrap_or_default();
        Ok(SeqRequest::new(vec![(SeqKey::new(key)?, count)], Some(id))?)
    }
}

impl Iterator for Run {
    type Item = Result<SeqRequest>;

    fn next(&mut self) -> Option<Self::Item> {
        let (place, from) = self.next;
        let to = from + *self.wire.key_bytes.get(place)? as usize;
        self.next = (place + 1, to);
        Some(self.request(place, &self.wire.keys[from..to]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.wire.key_bytes.len() - self.next.0;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Run {}
