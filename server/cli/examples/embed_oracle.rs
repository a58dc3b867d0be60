//! The engine in-process, as the README shows it.

use tsoracle_core::{
    DriverConfig, OpenContext, Oracle, OracleOptions, Registry, SeqKey, SeqRequest,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tsoracle_drivers::link();
    let config = DriverConfig::parse("file:./my-oracle")?;
    let driver = Registry::linked()?.open(config, OpenContext::default()).await?;
    let oracle = Oracle::start(driver, OracleOptions::default())?;

    let granted = oracle.get_ts(1).await?;
    println!("{:?} under epoch {}", granted.range.first(), granted.epoch);

    let request = SeqRequest::single(SeqKey::new("orders")?, 64)?;
    println!("{:?}", oracle.get_seq(request).await?.blocks);

    oracle.shutdown().await?;
    Ok(())
}
