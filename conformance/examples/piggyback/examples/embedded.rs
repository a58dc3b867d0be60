//! A program that embeds a cluster of three oracles, without a port or a server: `cargo run --example
//! embedded`, and once more, to see that timestamps and numbers go on.

use std::collections::BTreeMap;

use tsoracle_core::{ErrorKind, Oracle, OracleOptions, Result, SeqKey, SeqRequest};
use tsoracle_piggyback::{Config, Network, Node};

#[tokio::main]
async fn main() -> Result<()> {
    let directory = std::env::temp_dir().join("tsoracle-embedded");
    let members: BTreeMap<_, _> = (1..=3).map(|node| (node, format!("oracle {node}"))).collect();
    let network = Network::default();
    let mut oracles = BTreeMap::new();
    for &node in members.keys() {
        let config = Config::new(directory.join(node.to_string()), node, members.clone());
        let node_over = Node::open(config, network.clone()).await?;
        oracles.insert(node, Oracle::start(node_over, OracleOptions::default())?);
    }
    let leader = serve(&oracles).await?;
    println!("stopping oracle {leader}");
    if let Some(oracle) = oracles.remove(&leader) {
        oracle.shutdown().await?;
    }
    serve(&oracles).await?;
    for oracle in oracles.into_values() {
        oracle.shutdown().await?;
    }
    Ok(())
}

/// Asks the oracles in turn until one of them leads, and returns which.
async fn serve(oracles: &BTreeMap<u32, Oracle>) -> Result<u32> {
    loop {
        for (&node, oracle) in oracles {
            // Each waits a while by itself, unless it knows that another one leads.
            let granted = match oracle.get_ts(1).await {
                Ok(granted) => granted,
                Err(error) if is_elsewhere(error.kind()) => continue,
                Err(error) => return Err(error),
            };
            let timestamp = granted.range.first().as_u64();
            let request = SeqRequest::single(SeqKey::new("orders")?, 10)?;
            let orders = oracle.get_seq(request).await?.blocks[0].range();
            println!("oracle {node} grants the timestamp {timestamp}, and the orders {orders:?}");
            return Ok(node);
        }
    }
}

fn is_elsewhere(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotLeader(_) | ErrorKind::Unavailable)
}
