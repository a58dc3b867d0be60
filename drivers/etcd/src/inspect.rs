use tsoracle_core::{
    Epoch, Result,
    state::{self, Answer, Command, Query},
};

use crate::{etcd::Etcd, members::again, snapshot::Snapshot};

/// Looks whether what is in etcd is a state that this release can read.
///
/// # Errors
/// `Corrupt` if it is not; `Fatal` if it is one of another cluster; otherwise those of etcd.
pub(crate) async fn inspect(etcd: &Etcd) -> Result<()> {
    etcd.look().await?;
    // A fence reads what everything else rests on. What it would write is not written.
    let fence = Command::Fence { now_ms: 0, headroom_ms: 0, lease_ms: 0 };
    let mut snapshot = Snapshot::default();
    let mut lacking = fence.reads();
    loop {
        etcd.fetch(lacking, 0, &mut snapshot).await?;
        match state::plan(&snapshot, Epoch(u128::MAX), &fence) {
            Ok(_) => return Ok(()),
            Err(error) => {
                lacking = snapshot.take_missing().ok_or(error)?;
            }
        }
    }
}

/// Answers a question from the state as of one moment.
pub(crate) async fn read(etcd: &Etcd, query: &Query) -> Result<Answer> {
    let until = etcd.members.patience();
    loop {
        match read_once(etcd, query).await {
            Err(error) => again(error, until).await?,
            answer => return answer,
        }
    }
}

async fn read_once(etcd: &Etcd, query: &Query) -> Result<Answer> {
    let (mut snapshot, mut revision) = (Snapshot::default(), 0);
    loop {
        match state::answer(&snapshot, query) {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                let lacking = snapshot.take_missing().ok_or(error)?;
                let fetched = etcd.fetch(lacking, revision, &mut snapshot).await?;
                if revision == 0 {
                    revision = fetched.next.revision;
                }
            }
        }
    }
}
