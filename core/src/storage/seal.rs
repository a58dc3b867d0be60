use crate::{Effect, Result};

/// The number of commits of a store, and a sum over the checksums of all its entries.
///
/// For a store whose database could lose entries without noticing: one that has no checksums, or
/// whose recovery makes do with what it finds. The store keeps the seal beside its entries and
/// replaces it in each of its atomic commits. When it is opened, it reads all entries once and
/// compares. What the seal cannot tell, that the whole store is an older one, tells
/// [`Directory::verify`](crate::Directory::verify) by the number of commits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Seal {
    commits: u64,
    sum: u64,
}

impl Seal {
    /// How many commits there have been.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// The seal once `effect` is committed. `get` reads the entries as they are before.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn after(
        &self,
        effect: &Effect,
        mut get: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>>,
    ) -> Result<Self> {
        let mut after = Self { commits: self.commits + 1, ..*self };
        for (key, value) in effect.iter() {
            if let Some(replaced) = get(key)? {
                after.sum = after.sum.wrapping_sub(checksum(key, &replaced));
            }
            if let Some(value) = value {
                after.add(key, value);
            }
        }
        Ok(after)
    }

    /// Takes in an entry. From [`default`](Self::default) on, this makes a seal of what there is.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_add(checksum(key, value));
    }

    /// Whether both are of the same entries, after however many commits.
    pub fn same_entries(&self, other: &Self) -> bool {
        self.sum == other.sum
    }

    /// The seal as it is stored.
    pub fn encode(&self) -> [u8; 16] {
        (u128::from(self.commits) << 64 | u128::from(self.sum)).to_be_bytes()
    }

    /// What [`encode`](Self::encode) has made, if it can be that.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let both = u128::from_be_bytes(bytes.try_into().ok()?);
        Some(Self { commits: (both >> 64) as u64, sum: both as u64 })
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    // The length goes in as well, so that bytes cannot move from the key to the value.
    let length = crc32c::crc32c(&(key.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(length, key), value).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStore, SeqStore};

    fn of_all(store: &MemoryStore) -> Seal {
        let mut seal = Seal::default();
        for (key, value) in store.scan(&[], &[255], usize::MAX).unwrap() {
            seal.add(&key, &value);
        }
        seal
    }

    #[test]
    fn a_seal_follows_the_entries() {
        let mut store = MemoryStore::default();
        let mut seal = Seal::default();
        for commit in 0..50_u64 {
            let mut effect = Effect::default();
            effect.put([commit as u8 % 7], commit.to_be_bytes());
            effect.put([commit as u8 % 5 + 10], []);
            effect.delete([commit as u8 % 11]);
            seal = seal.after(&effect, |key| store.get(key)).unwrap();
            store.commit(effect).unwrap();
            assert!(seal.same_entries(&of_all(&store)), "{commit}");
        }
        assert_eq!(seal.commits(), 50);
        assert_eq!(Seal::decode(&seal.encode()), Some(seal));
        assert_eq!(Seal::decode(&seal.encode()[1..]), None);
    }

    #[test]
    fn one_entry_more_less_or_other_is_noticed() {
        let seal = |entries: &[(&str, &str)]| {
            let mut seal = Seal::default();
            entries.iter().for_each(|(key, value)| seal.add(key.as_bytes(), value.as_bytes()));
            seal
        };
        let sealed = seal(&[("a", "1"), ("b", "")]);
        assert!(sealed.same_entries(&seal(&[("b", ""), ("a", "1")])));
        for entries in [
            &[("a", "1")][..],
            &[("a", "1"), ("b", ""), ("c", "")],
            &[("a", "2"), ("b", "")],
            &[("a1", ""), ("b", "")],
            &[],
        ] {
            assert!(!sealed.same_entries(&seal(entries)), "{entries:?}");
        }
    }
}
