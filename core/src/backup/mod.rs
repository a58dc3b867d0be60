//! Backups: the state of one version in a file, made while it is served, and restored into a new driver.

mod assembly;
mod contents;
mod file;
pub mod inspected;
mod restore;

pub use crate::state::RestoredTime;

pub use self::{
    assembly::{Assembled, Assembly},
    contents::Contents,
    file::{BackupHeader, BackupReader, BackupWriter},
    restore::{RestoreTerms, Restored, restore},
};
