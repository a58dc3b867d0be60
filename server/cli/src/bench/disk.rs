use std::{fs::File, io::Write as _, path::Path, time::Duration};

use super::load::{Measured, now};
use crate::failure::Failure;

/// About what one request takes in a log.
const RECORD: [u8; 128] = [7; 128];

/// The least that a durable commit can cost: append a record to a file, and fdatasync.
#[derive(Debug)]
pub struct Disk {
    // Without a name, so that nothing is left behind.
    log: File,
}

impl Disk {
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let log = tempfile::tempfile_in(directory).map_err(|error| {
            Failure::failed(format!("cannot write in {}: {error:#}", directory.display()))
        })?;
        Ok(Self { log })
    }

    /// Does nothing else for that long.
    pub fn measure(&mut self, length: Duration) -> Result<Measured, Failure> {
        tokio::task::block_in_place(|| {
            let mut measured = Measured { elapsed: length, ..Measured::default() };
            let mut sent = now();
            let until = sent + length;
            while sent < until {
                self.log.write_all(&RECORD).and_then(|()| self.log.sync_data()).map_err(
                    |error| Failure::failed(format!("cannot append and fdatasync: {error:#}")),
                )?;
                let done = now();
                measured.record(1, done - sent);
                sent = done;
            }
            Ok(measured)
        })
    }
}
