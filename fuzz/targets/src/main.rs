//! Writes real encodings of the present formats into the corpora, in place of those that are there.

use std::{fs, path::Path};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for (target, seeds) in tsoracle_fuzz_targets::seeds().await? {
        let corpus = corpora.join(target);
        fs::create_dir_all(&corpus)?;
        for found in fs::read_dir(&corpus)? {
            let found = found?;
            if found.file_name().to_string_lossy().starts_with("real-") {
                fs::remove_file(found.path())?;
            }
        }
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(corpus.join(format!("real-{number:02}")), seed)?;
        }
    }
    Ok(())
}
