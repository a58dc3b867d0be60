use super::{Record, keys};

/// Reads what is stored under a key: the key's length in one byte, the key, and the value.
pub fn record(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first() else { return false };
    let (key, value) = rest.split_at(rest.len().min((*length).into()));
    // What rules read from keys alone.
    let _ = (keys::name_of(key), keys::end_of_page(key));
    let _ = (keys::session_of(key), keys::bound_of(key));
    let Ok(record) = Record::decode(key, value.to_vec()) else { return false };
    if let Record::Answers(page) = &record {
        for number in 0..=keys::PAGE {
            let _ = page.find(key, number);
        }
    }
    let encoded = record.encode_to(vec![]);
    assert!(encoded.len() <= record.size(), "{} bytes: {record:?}", encoded.len());
    let again = Record::decode(key, encoded).expect("what was encoded can be read");
    assert_eq!(again, record);
    true
}
