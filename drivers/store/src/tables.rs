//! The state in memory: maps by name, of which a copy costs next to nothing.

use std::sync::Arc;

use crate::map::Map;

/// All tables, by their names. There are a handful.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tables(Vec<(Arc<str>, Map)>);

impl Tables {
    pub(crate) fn get(&self, name: &str) -> Option<&Map> {
        self.0.iter().find(|(found, _)| **found == *name).map(|(_, map)| map)
    }

    /// The table of that name; created if it does not exist.
    pub(crate) fn table(&mut self, name: &str) -> &mut Map {
        let index = self.0.iter().position(|(found, _)| **found == *name);
        let index = index.unwrap_or_else(|| {
            self.0.push((name.into(), Map::default()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.0.iter().map(|(name, map)| (&**name, map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_held() {
        let mut tables = Tables::default();
        (0..1_000_u32).for_each(|key| tables.table("t").put(&key.to_be_bytes(), b"old"));
        let before = tables.clone();
        (0..1_000_u32).for_each(|key| tables.table("t").put(&key.to_be_bytes(), b"newer"));
        tables.table("t").delete(&7_u32.to_be_bytes());
        let (map, before) = (tables.get("t").unwrap(), before.get("t").unwrap());
        assert_eq!((map.len(), before.len()), (999, 1_000));
        assert!(before.iter().all(|(_, value)| value == b"old"));
        assert!(map.iter().all(|(_, value)| value == b"newer"));
        assert_eq!(map.get(&7_u32.to_be_bytes()), None);
    }
}
