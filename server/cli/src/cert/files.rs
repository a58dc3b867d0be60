use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{failure::Failure, regular::has_regular};

/// Who may read a certificate, and a private key.
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// The files of a certificate.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pair {
    pub(super) fn new(directory: &Path, stem: &str) -> Self {
        let file = |ending| directory.join(format!("{stem}.{ending}"));
        Self { certificate: file("pem"), key: file("key") }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.certificate.display(), self.key.display())
    }
}

/// Writes certificates and their keys, each file whole or not at all. What exists is replaced only with `force`.
pub(super) fn write(pairs: &[(&Pair, (String, String))], force: bool) -> Result<(), Failure> {
    let paths = pairs.iter().flat_map(|(pair, _)| [&pair.certificate, &pair.key]);
    for path in paths.clone() {
        if has_regular(path)? && !force {
            return Err(Failure::failed(format!(
                "{} exists, and was left as it is; give another --dir, or --force to replace it",
                path.display()
            )));
        }
    }
    if let Some(directory) = paths.clone().next().and_then(|path| path.parent()) {
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    }
    for (pair, (certificate, key)) in pairs {
        // A server that looks at them meanwhile goes on with what it has until the two go together.
        write_one(&pair.key, key, KEY_MODE, force)?;
        write_one(&pair.certificate, certificate, CERTIFICATE_MODE, force)?;
    }
    Ok(())
}

fn write_one(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), Failure> {
    let failed = |error| failed(path, &error);
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    // Only its owner may read it until it has its name.
    let mut file = NamedTempFile::new_in(directory.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let named = if force { file.persist(path) } else { file.persist_noclobber(path) };
    named.map(drop).map_err(|error| failed(error.error))
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}
