//! Clients that wait for as long as it takes.

use std::time::Duration;

use tsoracle_client::Client;

use crate::node::Node;

#[tokio::test]
async fn no_time_is_too_long_to_wait() {
    let node = Node::serving().await;
    for unary in [false, true] {
        let client = Client::builder()
            .endpoints([node.address()])
            .timeout(Duration::MAX)
            .connect_timeout(Duration::MAX)
            .attempt_timeout(Duration::MAX)
            .unary(unary);
        let client = client.connect().await.unwrap();
        client.get_ts().await.unwrap();
        client.get_ts_batch(3).await.unwrap();
        client.get_seq("orders", 1).await.unwrap();
        let sooner = client.with_timeout(Duration::from_secs(20));
        sooner.with_timeout(Duration::MAX).get_ts().await.unwrap();
        client.close().await;
    }
}
