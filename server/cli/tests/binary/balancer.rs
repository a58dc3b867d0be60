//! A client behind a balancer that follows health, as docs/OPERATIONS.md recommends.

use std::{net::SocketAddr, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tsoracle_client::Client;
use tsoracle_core::{Clock as _, SystemClock};

use crate::node::{Node, openraft_nodes, transfer};

/// How often it looks which node leads.
const LOOK: Duration = Duration::from_millis(50);

/// A balancer of connections: new ones go to the node that says it is the leader, and all stay where they are.
async fn balancer(nodes: &[Node]) -> SocketAddr {
    let (leader, followed) = watch::channel(None);
    for address in nodes.iter().map(|node| node.address.clone()) {
        let leader = leader.clone();
        tokio::spawn(async move {
            let node = Endpoint::from_shared(format!("http://{address}")).expect("an address");
            let mut health = HealthClient::new(node.connect_lazy());
            loop {
                let service = "tsoracle.v1.Leader".into();
                let answer = health.check(HealthCheckRequest { service }).await;
                if answer.is_ok_and(|answer| answer.get_ref().status == 1) {
                    leader.send_replace(Some(address.clone()));
                }
                SystemClock.sleep(LOOK).await;
            }
        });
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut followed = followed.clone();
            tokio::spawn(async move {
                let led = followed.wait_for(Option::is_some).await;
                let leader = led.ok().and_then(|leader| leader.clone()).unwrap_or_default();
                let mut server = TcpStream::connect(leader).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_client_follows_each_transfer_though_no_hint_can_be_reached() {
    let directory = TempDir::new().unwrap();
    // What nodes say of their leader leads nowhere from here.
    let unreachable = |service: &str| service.replace("127.0.0.1", "127.255.255.254");
    let nodes =
        tokio::task::block_in_place(|| openraft_nodes(directory.path(), unreachable, |_, _| {}));
    let address = balancer(&nodes).await;
    let builder = Client::builder().endpoints([address.to_string()]);
    let client = builder.timeout(Duration::from_secs(60)).connect().await.unwrap();
    let (mut last, mut next) = (client.get_ts().await.unwrap(), 0);
    for leader in [1, 2, 3, 1] {
        tokio::task::block_in_place(|| transfer(&nodes, leader));
        for _ in 0..10 {
            let timestamp = client.get_ts().await.expect("it finds the leader again");
            assert!(timestamp > last);
            last = timestamp;
            let block = client.get_seq("orders", 1).await.expect("it finds the leader again");
            assert_eq!(block.range().start, next);
            next += 1;
        }
    }
}
