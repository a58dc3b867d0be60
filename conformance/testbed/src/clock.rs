//! The wall clock of a process, which can be set wrong.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tsoracle_core::Result;

use super::disk::compile;

const SHIFTED: &str = include_str!("shifted_clock.c");

/// The wall clock of processes. It needs Linux and a C compiler, and no rights.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    control: PathBuf,
    failing: PathBuf,
}

impl WallClock {
    /// One that is right. What it consists of is kept in `directory`.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn new(directory: &Path) -> Result<Self> {
        let library = compile(directory, "shifted-clock.so", SHIFTED, &["-shared", "-fPIC"])?;
        let [control, failing] = ["shift", "failing"].map(|name| directory.join(name));
        let clock = Self { library, control, failing };
        clock.shift(0)?;
        Ok(clock)
    }

    /// What the environment of a process has to have that goes by this clock.
    pub fn environment(&self) -> [(&'static str, &Path); 3] {
        [
            ("LD_PRELOAD", &self.library),
            ("SHIFTED_CLOCK", &self.control),
            ("FAILING_CLOCK", &self.failing),
        ]
    }

    /// Sets how many seconds the clock is ahead from now on; a negative number puts it behind.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn shift(&self, seconds: i64) -> Result<()> {
        tell(&self.control, &seconds.to_string())
    }

    /// Has the clock be missing once, for the thread of this name that reads it next: the standard library panics
    /// where that happens.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn fail_once_in(&self, thread: &str) -> Result<()> {
        tell(&self.failing, thread)
    }
}

/// In one step, so that no half of it is read.
fn tell(control: &Path, text: &str) -> Result<()> {
    let next = control.with_extension("next");
    fs::write(&next, text)?;
    Ok(fs::rename(next, control)?)
}
