//! What stores with files share.

mod directory;
mod seal;

pub use self::{
    directory::{Directory, LOCK_FILE, LockedToRead, lock_file, mark_moved, sync_directory},
    seal::Seal,
};
