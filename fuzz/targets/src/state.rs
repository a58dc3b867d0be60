use tsoracle_core::{Effect, Seal, Version};

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
