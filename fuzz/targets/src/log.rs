use tsoracle_replica::{
    LogEntry,
    message_parts::{Joiner, Session, split},
};

pub(crate) fn entry(data: &[u8]) -> bool {
    let named = LogEntry::peek(data);
    let Ok(entry) = LogEntry::decode(data) else { return false };
    assert_eq!(named, Some(entry.next()));
    let encoded = entry.encode().expect("what was read can be encoded");
    assert_eq!(LogEntry::decode(&encoded).expect("what was encoded can be read"), entry);
    true
}

/// Joins parts: the length of each in two bytes, and the part. Then splits all of it, and joins it again.
pub(crate) fn message_parts(data: &[u8]) -> bool {
    let (mut joiner, mut rest, mut joined) = (Joiner::default(), data, false);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (part, behind) = behind.split_at(length);
        joined |= joiner.take(part).is_ok_and(|message| message.is_some());
        rest = behind;
    }
    let mut joiner = Joiner::default();
    let parts = split(data, Session { start: 7, number: 1 }, 1).expect("it is short");
    let messages: Vec<_> = parts.iter().map(|part| joiner.take(part).expect("a part")).collect();
    assert_eq!(messages.last().and_then(Option::as_deref), Some(data));
    joined
}
