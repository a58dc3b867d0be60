use std::sync::Arc;

use async_trait::async_trait;
use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{
    Client, Error as SqlError, NoTls, Row,
    error::Severity,
    types::{ToSql, Type},
};
use tokio_util::task::AbortOnDropHandle;
use tsoracle_core::{
    CommitLimits, Effect, Elected, Election, Error, ErrorKind, MemoryStore, OpenContext, Reads,
    Result, SharedStore, Snapshot, VERSION, Version,
};

use crate::Config;

/// The version has a row from the beginning, as `Version::EMPTY`, so that every commit has one to lock. One node after
/// the other makes them: of two at once one would fail, whatever `IF NOT EXISTS` says.
const TABLES: &str = r#"
    SELECT pg_advisory_xact_lock(hashtext('{table}')::bigint);
    CREATE TABLE IF NOT EXISTS "{table}" (key bytea PRIMARY KEY, value bytea NOT NULL);
    CREATE TABLE IF NOT EXISTS "{table}_leader" (id int PRIMARY KEY, endpoint text NOT NULL);
    INSERT INTO "{table}" SELECT 'v', decode('01' || repeat('00', 32), 'hex')
        WHERE NOT EXISTS (SELECT FROM "{table}")"#;

/// The version of the state; one that is missing is damaged, not that of an empty state.
const STORED: &str = r#"coalesce((SELECT value FROM "{table}" WHERE key = 'v'), '')"#;

/// One statement, and so one snapshot.
const READ: &str = r#"
    SELECT 'v'::bytea, {version} UNION
    SELECT key, value FROM "{table}" WHERE key = ANY($1) UNION
    SELECT found.* FROM unnest($2::bytea[], $3::bytea[], $4::bigint[]) AS range (low, high, most),
        LATERAL (SELECT key, value FROM "{table}" WHERE key >= low AND key < high
            ORDER BY key LIMIT most) AS found"#;

/// One statement, and so one transaction: a client that is paused in the middle of several would hold
/// the lock of the version, and with it up its successor. Returns the version that it has found.
const COMMIT: &str = r#"
    WITH moved AS (
        UPDATE "{table}" SET value = $2 WHERE key = 'v' AND value = $1 RETURNING key
    ), given AS (
        SELECT given.* FROM moved, unnest($3::bytea[], $4::bytea[]) AS given (key, value)
    ), deleted AS (
        DELETE FROM "{table}" AS state USING given WHERE state.key = given.key AND given.value IS NULL
    ), stored AS (
        INSERT INTO "{table}" SELECT * FROM given WHERE value IS NOT NULL
        ON CONFLICT (key) DO UPDATE SET value = excluded.value
    ) SELECT {version}"#;

/// The node whose session holds an advisory lock is elected, and tells where it serves. The server releases the lock
/// with the session, which it ends at once if the process was killed, and after a silence that it measures
/// itself if the process is paused or cut off: a row with an expiry would rest on wall clocks.
const ELECT: &str = r#"
    WITH election AS MATERIALIZED (
        SELECT CASE WHEN $1
            AND pg_try_advisory_lock(hashtext('tsoracle'), '"{table}"'::regclass::oid::int)
            THEN pg_backend_pid()::bigint END AS won
    ), announced AS (
        INSERT INTO "{table}_leader" SELECT 1, $2 FROM election WHERE won IS NOT NULL
        AND NOT EXISTS (SELECT FROM "{table}_leader" WHERE endpoint = $2)
        ON CONFLICT (id) DO UPDATE SET endpoint = excluded.endpoint
    ) SELECT {version}, won,
        coalesce((SELECT endpoint FROM "{table}_leader" WHERE endpoint <> $2), '') FROM election"#;

/// How often each node looks while the server waits to end a silent session.
const LOOKS_PER_TTL: u32 = 10;

type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// The state in a table of the server's.
#[derive(Debug)]
pub(crate) struct Store {
    config: Config,
    /// Where this node serves; empty if that is not known.
    endpoint: String,
    session: Mutex<Option<Arc<Session>>>,
}

/// A connection, which is closed with this.
#[derive(Debug)]
struct Session {
    client: Client,
    connection: AbortOnDropHandle<()>,
}

impl Store {
    pub(crate) fn new(config: Config, context: OpenContext) -> Self {
        let endpoint = context.service_endpoint.unwrap_or_default();
        Self { config, endpoint, session: Mutex::default() }
    }

    fn sql(&self, sql: &str) -> String {
        sql.replace("{version}", STORED).replace("{table}", &self.config.table)
    }

    /// The session, unless it has ended.
    async fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().await.clone().filter(|session| !session.client.is_closed())
    }

    /// Connects, unless there is a session already, and makes the tables if they are missing.
    async fn connect(&self) -> Result<()> {
        if self.session().await.is_some() {
            return Ok(());
        }
        let config = self.config.connection()?;
        let connecting = async {
            let (client, connection) = config.connect(NoTls).await?;
            // Why it ends, the calls under way are told.
            let connection = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
            client.batch_execute(&self.sql(TABLES)).await?;
            Ok(Session { client, connection })
        };
        let session = self.within_timeout(ErrorKind::Unavailable, connecting).await?;
        *self.session.lock().await = Some(Arc::new(session));
        Ok(())
    }

    /// Executes a statement. If it is not known whether it took effect, the error is of kind `doubt`.
    async fn query(&self, sql: &str, given: Parameters<'_>, doubt: ErrorKind) -> Result<Vec<Row>> {
        let session = self
            .session()
            .await
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "not connected to PostgreSQL"))?;
        self.within_timeout(doubt, session.client.query_typed(&self.sql(sql), given)).await
    }

    async fn within_timeout<T>(
        &self,
        doubt: ErrorKind,
        asking: impl Future<Output = Result<T, SqlError>>,
    ) -> Result<T> {
        let answer = timeout(self.config.timeout, asking).await;
        let answer = answer.map_err(|_| Error::new(doubt.clone(), "PostgreSQL does not answer"))?;
        answer.map_err(|error| {
            // An error undoes the transaction. What ends the session may come after the commit.
            let severity = error.as_db_error().and_then(|error| error.parsed_severity());
            let kind = match error.code().and_then(|code| code.code().get(..2)) {
                _ if doubt == ErrorKind::Uncertain && severity != Some(Severity::Error) => doubt,
                // The user, the database, a privilege or an option: what no other attempt mends.
                Some("28" | "3D" | "42") => ErrorKind::Config,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "PostgreSQL failed").with_source(error)
        })
    }
}

#[async_trait]
impl SharedStore for Store {
    const LIMITS: CommitLimits = CommitLimits { writes: 16_384, bytes: 1 << 20 };

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let keys: Vec<_> = wanted.keys.iter().map(Vec::as_slice).collect();
        let low: Vec<_> = wanted.ranges.iter().map(|range| range.from.as_slice()).collect();
        let high: Vec<_> = wanted.ranges.iter().map(|range| range.to.as_slice()).collect();
        let most = wanted.ranges.iter().map(|range| range.limit.try_into().unwrap_or(i64::MAX));
        let most: Vec<_> = most.collect();
        let given: Parameters<'_> = &[
            (&keys, Type::BYTEA_ARRAY),
            (&low, Type::BYTEA_ARRAY),
            (&high, Type::BYTEA_ARRAY),
            (&most, Type::INT8_ARRAY),
        ];
        let rows = self.query(READ, given, ErrorKind::Unavailable).await?;
        let found: MemoryStore = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        match wanted.read_from(&found)? {
            // Then the version's row is all that there is, and no part of the state.
            empty if empty.version == Version::EMPTY => wanted.read_from(&MemoryStore::default()),
            snapshot => Ok(snapshot),
        }
    }

    async fn commit(&self, base: Version, next: Version, effect: &Effect) -> Result<Version> {
        let writes = effect.iter().filter(|(key, _)| *key != VERSION);
        let (keys, values): (Vec<_>, Vec<_>) = writes.unzip();
        let given: Parameters<'_> = &[
            (&base.encode().to_vec(), Type::BYTEA),
            (&next.encode().to_vec(), Type::BYTEA),
            (&keys, Type::BYTEA_ARRAY),
            (&values, Type::BYTEA_ARRAY),
        ];
        let rows = self.query(COMMIT, given, ErrorKind::Uncertain).await?;
        // If that was the base, it is replaced now: the statement would have failed otherwise.
        Version::decode(rows.first().map(|row| row.get(0)))
    }

    async fn elect(&self, may_lead: bool) -> Result<Election> {
        self.connect().await?;
        let given: Parameters<'_> = &[(&may_lead, Type::BOOL), (&self.endpoint, Type::TEXT)];
        let rows = self.query(ELECT, given, ErrorKind::Unavailable).await?;
        let row = rows.first().expect("the statement selects one row");
        let elected = match row.get(1) {
            Some(session) => Elected::This(session),
            None => Elected::Other(row.get(2)),
        };
        let again = self.config.ttl / LOOKS_PER_TTL;
        Ok(Election { version: Version::decode(Some(row.get(0)))?, elected, again })
    }

    /// Closes the session, and so releases its lock. Calls under way fail.
    async fn give_up(&self) -> Result<()> {
        if let Some(session) = self.session.lock().await.take() {
            session.connection.abort();
        }
        Ok(())
    }
}
