//! The conformance suite over a cluster of one node.

use std::{fs, path::Path, process::ExitCode, sync::Arc};

use tempfile::TempDir;
use tsoracle_conformance::{Action, Fixture, run};
use tsoracle_core::{ConsensusDriver, Error, ErrorKind, Result};
use tsoracle_piggyback::{Config, Network, Node};

fn main() -> ExitCode {
    run(fixture)
}

fn fixture() -> Fixture {
    let directory = Arc::new(tempfile::tempdir().expect("tests have a directory for their files"));
    let own = directory.clone();
    let open = Action::new(move |()| Box::pin(open(own.clone())));
    let damage = Action::new(move |()| {
        let path = directory.path().join("state.journal");
        Box::pin(async move { flip_bits(&path) })
    });
    Fixture { locks: true, damage: Some(damage), ..Fixture::new(open) }
}

async fn open(directory: Arc<TempDir>) -> Result<Arc<dyn ConsensusDriver>> {
    let members = [(1, "node-1".into())].into();
    let node = Node::open(Config::new(directory.path(), 1, members), Network::default()).await?;
    Ok(node)
}

/// Damages everything in the state.
fn flip_bits(journal: &Path) -> Result<()> {
    let failed = |source| Error::new(ErrorKind::Fatal, "no damage").with_source(source);
    for entry in fs::read_dir(journal).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let mut bytes = fs::read(&file).map_err(failed)?;
        bytes.iter_mut().skip(64).for_each(|byte| *byte ^= 0x10);
        fs::write(&file, bytes).map_err(failed)?;
    }
    Ok(())
}
