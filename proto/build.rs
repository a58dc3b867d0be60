//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        ["tso", "sequence", "cluster", "backup"].map(|name| format!("tsoracle/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("tsoracle_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".tsoracle.v1").compile_fds(descriptors)?;
    Ok(())
}
