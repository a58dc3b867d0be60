use tsoracle_core::{Epoch, LeaseId, SeqKey, state::Capped};

use super::*;

const OWN: &str = "10.0.0.1:50551";

/// The example of the protocol's description, byte for byte.
const HINT: &[u8] = b"\x0a\x0e10.0.0.7:50551\x12\x02\x10\x2a";

/// What a status carries: the hint trailer's bytes, and the flags.
#[derive(PartialEq, Debug, Default)]
struct Trailers {
    hint: Option<Vec<u8>>,
    uncommitted: bool,
    session_unknown: bool,
}

fn trailers(status: &Status) -> Trailers {
    let metadata = status.metadata();
    Trailers {
        hint: metadata
            .get_bin(metadata::LEADER_HINT)
            .map(|value| value.to_bytes().expect("valid base64").to_vec()),
        uncommitted: metadata.get(metadata::UNCOMMITTED).is_some_and(|value| value == "1"),
        session_unknown: metadata.get(metadata::SESSION_UNKNOWN).is_some_and(|value| value == "1"),
    }
}

fn none() -> Trailers {
    Trailers::default()
}

fn hint(bytes: &[u8]) -> Trailers {
    Trailers { hint: Some(bytes.to_vec()), ..none() }
}

fn statuses() -> Statuses {
    Statuses::new(Some(OWN.into()))
}

fn leader(endpoint: &str) -> ErrorKind {
    let (endpoint, epoch) = (endpoint.into(), Some(Epoch(42)));
    ErrorKind::NotLeader(Some(LeaderHint { endpoint, epoch }))
}

#[test]
fn every_row_of_the_table() {
    let key = SeqKey::new("k").unwrap();
    let (limit, id) = (1, LeaseId(1));
    let refused = ErrorKind::Rejected;
    let unknown = || Trailers { session_unknown: true, ..none() };
    let uncommitted = || Trailers { uncommitted: true, ..none() };
    let rows = [
        // Not leader, fenced, lease run out, draining.
        (leader("10.0.0.7:50551"), Code::FailedPrecondition, hint(HINT), hint(HINT)),
        (leader(OWN), Code::FailedPrecondition, none(), hint(b"")),
        (leader(""), Code::FailedPrecondition, none(), hint(b"")),
        (ErrorKind::NotLeader(None), Code::FailedPrecondition, none(), hint(b"")),
        (
            refused(Reject::Fenced { current: Epoch(9) }),
            Code::FailedPrecondition,
            none(),
            hint(b""),
        ),
        // Overflow, below the first incomplete.
        (
            refused(Reject::Overflow { key: key.clone(), next: 7 }),
            Code::FailedPrecondition,
            none(),
            none(),
        ),
        (
            refused(Reject::Forgotten { number: 1, first_incomplete: 2 }),
            Code::FailedPrecondition,
            none(),
            none(),
        ),
        (refused(Reject::SessionUnknown), Code::FailedPrecondition, unknown(), unknown()),
        // Leases that are not the holder's any more, or not yet.
        (refused(Reject::StaleHolder { current: 2 }), Code::FailedPrecondition, none(), none()),
        (refused(Reject::LeaseOver { id }), Code::FailedPrecondition, none(), none()),
        (refused(Reject::LeaseSuperseded { id }), Code::FailedPrecondition, none(), none()),
        (refused(Reject::LeaseUnknown { id }), Code::NotFound, none(), none()),
        (refused(Reject::SequenceExists { key, next: 7 }), Code::AlreadyExists, none(), none()),
        // Wrong arguments.
        (ErrorKind::Invalid, Code::InvalidArgument, none(), none()),
        (refused(Reject::IdReused { number: 1 }), Code::InvalidArgument, none(), none()),
        // Caps.
        (
            refused(Reject::TooMany { what: Capped::Sequences, limit }),
            Code::ResourceExhausted,
            none(),
            none(),
        ),
        (
            refused(Reject::TooMany { what: Capped::Sessions, limit }),
            Code::ResourceExhausted,
            none(),
            none(),
        ),
        (refused(Reject::TooManyOpenRequests { limit }), Code::ResourceExhausted, none(), none()),
        (
            refused(Reject::TooMany { what: Capped::Leases, limit }),
            Code::ResourceExhausted,
            none(),
            none(),
        ),
        (ErrorKind::Overloaded, Code::ResourceExhausted, none(), none()),
        // Transient trouble: certainly not committed, and unknown.
        (ErrorKind::Unavailable, Code::Unavailable, uncommitted(), uncommitted()),
        (ErrorKind::Uncertain, Code::Unavailable, none(), none()),
        // Bugs and latched errors.
        (ErrorKind::Fatal, Code::Internal, none(), none()),
        (ErrorKind::Corrupt, Code::Internal, none(), none()),
        (ErrorKind::Config, Code::Internal, none(), none()),
        (refused(Reject::OutOfRange { high_water_ms: 1 }), Code::OutOfRange, none(), none()),
    ];
    for (kind, code, for_timestamps, for_sequences) in rows {
        let error = Error::new(kind.clone(), "why");
        for (asked, expected) in
            [(Asked::Timestamps, for_timestamps), (Asked::Sequences, for_sequences)]
        {
            let status = statuses().of(&error, asked);
            assert_eq!(status.code(), code, "{kind:?} {asked:?}");
            assert_eq!(trailers(&status), expected, "{kind:?} {asked:?}");
        }
    }
}

#[test]
fn the_rows_that_have_no_error_of_the_engine() {
    assert_eq!(too_late().code(), Code::DeadlineExceeded);
    assert_eq!(bad_timeout().code(), Code::InvalidArgument);
    assert_eq!(never_used("orders").code(), Code::NotFound);
    for status in [too_late(), bad_timeout(), never_used("orders")] {
        assert_eq!(trailers(&status), none());
    }
}

#[test]
fn not_leader_is_said_in_two_words_and_all_else_with_its_reason() {
    let of = |kind| statuses().of(&Error::new(kind, "why"), Asked::Timestamps);
    assert_eq!(of(leader("b:1")).message(), "not leader");
    assert_eq!(of(ErrorKind::NotLeader(None)).message(), "not leader");
    assert_eq!(of(ErrorKind::Unavailable).message(), "why");
    assert_eq!(of(ErrorKind::Rejected(Reject::SessionUnknown)).message(), "why");
}
