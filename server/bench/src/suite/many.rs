use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::task::JoinSet;
use tsoracle_client::Client;

use super::{Results, Run, Spec, Suite, machine, quiet::Part, say, serve};
use tsoracle::{
    bench::{
        load::{Window, now},
        targets::{Target, key},
    },
    endpoints::Endpoints,
    failure::Failure,
};

/// How many keys one call puts into the store, and how many callers do.
const BATCH: u64 = 128;
const SEEDERS: usize = 64;

/// A store of very many keys: how fast it serves, how much memory it takes, how soon it starts.
pub(super) async fn measure(suite: &Suite, results: &mut Results) -> Result<(), Failure> {
    let keys = suite.arguments.stored_keys;
    say(&format!("putting {keys} keys into a store"));
    let home = suite.home.path();
    let server = serve(home, "many")?;
    let at = Endpoints::local(&server.address);
    let client = at.connect().await?;
    let started = now();
    seed(&client, keys).await?;
    results.add("seeding", (now() - started).as_secs_f64());
    client.close().await;

    let many = Target::connect(&at, 1, true).await?;
    let few = Target::connect(&Endpoints::local(&suite.server.address), 1, true).await?;
    let client = Target::connect(&at, 1, false).await?;
    for part in suite.rounds_of(&format!("a store of {keys} keys")) {
        for (spec, target) in [
            (Spec::FEW_KEYS, &few),
            (Spec::MANY_KEYS, &many),
            (Spec::BESIDE_LARGE, &suite.client),
            (Spec::LARGE_STORE, &client),
        ] {
            let measured = suite.load(target, spec).await;
            results.records.add(spec, Run::of(&measured));
        }
        results.add("memory", machine::resident_mb(server.pid())?);
        results.noise.note(part);
    }
    say(&format!("all of {keys} keys, for {:?}", suite.arguments.spread));
    let part = Part::begin();
    let window = Window { length: suite.arguments.spread, ..suite.window() };
    let measured = suite.load_for(&client, Spec::SPREAD, window).await;
    results.records.add(Spec::SPREAD, Run::of(&measured));
    results.add("longest pause", measured.longest_pause.as_secs_f64() * 1e3);
    results.add("memory", machine::resident_mb(server.pid())?);
    results.noise.note(part);
    client.close().await;
    server.stop()?;
    for _ in 0..suite.arguments.rounds {
        let started = now();
        let server = serve(home, "many")?;
        results.add("start", (now() - started).as_secs_f64());
        server.stop()?;
    }
    for _ in 0..suite.arguments.rounds {
        // Dropped without a word, as in a crash, with work just done.
        let server = serve(home, "many")?;
        let client = Endpoints::local(&server.address).connect().await?;
        client.get_seq(key(0), 1).await?;
        drop(server);
        let started = now();
        let server = serve(home, "many")?;
        results.add("start after a crash", (now() - started).as_secs_f64());
        server.stop()?;
    }
    Ok(())
}

/// Takes one value of each of `keys` sequences.
async fn seed(client: &Client, keys: u64) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut seeders = JoinSet::new();
    for _ in 0..SEEDERS {
        let (client, next) = (client.clone(), next.clone());
        seeders.spawn(async move {
            loop {
                let from = next.fetch_add(BATCH, Ordering::Relaxed);
                if from >= keys {
                    return Ok(());
                }
                let to = (from + BATCH).min(keys);
                let batch: Vec<_> = (from..to).map(|number| (key(number), 1)).collect();
                client.get_seq_batch(&batch).await?;
            }
        });
    }
    while let Some(seeded) = seeders.join_next().await {
        seeded.map_err(Failure::failed)?.map_err(|error: tsoracle_client::Error| {
            Failure::failed(format!("cannot fill the store: {error:#}"))
        })?;
    }
    Ok(())
}
