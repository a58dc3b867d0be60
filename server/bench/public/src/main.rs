//! The public tsoracle, as `tsoracle-bench suite` measures it beside ours: its server over its file driver,
//! and callers in a closed loop through its client, each with one call under way.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tsoracle_client::Client;
use tsoracle_driver_file::FileDriver;
use tsoracle_server::Server;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: tsoracle-public serve DIRECTORY\n   or: \
                     tsoracle-public load HOST:PORT CALLERS WARM-UP SECONDS";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", directory] => serve(directory).await,
        ["load", address, callers, warm_up, seconds] => {
            let (warm_up, seconds) = (warm_up.parse()?, seconds.parse()?);
            let rate = load(address, callers.parse()?, warm_up, seconds).await?;
            println!("{rate:.1}");
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

/// Serves until it is ended, and says where.
async fn serve(directory: &str) -> Result<()> {
    let server = Server::builder().consensus_driver(FileDriver::open_or_init(directory)?).build()?;
    // By address, as its own program does: a listener that is handed over has other options.
    let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let serving = tokio::spawn(server.serve(address));
    while !serving.is_finished() && TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("serving on {address}");
    Ok(serving.await??)
}

/// How many timestamps a second the callers got, each asking again once it is answered.
async fn load(address: &str, callers: usize, warm_up: f64, seconds: f64) -> Result<f64> {
    let client = Arc::new(Client::connect(vec![format!("http://{address}")]).await?);
    let calls = Arc::new(AtomicU64::new(0));
    let from = Instant::now() + Duration::from_secs_f64(warm_up);
    let until = from + Duration::from_secs_f64(seconds);
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let (client, calls) = (client.clone(), calls.clone());
        running.spawn(async move {
            let mut answered = 0;
            while Instant::now() < until {
                client.get_ts().await?;
                let now = Instant::now();
                answered += u64::from(now >= from && now < until);
            }
            calls.fetch_add(answered, Ordering::Relaxed);
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(calls.load(Ordering::Relaxed) as f64 / seconds)
}
