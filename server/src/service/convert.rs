use std::time::Duration;

use tsoracle_core::{
    Epoch, Error, ErrorKind, Grant, RequestId, RequestName, Result, SeqKey, SeqRequest, Session,
    WallClock,
};
use tsoracle_proto::{SESSION_BYTES, v1};

pub(super) fn epoch(epoch: Epoch) -> v1::EpochWire {
    epoch.0.into()
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// By how much the wall clock is off, ahead or behind.
pub(super) fn clock_off_ms(clock: Option<WallClock>) -> i64 {
    let signed = |off| i64::try_from(millis(off)).unwrap_or(i64::MAX);
    match clock {
        Some(WallClock::Ahead(by)) => signed(by),
        Some(WallClock::Behind(by)) => -signed(by),
        Some(WallClock::Followed) | None => 0,
    }
}

pub(super) fn timestamps(granted: Grant) -> v1::GetTsResponse {
    let first = granted.range.first();
    v1::GetTsResponse {
        physical_ms: first.physical_ms(),
        logical_start: first.logical(),
        count: granted.range.count(),
        epoch_hi: granted.epoch.hi(),
        epoch_lo: granted.epoch.lo(),
    }
}

/// A sequence request, checked.
pub(super) fn seq_request(
    entries: impl IntoIterator<Item = (String, u32)>,
    id: Option<v1::RequestId>,
) -> Result<SeqRequest> {
    let entries = entries
        .into_iter()
        .map(|(key, count)| Ok((SeqKey::new(key)?, count)))
        .collect::<Result<Vec<_>>>()?;
    Ok(match id {
        Some(id) if !id.name.is_empty() => SeqRequest::named(entries, request_name(id)?)?,
        id => SeqRequest::new(entries, id.map(request_id).transpose()?)?,
    })
}

/// The name of a request, which comes instead of all else that an id has.
fn request_name(wire: v1::RequestId) -> Result<RequestName> {
    let name = RequestName::new(&wire.name)?;
    if wire != (v1::RequestId { name: wire.name.clone(), ..v1::RequestId::default() }) {
        let context = "a request id has a name or a session and numbers, not both";
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    Ok(name)
}

fn request_id(wire: v1::RequestId) -> Result<RequestId> {
    let session = wire.session[..].try_into().map_err(|_| {
        let given = wire.session.len();
        let context = format!("a session has {SESSION_BYTES} bytes, this one has {given}");
        Error::new(ErrorKind::Invalid, context)
    })?;
    let id = RequestId::new(Session(session), wire.number, wire.first_incomplete)?;
    Ok(RequestId { retry: wire.retry, close: wire.close, ..id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(session: &'static [u8]) -> v1::RequestId {
        let session = session.into();
        let id = v1::RequestId { session, number: 3, first_incomplete: 2, ..Default::default() };
        v1::RequestId { retry: true, close: true, ..id }
    }

    #[test]
    fn every_field_of_a_request_id_arrives() {
        let id = request_id(wire(b"0123456789abcdef")).unwrap();
        assert_eq!(id.session, Session(*b"0123456789abcdef"));
        assert_eq!((id.number.get(), id.first_incomplete.get()), (3, 2));
        assert!(id.retry && id.close);
    }

    #[test]
    fn what_is_no_request_id_is_invalid() {
        for id in [
            wire(b""),
            wire(b"0123456789abcde"),
            wire(b"0123456789abcdef0"),
            v1::RequestId { number: 0, ..wire(b"0123456789abcdef") },
            v1::RequestId { first_incomplete: 0, ..wire(b"0123456789abcdef") },
            v1::RequestId { first_incomplete: 4, ..wire(b"0123456789abcdef") },
        ] {
            let error = seq_request([("k".into(), 1)], Some(id)).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
        }
    }

    #[test]
    fn a_name_comes_alone() {
        let named = |name: &str| v1::RequestId { name: name.into(), ..Default::default() };
        let request = seq_request([("k".into(), 1)], Some(named("order-17"))).unwrap();
        assert_eq!(request.name(), Some(&RequestName::new("order-17").unwrap()));
        assert_eq!(request.id(), None);
        for id in [
            named(&"n".repeat(129)),
            v1::RequestId { session: b"0123456789abcdef"[..].into(), ..named("n") },
            v1::RequestId { number: 1, ..named("n") },
            v1::RequestId { first_incomplete: 1, ..named("n") },
            v1::RequestId { retry: true, ..named("n") },
            v1::RequestId { close: true, ..named("n") },
        ] {
            let error = seq_request([("k".into(), 1)], Some(id)).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
        }
    }
}
