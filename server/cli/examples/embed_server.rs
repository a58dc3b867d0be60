//! The gRPC server in-process, as the README shows it.

use tsoracle_core::{DriverConfig, OpenContext, Registry};
use tsoracle_server::Server;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tsoracle_drivers::link();
    let config = DriverConfig::parse("file:./my-oracle")?;
    let driver = Registry::linked()?.open(config, OpenContext::default()).await?;

    let listening = Server::builder().driver(driver).build()?.bind("127.0.0.1:0").await?;
    println!("serving on {}", listening.place());
    let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
    listening.serve_with_shutdown(ctrl_c).await?;
    Ok(())
}
