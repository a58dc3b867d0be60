//! The disk of a node, which can be made to hang, to be slow, and to lose what was not synced.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use tsoracle_core::{Clock, Result, SystemClock};

use super::{Site, failed};

/// How long a node may sync nothing. It is there for one that never does.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// The program that a node is run by, so that its syncs can be held. It needs Linux, and no rights.
const HOLDER: &str = include_str!("hold_sync.c");

/// The library that is loaded into a node, so that its calls to files can be slow or hang.
const FAULTY: &str = include_str!("faulty_disk.c");

pub(super) struct Disk {
    /// The directory through which the program gets its instructions, and reports.
    control: PathBuf,
    directory: PathBuf,
    /// The program, and the file whose syncs count; none where disks cannot hang.
    held: Option<(PathBuf, String)>,
    faulty: Option<PathBuf>,
}

impl Disk {
    /// The disks of the nodes of `site`, which sync `state_file`.
    pub(super) fn all(site: &Site, state_file: Option<&str>) -> Result<Vec<Self>> {
        let state_file = state_file.filter(|_| lacking().is_none());
        let (mut held, mut faulty) = (None, None);
        if let Some(file) = state_file {
            held = Some((compile(site.root(), "hold-sync", HOLDER, &[])?, file.into()));
            let options = ["-shared", "-fPIC", "-ldl"];
            faulty = Some(compile(site.root(), "faulty-disk.so", FAULTY, &options)?);
        }
        let disk = |node| {
            let control = site.root().join(format!("disk-{node}"));
            fs::create_dir(&control)?;
            let (held, faulty) = (held.clone(), faulty.clone());
            Ok(Self { control, directory: site.directory(node), held, faulty })
        };
        (0..site.nodes()).map(disk).collect()
    }

    /// How `binary` is run, so that its disk can be made to hang if that is possible at all.
    pub(super) fn holding(&self, binary: &Path) -> Vec<OsString> {
        let binary = binary.as_os_str().to_owned();
        let Some((holder, file)) = &self.held else { return vec![binary] };
        let (control, directory) = (self.control.clone(), self.directory.clone());
        vec![holder.into(), control.into(), directory.into(), file.into(), binary]
    }

    /// What a node's environment has to have, so that its disk can be faulty.
    pub(super) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let Some(library) = &self.faulty else { return vec![] };
        vec![
            ("LD_PRELOAD", library.clone()),
            ("FAULTY_DISK", self.at("faults")),
            ("FAULTY_DIRECTORY", self.directory.clone()),
        ]
    }

    /// Has each sync take so much longer.
    pub(super) fn slow_down(&self, by: Duration) -> Result<()> {
        self.set_faults(&format!("s {} *", by.as_millis()))
    }

    /// Has calls hang, as in `faulty_disk.c`.
    pub(super) fn hang_in(&self, operations: &str, name: &str) -> Result<()> {
        self.set_faults(&format!("{operations} hang {name}"))
    }

    /// Ends [`slow_down`](Self::slow_down) and [`hang_in`](Self::hang_in).
    pub(super) fn be_sound(&self) -> Result<()> {
        Ok(fs::remove_file(self.at("faults"))?)
    }

    /// In one step, so that none is half read.
    fn set_faults(&self, faults: &str) -> Result<()> {
        fs::write(self.at("faults.next"), format!("{faults}\n"))?;
        Ok(fs::rename(self.at("faults.next"), self.at("faults"))?)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.control.join(name)
    }

    pub(super) async fn hang(&self) -> Result<()> {
        fs::write(self.at("hang"), "")?;
        let until = SystemClock.now().boot + PATIENCE;
        while !self.at("hangs").exists() {
            if SystemClock.now().boot >= until {
                return Err(failed("the node syncs nothing"));
            }
            SystemClock.sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn mend(&self) -> Result<()> {
        fs::remove_dir_all(self.at("synced"))?;
        self.go_on()
    }

    /// Takes back what was written since the last sync. The node does not run any more.
    pub(super) fn lose(&self) -> Result<()> {
        fs::remove_dir_all(&self.directory)?;
        fs::rename(self.at("synced"), &self.directory)?;
        self.go_on()
    }

    fn go_on(&self) -> Result<()> {
        fs::remove_file(self.at("hang"))?;
        Ok(fs::remove_file(self.at("hangs"))?)
    }
}

/// The disk of a process, which can be slow or hang. It needs Linux and a C compiler, and no rights.
pub struct FaultyDisk(Disk);

impl FaultyDisk {
    /// One that is sound, of a process that keeps its files below `directory`, as it names that. What it consists of
    /// is kept in `control`.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn new(control: &Path, directory: &Path) -> Result<Self> {
        let options = ["-shared", "-fPIC", "-ldl"];
        let faulty = Some(compile(control, "faulty-disk.so", FAULTY, &options)?);
        let (control, directory) = (control.into(), directory.into());
        Ok(Self(Disk { control, directory, held: None, faulty }))
    }

    /// What the environment of a process has to have that has this disk.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        self.0.environment()
    }

    /// Has each sync take so much longer.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn slow_down(&self, by: Duration) -> Result<()> {
        self.0.slow_down(by)
    }

    /// Has each sync hang.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn hang(&self) -> Result<()> {
        self.0.hang_in("s", "*")
    }

    /// Ends that.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn be_sound(&self) -> Result<()> {
        self.0.be_sound()
    }
}

impl std::fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyDisk").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

/// Why disks cannot be made to hang here, if they cannot.
pub(super) fn lacking() -> Option<&'static str> {
    match () {
        () if !cfg!(target_os = "linux") => Some("syncs can be held on Linux only"),
        () if !has_compiler() => Some("there is no cc to build with"),
        () => None,
    }
}

pub(super) fn has_compiler() -> bool {
    static HAS_COMPILER: OnceLock<bool> = OnceLock::new();
    *HAS_COMPILER.get_or_init(|| Command::new("cc").arg("--version").output().is_ok())
}

/// Compiles a program, or a library, in C.
pub(super) fn compile(root: &Path, name: &str, source: &str, options: &[&str]) -> Result<PathBuf> {
    let (file, made) = (root.join(format!("{name}.c")), root.join(name));
    fs::write(&file, source)?;
    let mut command = Command::new("cc");
    let built = command.arg("-O1").arg("-o").arg(&made).arg(&file).args(options).output()?;
    match built.status.success() {
        true => Ok(made),
        false => Err(failed(String::from_utf8_lossy(&built.stderr))),
    }
}
