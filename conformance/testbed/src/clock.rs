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
}

impl WallClock {
    /// One that is right. What it consists of is kept in `directory`.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn new(directory: &Path) -> Result<Self> {
        let library = compile(directory, "shifted-clock.so", SHIFTED, &["-shared", "-fPIC"])?;
        let clock = Self { library, control: directory.join("shift") };
        clock.shift(0)?;
        Ok(clock)
    }

    /// What the environment of a process has to have that goes by this clock.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("SHIFTED_CLOCK", &self.control)]
    }

    /// Sets how many seconds the clock is ahead from now on; a negative number puts it behind.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn shift(&self, seconds: i64) -> Result<()> {
        // In one step, so that no half of it is read.
        let next = self.control.with_extension("next");
        fs::write(&next, seconds.to_string())?;
        Ok(fs::rename(next, &self.control)?)
    }
}
