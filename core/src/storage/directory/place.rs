use std::{
    fs::{self, File},
    io,
};

/// Where a directory is: what tells it from a copy of it. Noted in its `LOCK`.
///
/// Numbers of devices are given anew when a machine starts, so that they tell something only within one boot, or
/// where the machine is not known. A copy of a whole device that is attached to the same machine after it was started
/// again looks like the original; no process of before runs then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    device: u64,
    inode: u64,
    machine: String,
    boot: String,
}

/// What is noted of a system that does not say.
const UNKNOWN: &str = "-";

impl Place {
    /// The place of an open file; none on a system that has no such thing.
    #[cfg(unix)]
    pub(super) fn of(file: &File) -> io::Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt;
        let metadata = file.metadata()?;
        Ok(Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            machine: word("/etc/machine-id", 32),
            boot: word("/proc/sys/kernel/random/boot_id", 36),
        }))
    }

    /// The place of an open file; none on a system that has no such thing.
    #[cfg(not(unix))]
    pub(super) fn of(_: &File) -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// Whether a directory that was at `noted` is the same one, and no copy.
    pub(super) fn is_still(&self, noted: &Self) -> bool {
        let restarted = self.boot != noted.boot && self.machine != UNKNOWN;
        self.inode == noted.inode
            && self.machine == noted.machine
            && (self.device == noted.device || restarted)
    }

    /// A line of the same length for every place.
    pub(super) fn line(&self) -> String {
        let Self { device, inode, machine, boot } = self;
        let place = format!("place {device:016x} {inode:016x} {machine:>32} {boot:>36}");
        format!("{place} {:08x}", crc32c::crc32c(place.as_bytes()))
    }

    /// What [`line`](Self::line) has made, if `line` is that.
    pub(super) fn read(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (device, inode) = (number()?, number()?);
        let (machine, boot) = (words.next()?.into(), words.next()?.into());
        let place = Self { device, inode, machine, boot };
        (place.line() == line).then_some(place)
    }
}

fn word(path: &str, longest: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let word = text.trim();
    let fits = !word.is_empty() && word.len() <= longest && !word.contains(char::is_whitespace);
    if fits { word.into() } else { UNKNOWN.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(device: u64, inode: u64, machine: &str, boot: &str) -> Place {
        Place { device, inode, machine: machine.into(), boot: boot.into() }
    }

    #[test]
    fn a_place_is_read_as_written_or_not_at_all() {
        let here = Place::of(&tempfile::tempfile().unwrap()).unwrap().unwrap();
        for place in [here, place(0, u64::MAX, UNKNOWN, UNKNOWN)] {
            let line = place.line();
            assert_eq!(Place::read(&line), Some(place));
            for at in 0..line.len() {
                let mut damaged = line.clone().into_bytes();
                damaged[at] ^= 1;
                assert_eq!(Place::read(&String::from_utf8_lossy(&damaged)), None, "at {at}");
            }
        }
        assert_eq!(
            place(1, 2, "m", "b").line().len(),
            place(u64::MAX, 2, UNKNOWN, "").line().len()
        );
    }

    #[test]
    fn a_copy_is_told_from_a_directory_that_stayed() {
        let noted = place(1, 2, "m", "b");
        for same in [noted.clone(), place(1, 2, "m", "later"), place(9, 2, "m", "later")] {
            assert!(same.is_still(&noted), "{same:?}");
        }
        for copy in [
            place(1, 3, "m", "b"),
            place(9, 2, "m", "b"),
            place(1, 2, "other", "b"),
            place(1, 3, "m", "later"),
        ] {
            assert!(!copy.is_still(&noted), "{copy:?}");
        }
        let nowhere = place(1, 2, UNKNOWN, "b");
        assert!(!place(9, 2, UNKNOWN, "later").is_still(&nowhere));
        assert!(place(1, 2, UNKNOWN, "later").is_still(&nowhere));
    }
}
