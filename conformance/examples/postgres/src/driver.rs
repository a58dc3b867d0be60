use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_postgres::types::Type;
use tokio_util::{sync::DropGuard, task::TaskTracker};
use tsoracle_core::{
    Announcer, BootTime, Clock, CommitLimits, ConsensusDriver, Effect, Error, ErrorKind,
    LeaderHint, Leadership, NodeId, OpenContext, Outcome, Random, Reads, Result, Snapshot,
    SystemClock, Version,
};

use crate::{
    Config,
    database::{Database, Parameters},
};

/// Half of the number of the advisory lock; the other half is the table's.
const LOCK: i32 = i32::from_be_bytes(*b"tsor");

/// Takes the lock if it is free, and then tells where this node serves.
const CAMPAIGN: &str = r#"
    WITH election AS MATERIALIZED (
        SELECT pg_try_advisory_lock($1, '"{table}"'::regclass::oid::int) AS is_won
    ), announced AS (
        INSERT INTO "{table}_leader" SELECT 1, $2 FROM election WHERE is_won
        AND NOT EXISTS (SELECT FROM "{table}_leader" WHERE endpoint = $2)
        ON CONFLICT (id) DO UPDATE SET endpoint = excluded.endpoint
    ) SELECT is_won, (SELECT value FROM "{table}" WHERE key = 'v'),
        (SELECT endpoint FROM "{table}_leader" WHERE endpoint <> '') FROM election"#;

/// How often each node looks while the server waits to end a silent session.
const LOOKS_PER_TTL: u32 = 10;

/// For how many looks a node that has resigned leaves the election to the others.
const LOOKS_ASIDE: u32 = 3;

/// One of any number of nodes over one PostgreSQL, of which one is elected.
#[derive(Debug)]
pub struct PostgresDriver {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    database: Arc<Database>,
    resigned: watch::Sender<u64>,
    /// The election, and the commits under way.
    tasks: TaskTracker,
    _stop: DropGuard,
}

impl PostgresDriver {
    /// Takes part in the election. If the server cannot be reached, it does so once it can.
    ///
    /// # Errors
    /// `Config` for options that make no sense, or if the server refuses this user; `Corrupt` if the state
    /// is damaged.
    pub async fn open(config: Config, context: OpenContext) -> Result<Self> {
        config.validate()?;
        let database = Arc::new(Database::new(config));
        match async { database.connect().await.and(database.read(&Reads::default()).await) }.await {
            Err(error) if *error.kind() != ErrorKind::Unavailable => return Err(error),
            Err(error) => {
                tracing::warn!(error = %format_args!("{error:#}"), "this node waits for PostgreSQL")
            }
            Ok(_) => {}
        }
        let (announcer, leadership) = Announcer::new();
        let (resigned, resigning) = watch::channel(0);
        let endpoint = context.service_endpoint.unwrap_or_default();
        let election = Election { database: database.clone(), announcer, endpoint };
        let tasks = TaskTracker::new();
        tasks.spawn(election.run(resigning));
        // No lock keeps other processes out, so each is a node of its own.
        let (node, stop) = (NodeId(Random::default().draw()), database.stop.clone().drop_guard());
        Ok(Self { node, leadership, database, resigned, tasks, _stop: stop })
    }
}

/// The node whose session holds an advisory lock should lead. The server releases it with the session,
/// which it ends at once if the process was killed, and after a silence that it measures itself if the
/// process is paused or cut off: a row with an expiry would rest on wall clocks.
struct Election {
    database: Arc<Database>,
    announcer: Announcer,
    /// Where this node serves; empty if that is not known.
    endpoint: String,
}

impl Election {
    /// Takes part until the driver stops.
    async fn run(mut self, mut resigned: watch::Receiver<u64>) {
        let look = self.database.config.ttl / LOOKS_PER_TTL;
        let (stop, mut pause) = (self.database.stop.clone(), Duration::ZERO);
        loop {
            let claim = self.announcer.claim();
            let resigns = tokio::select! {
                () = stop.cancelled() => break,
                _ = resigned.wait_for(|resigned| claim == Some(*resigned)) => true,
                () = SystemClock.sleep(pause) => false,
            };
            pause = if resigns { look * LOOKS_ASIDE } else { look };
            if resigns || self.look().await.is_err() {
                self.announcer.unknown();
                self.database.disconnect();
            }
        }
        self.announcer.unknown();
    }

    /// Takes the lock if it is free, and publishes which node has it.
    async fn look(&mut self) -> Result<()> {
        self.database.connect().await?;
        let given: Parameters<'_> = &[(&LOCK, Type::INT4), (&self.endpoint, Type::TEXT)];
        for row in self.database.query(CAMPAIGN, given, ErrorKind::Unavailable).await? {
            self.database.observe(row.get(1))?;
            let endpoint: Option<String> = row.get(2);
            let leader = endpoint.map(|endpoint| LeaderHint { endpoint, epoch: None });
            match row.get(0) {
                false => self.announcer.follow(leader),
                true if self.announcer.claim().is_some() => {}
                true => drop(self.announcer.lead()),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ConsensusDriver for PostgresDriver {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.database.read(wanted).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let database = self.database.clone();
        // In a task of its own, which goes on if this future is dropped, and which `shutdown` awaits.
        let committing = async move { database.commit(base, &effect).await };
        let failed = |_| Error::new(ErrorKind::Uncertain, "the driver failed while it committed");
        self.tasks.spawn(committing).await.map_err(failed)?
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.database.observed.seen(version)
    }

    async fn resign(&self, claim: u64) {
        if *self.leadership.borrow() == (Leadership::Leader { claim }) {
            self.resigned.send_replace(claim);
        }
    }

    fn limits(&self) -> CommitLimits {
        CommitLimits { writes: 16_384, bytes: 1 << 20 }
    }

    async fn shutdown(&self) -> Result<()> {
        self.database.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.database.disconnect();
        Ok(())
    }
}
