//! What the system says of a process.

use std::fs;

use tsoracle::failure::Failure;

/// How much memory it has resident, in millions of bytes.
pub(crate) fn resident_mb(pid: u32) -> Result<f64, Failure> {
    let kib = number(&format!("/proc/{pid}/status"), "VmRSS:")?;
    Ok(kib * 1_024.0 / 1e6)
}

/// How many bytes it has caused to be written to disks.
pub(crate) fn written_bytes(pid: u32) -> Result<f64, Failure> {
    number(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// What this is, in a few words.
pub(crate) fn described() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut system = std::env::consts::OS.to_owned();
    if let Some(first) = system.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    format!("{cores} cores, {system} {}", std::env::consts::ARCH)
}

/// Processor time, in ticks of the system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    all: f64,
    busy: f64,
    ours: f64,
}

impl Ticks {
    /// Up to now: of the machine, and of this process, its children, and those that they have waited for.
    pub(crate) fn read() -> Result<Self, Failure> {
        let machine = numbers("/proc/stat", |text| text.lines().next()?.strip_prefix("cpu "))?;
        let all: f64 = machine.iter().take(8).sum();
        // The fourth and the fifth are spent waiting.
        let idle: f64 = machine.iter().skip(3).take(2).sum();
        let ours =
            times("/proc/self/stat")?.iter().skip(OWN_TIME).take(4).sum::<f64>() + children()?;
        Ok(Self { all, busy: all - idle, ours })
    }

    /// The share of the machine's time since `earlier` that others took.
    pub(crate) fn taken_by_others_since(self, earlier: Self) -> f64 {
        let others = (self.busy - earlier.busy) - (self.ours - earlier.ours);
        (others / (self.all - earlier.all)).max(0.0)
    }
}

/// Where the parent stands among the numbers of a process, and its own processor time, which is in two
/// parts; that of the children it has waited for follows.
const PARENT: usize = 0;
const OWN_TIME: usize = 10;

/// The numbers that the system keeps of a process.
fn times(path: &str) -> Result<Vec<f64>, Failure> {
    // The name of the program is in brackets, and may hold anything.
    numbers(path, |text| {
        text.rsplit_once(')')?.1.trim_start().split_once(' ').map(|(_state, rest)| rest)
    })
}

/// The processor time of the children of this process, theirs included.
fn children() -> Result<f64, Failure> {
    let own = f64::from(std::process::id());
    let cannot = |error| Failure::failed(format!("cannot read /proc: {error}"));
    let mut sum = 0.0;
    for entry in fs::read_dir("/proc").map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else { continue };
        // One that has ended meanwhile counts as waited for, the next time.
        let times = times(&format!("/proc/{pid}/stat")).unwrap_or_default();
        if times.get(PARENT) == Some(&own) {
            sum += times.iter().skip(OWN_TIME).take(4).sum::<f64>();
        }
    }
    Ok(sum)
}

/// The numbers in a part of a file.
fn numbers(path: &str, part: fn(&str) -> Option<&str>) -> Result<Vec<f64>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("cannot read {path}: {error}")))?;
    let words = part(&text).unwrap_or_default().split_whitespace();
    Ok(words.map_while(|word| word.parse().ok()).collect())
}

/// The number behind `name` in a file of lines.
fn number(path: &str, name: &str) -> Result<f64, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("cannot read {path}: {error}")))?;
    let mut words =
        text.lines().filter_map(|line| line.strip_prefix(name)).flat_map(str::split_whitespace);
    words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| Failure::failed(format!("{path} does not say {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_known() {
        let pid = std::process::id();
        assert!(resident_mb(pid).unwrap() > 0.1);
        assert!(written_bytes(pid).unwrap() >= 0.0);
        let before = Ticks::read().unwrap();
        assert!(before.all > before.busy && before.busy >= before.ours, "{before:?}");
        let mut after = before;
        (after.all, after.busy, after.ours) =
            (before.all + 100.0, before.busy + 60.0, before.ours + 40.0);
        assert!((after.taken_by_others_since(before) - 0.2).abs() < 1e-9);
        assert!(described().contains("Linux"), "{}", described());
    }
}
