//! The client, as the README shows it.

use tsoracle_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or("127.0.0.1:50551".into());
    let client = Client::connect([endpoint]).await?;

    let earlier = client.get_ts().await?;
    let later = client.get_ts().await?;
    assert!(earlier < later);
    println!("{later} is {}", later.to_rfc3339());

    let block = client.get_seq("orders", 64).await?;
    println!("orders {:?} are ours alone", block.range());

    // Ask again with the same id, even after a crash: the same block again.
    let paid = client.get_seq_as("payment 4711", "invoices", 1).await?;
    let again = client.get_seq_as("payment 4711", "invoices", 1).await?;
    assert_eq!(paid, again);

    client.close().await;
    Ok(())
}
