use serde::{Deserialize, Serialize};
use tsoracle_core::{Effect, Error, ErrorKind, NodeId, Result};
use tsoracle_store::{Store, Table};

use crate::{Cluster, stored};

const NODE: Table = Table::new("node");
const KEY: &[u8] = b"identity";
const MEMBERS: &[u8] = b"members";

/// The format this release writes, and the only one it reads. In format 1, logs held commands.
pub(crate) const FORMAT: u8 = 2;

/// The same of the list of members.
const MEMBERS_FORMAT: u8 = 1;

/// Who the node of a directory is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    node: u32,
    cluster: String,
    id: NodeId,
    starts: u64,
}

impl Identity {
    /// Finds who the node is, or draws it, and counts the start: durable on return.
    ///
    /// # Errors
    /// `Config` if the directory is another driver's, another node's, another cluster's or an earlier
    /// release's; `Corrupt` if what is stored cannot be read; those of the store. Then nothing was
    /// changed.
    pub fn open(store: &Store, driver: &str, cluster: &Cluster) -> Result<Self> {
        let stored = store.read(NODE, KEY)?;
        store.belong_to(driver)?;
        let identity = match stored {
            Some(bytes) => {
                let stored = read(&bytes, cluster)?;
                check(&stored, cluster)?;
                Self { starts: stored.starts + 1, ..stored }
            }
            None => {
                Self { node: cluster.node, cluster: cluster.name.clone(), id: draw()?, starts: 1 }
            }
        };
        let mut effect = Effect::default();
        effect.put(KEY, stored::encode(FORMAT, &identity)?);
        store.write([(NODE, effect)])?;
        Ok(identity)
    }

    /// Binds the directory to the numbers of the nodes in `peers`, for a driver whose members are those and
    /// stay: two lists have majorities without a common node, and so two leaders. Durable on return.
    ///
    /// # Errors
    /// `Config` if the directory is bound to another list; `Corrupt` if what is stored cannot be read; those
    /// of the store.
    pub fn bind_members(store: &Store, cluster: &Cluster) -> Result<()> {
        let given: Vec<u32> = cluster.members.keys().copied().collect();
        let path = cluster.path.display();
        let Some(bytes) = store.read(NODE, MEMBERS)? else {
            let mut effect = Effect::default();
            effect.put(MEMBERS, stored::encode(MEMBERS_FORMAT, &given)?);
            return store.write([(NODE, effect)]);
        };
        let what = format!("the list of members in {path}");
        let bound: Vec<u32> = stored::decode(MEMBERS_FORMAT, &bytes, &what)?;
        if bound == given {
            return Ok(());
        }
        let context = format!(
            "directory {path} is of a cluster of the nodes {bound:?}, and `peers` names {given:?}, but \
             this driver's nodes stay; give the same list, or begin a new cluster and copy the state \
             with `tsoracle migrate`"
        );
        Err(Error::new(ErrorKind::Config, context))
    }

    /// The same for each node of that number.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn fixed(node: u32) -> Self {
        Self { node, cluster: "tsoracle".into(), id: NodeId(node.into()), starts: 1 }
    }

    /// Which node of the cluster this is.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// The id that the directory drew when it was made.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// How often the directory was opened, this time included.
    pub fn starts(&self) -> u64 {
        self.starts
    }
}

fn check(stored: &Identity, cluster: &Cluster) -> Result<()> {
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

pub(crate) fn read(bytes: &[u8], cluster: &Cluster) -> Result<Identity> {
    let path = cluster.path.display();
    if bytes.first().is_some_and(|format| *format < FORMAT) {
        let context = format!(
            "directory {path} was written by an earlier release, whose log this one cannot read: \
             start the cluster with that release, copy its state with `tsoracle migrate` into a \
             directory of the file driver, and from there into a new cluster of this release"
        );
        return Err(Error::new(ErrorKind::Config, context));
    }
    stored::decode(FORMAT, bytes, &format!("the identity of the node in {path}"))
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
    fn a_node_stays_itself_and_every_open_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), "openraft", 1, "a").unwrap();
        let second = open(directory.path(), "openraft", 1, "a").unwrap();
        assert_eq!((first.starts(), second.starts()), (1, 2));
        assert_eq!(first.id(), second.id());
    }

    #[test]
    fn a_directory_of_an_earlier_release_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        store.belong_to("openraft").unwrap();
        let mut effect = Effect::default();
        effect.put(KEY, [1, 1, 1, b'a', 5, 1]);
        store.write([(NODE, effect)]).unwrap();
        drop(store);
        let error = open(directory.path(), "openraft", 1, "a").unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("tsoracle migrate"), "{error}");
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
        assert_eq!(open(path, "openraft", 1, "a").unwrap().starts(), 2);
    }

    #[test]
    fn another_list_of_members_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let bind = |peers: &str| {
            let (path, peers) = (directory.path().into(), peers.into());
            let config = Config { path, node: 1, peers, ..Config::default() };
            Identity::bind_members(&store, &config.check().unwrap())
        };
        bind("1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1").unwrap();
        for other in [
            "1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1,3=127.0.0.1:3/c:1",
            "1=127.0.0.1:1/a:1,3=127.0.0.1:2/b:1",
        ] {
            let error = bind(other).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("nodes [1, 2]"), "{error}");
        }
        // The same nodes at other addresses.
        bind("1=127.0.0.1:7/a:1,2=127.0.0.1:8/z:1").unwrap();
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
}
