use std::{io::BufWriter, path::Path};

use tsoracle_core::{BackupHeader, BackupWriter, Entry};

use super::{NewFile, Summary, of};
use crate::{failure::Failure, progress::Progress};

/// Writes a backup of these entries, and gives the file its name.
pub(crate) fn write(
    header: &BackupHeader,
    file: NewFile,
    path: &Path,
    mut next_entry: impl FnMut() -> tsoracle_core::Result<Option<Entry>>,
) -> Result<Summary, Failure> {
    let progress = Progress::counting("entries written");
    let mut written = 0;
    let mut writing = || {
        let mut writer = BackupWriter::new(BufWriter::new(file.file()), header)?;
        while let Some(entry) = next_entry()? {
            writer.put(&entry)?;
            written += 1;
            progress.reach(written);
        }
        // What the buffer holds was flushed.
        writer.finish().map(|(_, contents)| contents)
    };
    let contents = writing().map_err(|error| of(path, error))?;
    let bytes = file.file().metadata().map_err(Failure::failed)?.len();
    file.finish()?;
    Ok(Summary::new(path, bytes, header, &contents))
}
