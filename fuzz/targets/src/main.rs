//! Writes what this release encodes into the corpora, in place of what it has encoded before. What earlier releases have encoded stays, for
//! as long as it is read.

use std::{fs, path::Path};

use tsoracle_fuzz_targets::{RELEASED, seeds};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for (target, seeds) in seeds().await? {
        let corpus = corpora.join(target);
        fs::create_dir_all(&corpus)?;
        for found in fs::read_dir(&corpus)? {
            let found = found?;
            if found.file_name().to_string_lossy().starts_with(RELEASED) {
                fs::remove_file(found.path())?;
            }
        }
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(corpus.join(format!("{RELEASED}{number:02}")), seed)?;
        }
    }
    Ok(())
}
