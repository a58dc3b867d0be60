//! Compiles the `.proto` file with protox, so that no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "transport")]
    {
        let descriptors = protox::compile(["peer.proto"], ["proto"])?;
        tonic_prost_build::configure().bytes(".tsoracle.peer").compile_fds(descriptors)?;
    }
    Ok(())
}
