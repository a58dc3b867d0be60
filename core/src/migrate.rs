//! Copying a whole state from one driver to another, while no server runs over either.

use std::sync::Arc;

use crate::{
    Clock, ConsensusDriver, Error, ErrorKind, Reads, Result, Version,
    import::{self, Importer, StateCounts, export, read},
    state::{REIGN, ReignRecord, Stage},
};

/// Copies a whole state from one driver to another, while no server runs over either: timestamps go on
/// above the old ones, sequences, sessions and stamping leases are the same to the byte.
///
/// The copy is read again and compared before any node can reign over it. A copy that was interrupted
/// never serves.
#[derive(Debug)]
pub struct Migration {
    source: Arc<dyn ConsensusDriver>,
    /// The version that is copied.
    version: Version,
    record: ReignRecord,
    clock: Arc<dyn Clock>,
}

impl Migration {
    /// Looks at the state behind `source`.
    ///
    /// # Errors
    /// `Config` if there is nothing to be copied; those of the driver.
    pub async fn of(source: Arc<dyn ConsensusDriver>, clock: Arc<dyn Clock>) -> Result<Self> {
        let refuse = |context| Err(Error::new(ErrorKind::Config, context));
        let (version, record) = reign(&*source, &*clock).await?;
        match record {
            None => refuse(
                "the source was never used, so there is nothing to copy; is it the right one?",
            ),
            Some(record) if record.stage == Stage::Importing => refuse(
                "the source is itself a copy that did not become whole; migrate from where it came",
            ),
            Some(record) => Ok(Self { source, version, record, clock }),
        }
    }

    /// Begins the copy in `target`, which this node leads. From here on no node reigns over it before the
    /// copy is whole.
    ///
    /// # Errors
    /// `Config` if the target was used before; those of the driver.
    pub async fn begin(&self, target: &Arc<dyn ConsensusDriver>) -> Result<()> {
        import::begin(target, &*self.clock).await
    }

    /// Copies everything into `target`, in which the copy has begun. Reports how many entries are there,
    /// now and then.
    ///
    /// # Errors
    /// `Unavailable` if the source was used meanwhile; `Corrupt` if the copy is not the same; those
    /// of the drivers. In each case no node can reign over the target.
    pub async fn copy(
        &self,
        target: &Arc<dyn ConsensusDriver>,
        mut progress: impl FnMut(u64),
    ) -> Result<StateCounts> {
        let mut importer = Importer::new(target, &*self.clock);
        let mut after = vec![];
        loop {
            let (version, page) = export(&*self.source, &*self.clock, &after).await?;
            if version != self.version {
                return Err(used_meanwhile());
            }
            let Some((last, _)) = page.last() else { break };
            after = last.clone();
            progress(importer.bring(page).await?);
        }
        self.check_source().await?;
        importer.check().await?;
        // Epochs of the copy begin above all of the source.
        importer.finish(self.record.clone(), self.version.era).await
    }

    /// That no server has changed the source since it was looked at.
    async fn check_source(&self) -> Result<()> {
        let (version, _) = reign(&*self.source, &*self.clock).await?;
        if version == self.version { Ok(()) } else { Err(used_meanwhile()) }
    }
}

/// The state's version, and its reign record.
async fn reign(
    driver: &dyn ConsensusDriver,
    clock: &dyn Clock,
) -> Result<(Version, Option<ReignRecord>)> {
    let snapshot = read(driver, clock, &Reads::keys([REIGN])).await?;
    Ok((snapshot.version, ReignRecord::first_of(snapshot.values)?))
}

fn used_meanwhile() -> Error {
    let context = "the source was used while it was copied; stop all of its nodes, and migrate \
                   again into a new target";
    Error::new(ErrorKind::Unavailable, context)
}
