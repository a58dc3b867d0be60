use std::{fs, sync::Arc};

use clap::Args;
use serde::Serialize;
use tsoracle_core::{
    ConsensusDriver, DriverConfig, LOCK_FILE, Migration, OpenContext, StateCounts, SystemClock,
    Timestamp, mark_moved, wait_until_leader,
};

use crate::{
    drivers::{self, ELECTION},
    failure::{Failure, usage_if_config},
    log,
    output::Output,
    progress::Progress,
    target::{self, Target},
    unfinished,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle migrate file:/var/lib/tsoracle rocksdb:/var/lib/tsoracle-rocks
  tsoracle migrate file:./old 'openraft:./n1?node=1&peers=1=10.0.0.1:7101/10.0.0.1:7100'
  tsoracle migrate file:./old etcd://10.0.0.1:2379/tsoracle --json
  PEERS=1=127.0.0.1:7101/127.0.0.1:1,2=127.0.0.1:7102/127.0.0.1:2
  PEERS=$PEERS,3=127.0.0.1:7103/127.0.0.1:3
  tsoracle migrate file:./old \"omnipaxos:./n1?node=1&peers=$PEERS\" \\
    \"omnipaxos:./n2?node=2&peers=$PEERS\" \"omnipaxos:./n3?node=3&peers=$PEERS\"

Stop every server over both first, and keep the old one stopped for good: from then on, what it would
hand out is handed out by the new one. A directory that was copied from is marked by a file MOVED, and
not served any more. The target must be new. To grow into a cluster of openraft, migrate
into one of a single node, serve it, and let it grow by `tsoracle cluster add`. Nodes of omnipaxos do not
change: name them all, with addresses of this machine, and move their directories to their machines then.

If it is interrupted, the source is as it was, and nothing opens the target: migrate into it again, and
remove it before if that is refused.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// Options of `tsoracle migrate`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The driver to copy from, as for `tsoracle serve`; its state is not changed
    from: String,

    /// The driver to copy to, which was never used; all nodes of one that needs several to lead
    #[arg(required = true)]
    to: Vec<String>,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Report {
    from: String,
    to: String,
    #[serde(flatten)]
    counts: StateCounts,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    log::start(log::filter(Some("warn"))?, log::Format::Text, vec![])?;
    let Arguments { from, to, output } = arguments;
    let from = DriverConfig::parse(&from).map_err(usage_if_config)?;
    let to = to.iter().map(|to| DriverConfig::parse(to)).collect::<Result<Vec<_>, _>>();
    let to = to.map_err(usage_if_config)?;
    for config in [&from].into_iter().chain(&to) {
        drivers::check(config.name())?;
    }
    target::check(&to)?;
    unfinished::refuse(&from).map_err(of("source"))?;
    exists(&from)?;
    for config in &to {
        if is_same(&from, config)? {
            return Err(Failure::usage("the source and the target are the same"));
        }
    }
    let names = (from.name().to_owned(), to[0].name().to_owned());
    let directory = drivers::directory(&from)?;
    let source = drivers::open(from, OpenContext::default()).await.map_err(of("source"))?;
    let migrated = migrate(source.clone(), &to).await;
    let stopped = source.shutdown().await;
    let migrated = migrated?;
    stopped?;
    if let Some(directory) = directory {
        mark_moved(&directory, &format!("it was migrated to {}", names.1))?;
    }
    report(names, migrated, output)
}

async fn migrate(
    source: Arc<dyn ConsensusDriver>,
    to: &[DriverConfig],
) -> Result<StateCounts, Failure> {
    let elected =
        wait_until_leader(&*source, &SystemClock, ELECTION).await.map_err(Failure::failed);
    elected.map_err(of("source"))?;
    let migration = Migration::of(source, Arc::new(SystemClock)).await?;
    let target = Target::open(to).await?;
    let copied = match migration.begin(target.leader()).await {
        Err(error) => Err(error.into()),
        Ok(()) => {
            let progress = Progress::counting("entries copied");
            let copied = migration.copy(target.leader(), |entries| progress.reach(entries)).await;
            copied.map_err(|error| {
                Failure::failed(format!("{error:#}; nothing serves from the target: remove it"))
            })
        }
    };
    match copied {
        Ok(migrated) => target.finish().await.map(|()| migrated),
        Err(failure) => {
            // It has failed already; that it does not stop either would tell nothing more.
            let _ = target.shutdown().await;
            Err(failure)
        }
    }
}

/// That there is a source, before an empty one is made.
fn exists(source: &DriverConfig) -> Result<(), Failure> {
    match drivers::directory(source)? {
        Some(path) if !path.join(LOCK_FILE).exists() => Err(Failure::failed(format!(
            "the source: there is no state in {}; is it the right directory?",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn is_same(source: &DriverConfig, target: &DriverConfig) -> Result<bool, Failure> {
    let place = |config| Ok::<_, Failure>(drivers::directory(config)?.map(fs::canonicalize));
    Ok(match (place(source)?, place(target)?) {
        (Some(Ok(source)), Some(Ok(target))) => source == target,
        _ => source == target,
    })
}

/// Says which of the two it was.
fn of(which: &'static str) -> impl Fn(Failure) -> Failure {
    move |failure| failure.about(which)
}

fn report(
    (from, to): (String, String),
    counts: StateCounts,
    output: Output,
) -> Result<(), Failure> {
    let report = Report { from, to, counts };
    output.print(&report, || {
        let time = Timestamp::from_parts(counts.high_water_ms, 0).map(Timestamp::to_rfc3339);
        format!(
            "migrated: {counts}; every timestamp will be later than {}; never serve from the source again",
            time.unwrap_or_default()
        )
    })
}
