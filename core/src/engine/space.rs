//! The free space where the state is stored.

use std::{
    convert::Infallible,
    future::pending,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use super::Shared;
use crate::{Finding, Space};

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What is kept in reserve unless it is said: a twentieth of all, or this, if that is less.
const MOST_RESERVED: u64 = 256 << 20;

/// What is free before the first look.
const UNKNOWN: u64 = u64::MAX;

/// What is left for the state to grow.
#[derive(Debug)]
pub(crate) struct SpaceLeft {
    watched: Option<Space>,
    free: AtomicU64,
    reserve: AtomicU64,
    is_low: AtomicBool,
}

impl SpaceLeft {
    pub(crate) fn new(watched: Option<Space>) -> Self {
        let (free, reserve) = (AtomicU64::new(UNKNOWN), AtomicU64::new(0));
        Self { watched, free, reserve, is_low: AtomicBool::new(false) }
    }

    /// Whether there is less than the reserve.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// Bytes that are free, and the reserve, as of the last look.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.free.load(Ordering::Relaxed), self.reserve.load(Ordering::Relaxed))
    }

    /// The same, where that is watched and was looked at.
    pub(crate) fn found(&self) -> Option<(u64, u64)> {
        Some(self.bytes()).filter(|(free, _)| *free != UNKNOWN)
    }

    /// What to tell a person, if there is less than the reserve.
    pub(crate) fn finding(&self) -> Option<Finding> {
        let watched = self.watched.as_ref().filter(|_| self.is_low())?;
        let ((free, reserve), directory) = (self.bytes(), watched.directory.display());
        let what = format!(
            "little space is left in {directory}: {} are free, and {} are kept in reserve; while this node leads, new \
             keys, sessions, names and stamping leases are refused, and what exists goes on",
            size_in_words(free),
            size_in_words(reserve)
        );
        let remedy =
            "make space there, or give this node a larger disk; nothing has to be restarted";
        Some(Finding::new("disk_nearly_full", what, remedy))
    }

    fn note(&self, watched: &Space, free: u64, all: u64) {
        let reserve = watched.reserve.unwrap_or(MOST_RESERVED.min(all / 20));
        self.free.store(free, Ordering::Relaxed);
        self.reserve.store(reserve, Ordering::Relaxed);
        let was_low = self.is_low.swap(free < reserve, Ordering::Relaxed);
        let directory = watched.directory.display();
        match (was_low, free < reserve) {
            (false, true) => tracing::warn!(
                free,
                reserve,
                "little space is left in {directory}; nothing new is begun, and what exists goes on"
            ),
            (true, false) => tracing::info!(free, reserve, "there is space in {directory} again"),
            _ => {}
        }
    }
}

/// Looks at the free space again and again. A look that does not return leaves everything as it is.
pub(crate) async fn watch(shared: &Shared) -> Infallible {
    let Some(watched) = &shared.space.watched else { return pending().await };
    loop {
        let directory = watched.directory.clone();
        match tokio::task::spawn_blocking(move || look(&directory)).await {
            Ok(Ok((free, all))) => {
                shared.space.note(watched, free, all);
                shared.meters.free_bytes.set(free as f64);
                shared.meters.disk_size.set(all as f64);
                shared.meters.reserve.set(shared.space.bytes().1 as f64);
            }
            Ok(Err(error)) => tracing::debug!(%error, "cannot look at the free space"),
            Err(error) => tracing::debug!(%error, "cannot look at the free space"),
        }
        shared.clock.sleep(EVERY).await;
    }
}

/// A size as people read it.
pub fn size_in_words(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut shown = bytes as f64 / 1e3;
    let mut at = 0;
    // What would be rounded to a thousand is one of the next unit.
    while shown >= 999.95 && at + 1 < units.len() {
        shown /= 1e3;
        at += 1;
    }
    format!("{shown:.1} {}", units[at])
}

/// How many bytes are free for this process, and how many there are.
fn look(directory: &Path) -> std::io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(directory)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((bytes(found.f_bavail), bytes(found.f_blocks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_people_tell_them() {
        let told = [0, 999, 1_500, 999_949, 999_950, 134_217_728, 1_000_000_000, u64::MAX];
        let expected =
            ["0.0 kB", "1.0 kB", "1.5 kB", "999.9 kB", "1.0 MB", "134.2 MB", "1.0 GB", "18.4 EB"];
        assert_eq!(told.map(size_in_words), expected);
    }

    #[test]
    fn less_than_the_reserve_is_little() {
        let watched = |reserve| Space { directory: "state".into(), reserve };
        let found = |reserve, free, all| {
            let space = SpaceLeft::new(Some(watched(reserve)));
            space.note(&watched(reserve), free, all);
            assert_eq!(space.finding().is_some(), space.is_low());
            space.finding().map(|found| found.what)
        };
        assert_eq!(found(Some(1_000), 1_000, 9_000), None);
        let what = found(Some(1_000_000), 999_000, 9_000_000).expect("a finding");
        assert!(what.contains("state: 999.0 kB are free, and 1.0 MB are kept"), "{what}");
        // A twentieth, or 256 MiB.
        assert_eq!(found(None, 50, 1_000), None);
        assert!(found(None, 49, 1_000).is_some());
        assert_eq!(found(None, MOST_RESERVED, MOST_RESERVED * 100), None);
        assert!(found(None, MOST_RESERVED - 1, MOST_RESERVED * 100).is_some());
    }
}
