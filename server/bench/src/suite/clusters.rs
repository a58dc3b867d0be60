//! Clusters of three nodes on this machine, beside the one node over a file.

use std::{path::Path, time::Duration};

use super::{Results, Run, Spec, Suite, say, serve};
use tsoracle::{
    bench::{
        process::{Process, free},
        targets::Target,
    },
    drivers,
    endpoints::Endpoints,
    failure::Failure,
};

/// How long the first election may take, and whatever else a call meets then.
const ELECTION: Duration = Duration::from_secs(30);

/// That this build has such a driver.
pub(super) fn check_driver(name: &str) -> Result<(), Failure> {
    drivers::check(name).map_err(|_| Failure::failed(format!("this build has no driver {name:?}")))
}

/// Sequences of a cluster, in turns with those of a single node.
pub(super) async fn measure(
    suite: &Suite,
    driver: &'static str,
    results: &mut Results,
) -> Result<(), Failure> {
    check_driver(driver)?;
    say(&format!("starting three nodes of {driver}"));
    let home = suite.home.path();
    let nodes = start(home, driver)?;
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.as_str()).collect();
    let mut endpoints = Endpoints::local(&addresses.join(","));
    endpoints.timeout = ELECTION;
    let cluster = Target::connect(&endpoints, 1, false).await?;
    // Beside a file that is as new as the cluster is.
    let single = serve(home, &format!("beside-{driver}"))?;
    let file = Target::connect(&Endpoints::local(&single.address), 1, false).await?;
    let (ours, beside) = (Spec::cluster(driver), Spec::beside_cluster(driver));
    suite.load(&cluster, ours).await.some(&format!("call to a cluster of {driver}"))?;
    for part in suite.rounds_of(&format!("a cluster of {driver}")) {
        for (spec, target) in [(beside, &file), (ours, &cluster)] {
            let measured = suite.load(target, spec).await;
            results.records.add(spec, Run::of(&measured));
        }
        results.noise.note(part);
    }
    Ok(())
}

fn start(home: &Path, driver: &str) -> Result<Vec<Process>, Failure> {
    let (mut peers, mut addresses) = (vec![], vec![]);
    for node in 1..=3 {
        let (peer, service) = (free()?, free()?);
        peers.push(format!("{node}={peer}/{service}"));
        addresses.push(service);
    }
    let peers = peers.join(",");
    let start = |(index, address): (usize, &String)| {
        let node = index + 1;
        let config = format!("{driver}:./{driver}-{node}?node={node}&peers={peers}");
        Process::start(home, &["serve", &config, "--listen", address, "--log", "off"])
    };
    addresses.iter().enumerate().map(start).collect()
}
