use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tsoracle_cluster::Config;

use crate::{
    keeper::Keeper,
    log::Log,
    machine::StateMachine,
    types::{Stored, TypeConfig, storage},
};

/// Makes storage in a directory of its own.
struct Builder;

impl StoreBuilder<TypeConfig, Log, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Stored<(TempDir, Log, StateMachine)> {
        let directory = tempfile::tempdir().unwrap();
        let config = Config {
            path: directory.path().into(),
            node: 1,
            peers: "1=127.0.0.1:1/h:1".into(),
            ..Config::default()
        };
        let (waiting, cluster) = (Default::default(), config.check().map_err(storage)?);
        let (keeper, _, opened) =
            Keeper::open(&cluster, std::sync::Arc::clone(&waiting)).await.map_err(storage)?;
        let log = Log::open(keeper.clone(), waiting, opened.last).await.map_err(storage)?;
        Ok((directory, log, StateMachine::new(keeper)))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).unwrap();
}
