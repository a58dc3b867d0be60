//! What a new file may take the place of: a rename would take a device or a link away as well.

use std::{fs::Metadata, io, os::unix::fs::FileTypeExt as _, path::Path};

use crate::failure::Failure;

/// Whether there is a regular file at `path`, which a new one may replace.
///
/// # Errors
/// If something else is there.
pub(crate) fn has_regular(path: &Path) -> Result<bool, Failure> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() => Ok(true),
        Ok(metadata) => Err(Failure::failed(format!(
            "{} is {}, and was left as it is; name a regular file, or one that does not exist",
            path.display(),
            kind(&metadata)
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write {}: {error}", path.display()))),
    }
}

pub(crate) fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}
