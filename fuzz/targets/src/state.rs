use tsoracle_core::{BackupReader, BackupWriter, Effect, Seal, Version};

pub(crate) fn effect(data: &[u8]) -> bool {
    let Ok(effect) = Effect::decode(data) else { return false };
    let encoded = effect.encode().expect("what was read can be encoded");
    assert!(encoded.len() <= effect.size() + 11, "an effect is larger than it says");
    assert_eq!(Effect::decode(&encoded).expect("what was encoded can be read"), effect);
    let _ = effect.version();
    let keys: Vec<_> = effect.iter().map(|(key, _)| key.to_vec()).collect();
    assert!(keys.is_sorted_by(|one, next| one < next));
    true
}

pub(crate) fn version(data: &[u8]) -> bool {
    if let Some(seal) = Seal::decode(data) {
        assert_eq!(seal.encode(), data);
    }
    let Ok(version) = Version::decode(Some(data)) else { return false };
    assert_eq!(version.encode(), data);
    true
}

/// A backup that is whole can be written again as it was, and is the same.
pub(crate) fn backup(data: &[u8]) -> bool {
    let Ok(mut backup) = BackupReader::new(data) else { return false };
    let header = backup.header().clone();
    let mut writer = BackupWriter::new(vec![], &header).expect("memory takes all");
    loop {
        match backup.next_entries() {
            Err(_) => return false,
            Ok(None) => break,
            Ok(Some(entries)) => {
                entries.iter().for_each(|entry| writer.put(entry).expect("it was read"));
            }
        }
    }
    let (again, contents) = writer.finish().expect("it was whole");
    assert_eq!(Some(&contents), backup.contents());
    let mut again = BackupReader::new(&*again).expect("it was written");
    while again.next_entries().expect("it is whole").is_some() {}
    assert_eq!((again.header(), again.contents()), (&header, Some(&contents)));
    true
}
