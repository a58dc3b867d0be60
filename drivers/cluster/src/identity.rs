use serde::{Deserialize, Serialize};
use tsoracle_core::{Error, ErrorKind, NodeId, Result, state::Effect};
use tsoracle_store::{Store, Table};

use crate::{Cluster, EntryId};

const NODE: Table = Table::new("node");
const KEY: &[u8] = b"identity";
const VERSION: u8 = 1;

/// Who the node of a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    stored: Stored,
    entries: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Stored {
    node: u32,
    cluster: String,
    id: NodeId,
    claim: u32,
}

impl Identity {
    /// Finds who the node is, or draws it, and raises its claim: durable on return.
    ///
    /// # Errors
    /// `Config` if the directory is another driver's, another node's or another cluster's;
    /// `Corrupt` if what is stored cannot be read; those of the store. Then nothing was changed.
    pub fn open(store: &Store, driver: &str, cluster: &Cluster) -> Result<Self> {
        let stored = match store.read(NODE, KEY)? {
            Some(bytes) => {
                store.belong_to(driver)?;
                let stored = decode(&bytes)?;
                check(&stored, cluster)?;
                stored
            }
            None => {
                store.belong_to(driver)?;
                Stored { node: cluster.node, cluster: cluster.name.clone(), id: draw()?, claim: 0 }
            }
        };
        let mut identity = Self { stored, entries: 0 };
        identity.raise_claim(store)?;
        Ok(identity)
    }

    /// Makes a claim above every earlier one of this node, durable on return.
    ///
    /// # Errors
    /// `Fatal` if the claims are used up, and those of the store.
    pub fn raise_claim(&mut self, store: &Store) -> Result<u32> {
        let claim = self.stored.claim.checked_add(1).ok_or_else(|| {
            let context = "the claims of this node are used up; give it a new id and directory";
            Error::new(ErrorKind::Fatal, context)
        })?;
        let raised = Stored { claim, ..self.stored.clone() };
        let mut effect = Effect::default();
        effect.put(KEY, encode(&raised)?);
        store.write([(NODE, effect)])?;
        self.stored = raised;
        self.entries = 0;
        Ok(claim)
    }

    /// Which node of the cluster this is.
    pub fn node(&self) -> u32 {
        self.stored.node
    }

    /// The id that the directory drew when it was made.
    pub fn id(&self) -> NodeId {
        self.stored.id
    }

    /// The last claim.
    pub fn claim(&self) -> u32 {
        self.stored.claim
    }

    /// Names a new log entry. No other entry of any node ever has the same name.
    pub fn next_entry(&mut self) -> EntryId {
        self.entries += 1;
        EntryId { node: self.node(), claim: self.claim(), counter: self.entries }
    }
}

fn check(stored: &Stored, cluster: &Cluster) -> Result<()> {
    let path = cluster.path.display();
    let context = if stored.node != cluster.node {
        let (found, given) = (stored.node, cluster.node);
        format!(
            "directory {path} is node {found}'s, not node {given}'s; give node={found} or another path"
        )
    } else if stored.cluster != cluster.name {
        let (found, given) = (&stored.cluster, &cluster.name);
        format!(
            "directory {path} is of the cluster {found:?}, not {given:?}; give cluster={found} \
             or another path"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Config, context))
}

fn draw() -> Result<NodeId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|source| {
        Error::new(ErrorKind::Fatal, "no randomness for a node id").with_source(source)
    })?;
    Ok(NodeId(u128::from_be_bytes(bytes)))
}

fn encode(stored: &Stored) -> Result<Vec<u8>> {
    postcard::to_extend(stored, vec![VERSION]).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot encode the node's identity").with_source(source)
    })
}

fn decode(bytes: &[u8]) -> Result<Stored> {
    let unreadable = |what: &str| {
        let context = format!("the node's identity {what}; restore the directory");
        Error::new(ErrorKind::Corrupt, context)
    };
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|_| unreadable("cannot be read"))
        }
        Some((version, _)) => Err(unreadable(&format!("has format {version}, not {VERSION}"))),
        None => Err(unreadable("is empty")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Config;

    fn cluster(path: &Path, node: u32, name: &str) -> Cluster {
        let peers = "1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1".into();
        let config =
            Config { path: path.into(), node, peers, cluster: name.into(), ..Config::default() };
        config.check().unwrap()
    }

    fn open(path: &Path, driver: &str, node: u32, name: &str) -> Result<Identity> {
        let store = Store::open(path, Default::default())?;
        Identity::open(&store, driver, &cluster(path, node, name))
    }

    #[test]
    fn a_node_stays_itself_and_every_open_raises_the_claim() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), "openraft", 1, "a").unwrap();
        let mut second = open(directory.path(), "openraft", 1, "a").unwrap();
        assert_eq!((first.claim(), second.claim()), (1, 2));
        assert_eq!(first.id(), second.id());
        assert_eq!(second.next_entry(), EntryId { node: 1, claim: 2, counter: 1 });
        assert_eq!(second.next_entry(), EntryId { node: 1, claim: 2, counter: 2 });
    }

    #[test]
    fn anothers_directory_is_refused_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        open(path, "openraft", 1, "a").unwrap();
        for (driver, node, name, text) in [
            ("openraft", 2, "a", "node 1's, not node 2's"),
            ("openraft", 1, "b", "of the cluster \"a\", not \"b\""),
            ("omnipaxos", 1, "a", "the openraft driver's, not the omnipaxos driver's"),
        ] {
            let error = open(path, driver, node, name).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(text), "{error}");
        }
        let error = Store::open(path, Default::default()).unwrap().belong_to("file").unwrap_err();
        assert!(error.to_string().contains("the openraft driver's"), "{error}");
        assert_eq!(open(path, "openraft", 1, "a").unwrap().claim(), 2);
    }

    #[test]
    fn a_directory_with_a_single_nodes_state_is_refused() {
        use tsoracle_core::SeqStore as _;
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), Default::default()).unwrap();
        let mut effect = Effect::default();
        effect.put(*b"key", *b"value");
        store.commit(effect).unwrap();
        drop(store);
        let error = open(directory.path(), "openraft", 1, "a").unwrap_err();
        assert!(error.to_string().contains("is the file driver's"), "{error}");
    }

    #[test]
    fn claims_do_not_wrap() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let mut identity =
            Identity::open(&store, "openraft", &cluster(directory.path(), 1, "a")).unwrap();
        identity.stored.claim = u32::MAX;
        assert_eq!(*identity.raise_claim(&store).unwrap_err().kind(), ErrorKind::Fatal);
    }
}
