use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use tsoracle_core::{Effect, Error, ErrorKind, NodeId, Result};
use tsoracle_store::{Store, Table};

use crate::{Addresses, Cluster, stored};

const NODE: Table = Table::new("node");
const KEY: &[u8] = b"identity";
const MEMBERS: &[u8] = b"members";
const CLUSTER: &[u8] = b"cluster";
const OPENER: &[u8] = b"opener";

/// The format this release writes, and the only one it reads. In format 1, logs held commands.
pub(crate) const FORMAT: u8 = 2;

/// The same of the list of members.
const MEMBERS_FORMAT: u8 = 1;

/// The same of the cluster that the node belongs to.
const CLUSTER_FORMAT: u8 = 1;

/// Which cluster a node belongs to, whatever the name of that is: drawn when the cluster is formed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The cluster that a node belongs to, for good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Formed {
    /// Its id.
    pub id: ClusterId,
    /// The directory is of a release that drew no ids, and has drawn this one for itself. Nodes that know each
    /// other's directories agree on the smallest one.
    pub is_provisional: bool,
    /// The nodes that it was formed of, if this node took part in that.
    pub nodes: BTreeMap<u32, Addresses>,
}

impl Formed {
    /// The write that has a node belong to it.
    pub(crate) fn note(&self) -> Result<(Table, Effect)> {
        note_cluster(Some(self))
    }

    /// # Errors
    /// `Fatal` if the system has no randomness.
    pub(crate) fn draw(is_provisional: bool, nodes: BTreeMap<u32, Addresses>) -> Result<Self> {
        Ok(Self { id: ClusterId(draw()?), is_provisional, nodes })
    }
}

fn note_cluster(formed: Option<&Formed>) -> Result<(Table, Effect)> {
    let mut effect = Effect::default();
    effect.put(CLUSTER, stored::encode(CLUSTER_FORMAT, &formed)?);
    Ok((NODE, effect))
}

/// Who the node of a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    stored: Stored,
    formed: Option<Formed>,
    opener: NodeId,
    incarnation: u64,
}

/// What the directory holds of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    node: u32,
    cluster: String,
    id: NodeId,
    starts: u64,
}

impl Identity {
    /// Finds who the node is, or draws it, and counts the start: durable on return.
    ///
    /// A node that is to form a cluster of its own belongs to one from then on. A directory of a release that drew
    /// no ids of clusters draws one for itself, if it `is_used`: if it ever took part in one.
    ///
    /// # Errors
    /// `Config` if the directory is another driver's, another node's, another cluster's or an earlier
    /// release's; `Excluded` if it is a copy, and not declared to be moved; `Corrupt` if what is stored cannot be
    /// read; those of the store. Then nothing was changed.
    pub fn open(
        store: &Store,
        driver: &str,
        cluster: &Cluster,
        is_used: impl FnOnce(&Store) -> Result<bool>,
    ) -> Result<Self> {
        let bytes = store.read(NODE, KEY)?;
        store.belong_to(driver)?;
        let (stored, mut formed) = match bytes {
            Some(bytes) => {
                let stored = read(&bytes, cluster)?;
                check(&stored, cluster)?;
                check_place(store, cluster)?;
                let formed = match store.read(NODE, CLUSTER)? {
                    Some(bytes) => stored::decode(CLUSTER_FORMAT, &bytes, &what(cluster))?,
                    None if is_used(store)? => Some(Formed::draw(true, BTreeMap::new())?),
                    None => None,
                };
                (Stored { starts: stored.starts + 1, ..stored }, formed)
            }
            None => {
                let (node, cluster) = (cluster.node, cluster.name.clone());
                (Stored { node, cluster, id: NodeId(draw()?), starts: 1 }, None)
            }
        };
        if formed.is_none() && !cluster.join && cluster.members.len() == 1 {
            formed = Some(Formed::draw(false, cluster.members.clone())?);
        }
        let mut effect = Effect::default();
        effect.put(KEY, stored::encode(FORMAT, &stored)?);
        let opener = match store.read(NODE, OPENER)? {
            // What was copied proves no process dead that has used the original.
            _ if store.is_copy() => Some(draw()?.to_be_bytes().to_vec()),
            opener => opener,
        };
        if let Some(opener) = &opener {
            effect.put(OPENER, opener.clone());
        }
        let opener = opener.and_then(|id| Some(u128::from_be_bytes(id.try_into().ok()?)));
        let opener = opener.map_or(stored.id, NodeId);
        store.write([(NODE, effect), note_cluster(formed.as_ref())?])?;
        store.settle_here()?;
        Ok(Self { stored, formed, opener, incarnation: draw()? as u64 })
    }

    /// Binds the directory to the numbers of the nodes in `peers`, for a driver whose members are those and
    /// stay: two lists have majorities without a common node, and so two leaders. Durable on return. The list
    /// can be another one for as long as no cluster was formed.
    ///
    /// # Errors
    /// `Config` if the directory is bound to another list; `Corrupt` if what is stored cannot be read; those
    /// of the store.
    pub fn bind_members(&self, store: &Store, cluster: &Cluster) -> Result<()> {
        let given: Vec<u32> = cluster.members.keys().copied().collect();
        let path = cluster.path.display();
        let bound = store.read(NODE, MEMBERS)?.filter(|_| self.formed.is_some());
        let Some(bytes) = bound else {
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

    /// A node with that directory, which belongs to cluster `formed`.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn fixed(node: u32, directory: u128, formed: Option<Formed>) -> Self {
        let id = NodeId(directory);
        let stored = Stored { node, cluster: "tsoracle".into(), id, starts: 1 };
        Self { stored, formed, opener: id, incarnation: draw().unwrap_or_default() as u64 }
    }

    #[cfg(feature = "fuzz")]
    pub(crate) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Which node of the cluster this is.
    pub fn node(&self) -> u32 {
        self.stored.node
    }

    /// The id that the directory drew when it was made.
    pub fn id(&self) -> NodeId {
        self.stored.id
    }

    /// The id that reigns are opened under: that of the directory, until it is moved.
    pub fn opener(&self) -> NodeId {
        self.opener
    }

    /// How often the directory was opened, this time included.
    pub fn starts(&self) -> u64 {
        self.stored.starts
    }

    /// The cluster that it belongs to, if one was formed.
    pub fn formed(&self) -> Option<&Formed> {
        self.formed.as_ref()
    }

    /// Which process this is, of all that ever ran under this identity.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
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

/// A copy has promised what the original has, and forgets what that has promised since.
fn check_place(store: &Store, cluster: &Cluster) -> Result<()> {
    if !store.is_copy() || cluster.moved {
        return Ok(());
    }
    let (path, node) = (cluster.path.display(), cluster.node);
    let context = format!(
        "directory {path} was copied, restored or moved since node {node} last ran in it: what it forgets of \
         what node {node} has promised could lose what was acknowledged. If it was moved as it was, and the \
         original is used no more, start it once with moved=true; otherwise remove node {node} from the cluster, \
         and add it again under a new id with an empty directory and join=true"
    );
    Err(Error::new(ErrorKind::Excluded, context))
}

fn draw() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|source| {
        Error::new(ErrorKind::Fatal, "no randomness for an id").with_source(source)
    })?;
    Ok(u128::from_be_bytes(bytes))
}

fn what(cluster: &Cluster) -> String {
    format!("the identity of the node in {}", cluster.path.display())
}

pub(crate) fn read(bytes: &[u8], cluster: &Cluster) -> Result<Stored> {
    let path = cluster.path.display();
    if bytes.first().is_some_and(|format| *format < FORMAT) {
        let context = format!(
            "directory {path} was written by an earlier release, whose log this one cannot read: \
             start the cluster with that release, copy its state with `tsoracle migrate` into a \
             directory of the file driver, and from there into a new cluster of this release"
        );
        return Err(Error::new(ErrorKind::Config, context));
    }
    stored::decode(FORMAT, bytes, &what(cluster))
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
        Identity::open(&store, driver, &cluster(path, node, name), |_| Ok(true))
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
    fn a_node_that_is_to_be_alone_belongs_to_a_cluster_of_its_own_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let open = |peers: &str, join| {
            let store = Store::open(directory.path(), Default::default()).unwrap();
            let (path, peers) = (directory.path().into(), peers.into());
            let config = Config { path, node: 1, peers, join, ..Config::default() };
            let cluster = config.check().unwrap();
            let identity = Identity::open(&store, "openraft", &cluster, |_| Ok(false)).unwrap();
            identity.formed().cloned()
        };
        let (alone, two) = ("1=127.0.0.1:1/a:1", "1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1");
        assert_eq!(open(two, false), None);
        assert_eq!(open(alone, true), None);
        let formed = open(alone, false).unwrap();
        assert!(!formed.is_provisional && formed.nodes.len() == 1);
        assert_eq!(open(two, false), Some(formed));
    }

    #[test]
    fn a_directory_of_before_there_were_cluster_ids_draws_one_that_stays() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path(), "openraft", 1, "a").unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let mut effect = Effect::default();
        effect.delete(CLUSTER);
        store.write([(NODE, effect)]).unwrap();
        drop(store);
        let first = open(directory.path(), "openraft", 1, "a").unwrap();
        assert!(first.formed().unwrap().is_provisional);
        let second = open(directory.path(), "openraft", 1, "a").unwrap();
        assert_eq!(first.formed(), second.formed());
        assert_ne!(first.incarnation(), second.incarnation());
    }

    /// Copies a directory that no process uses.
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(std::fs::copy(entry.path(), to).unwrap()),
            }
        }
    }

    #[test]
    fn a_copy_of_a_directory_is_refused_until_it_is_declared_to_be_moved() {
        let directory = tempfile::tempdir().unwrap();
        let (original, copied) = (directory.path().join("original"), directory.path().join("copy"));
        let first = open(&original, "openraft", 1, "a").unwrap();
        assert_eq!(first.opener(), first.id());
        copy(&original, &copied);
        for _ in 0..2 {
            let error = open(&copied, "openraft", 1, "a").unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Excluded);
            assert!(error.to_string().contains("moved=true"), "{error}");
        }
        // The original is as it was.
        assert_eq!(open(&original, "openraft", 1, "a").unwrap().starts(), 2);
        let moved = || {
            let store = Store::open(&copied, Default::default()).unwrap();
            let cluster = Cluster { moved: true, ..cluster(&copied, 1, "a") };
            Identity::open(&store, "openraft", &cluster, |_| Ok(true)).unwrap()
        };
        // It is the same member, and waits for the lease of whichever process has opened the reign.
        let second = moved();
        assert_eq!(second.id(), first.id());
        assert_ne!(second.opener(), first.opener());
        assert_eq!(moved().opener(), second.opener());
        assert_eq!(open(&copied, "openraft", 1, "a").unwrap().opener(), second.opener());
    }

    #[test]
    fn another_list_of_members_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let bind = |identity: &Identity, peers: &str| {
            let (path, peers) = (directory.path().into(), peers.into());
            let config = Config { path, node: 1, peers, ..Config::default() };
            identity.bind_members(&store, &config.check().unwrap())
        };
        let new = Identity::fixed(1, 1, None);
        bind(&new, "1=127.0.0.1:1/a:1,4=127.0.0.1:2/b:1").unwrap();
        let formed = Formed::draw(false, BTreeMap::new()).unwrap();
        let identity = Identity::fixed(1, 1, Some(formed));
        bind(&new, "1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1").unwrap();
        for other in [
            "1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1,3=127.0.0.1:3/c:1",
            "1=127.0.0.1:1/a:1,3=127.0.0.1:2/b:1",
        ] {
            let error = bind(&identity, other).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("nodes [1, 2]"), "{error}");
        }
        // The same nodes at other addresses.
        bind(&identity, "1=127.0.0.1:7/a:1,2=127.0.0.1:8/z:1").unwrap();
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
