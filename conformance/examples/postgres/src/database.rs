use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::time::timeout;
use tokio_postgres::{
    Client, NoTls, Row,
    error::Severity,
    types::{ToSql, Type},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tsoracle_core::{
    Effect, Error, ErrorKind, MemoryStore, Observed, Outcome, Reads, Result, SeqStore as _,
    Snapshot, VERSION, Version,
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

/// One statement, and so one snapshot.
const READ: &str = r#"
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
    ) SELECT value FROM "{table}" WHERE key = 'v'"#;

pub(crate) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// The state in a table of the server's, and the session in which it is used.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) config: Config,
    /// Ends the driver.
    pub(crate) stop: CancellationToken,
    /// Why it ended, if the state is damaged.
    damage: OnceLock<Error>,
    session: Mutex<Option<Arc<Session>>>,
    pub(crate) observed: Observed,
}

/// A connection, which is closed with this.
#[derive(Debug)]
struct Session {
    client: Client,
    connection: AbortOnDropHandle<()>,
}

impl Database {
    pub(crate) fn new(config: Config) -> Self {
        let (stop, damage, session, observed) = Default::default();
        Self { config, stop, damage, session, observed }
    }

    /// Connects, unless there is a session already, and makes the tables if they are missing.
    ///
    /// # Errors
    /// `Config` if the server refuses this user; `Unavailable` otherwise.
    pub(crate) async fn connect(&self) -> Result<()> {
        if lock(&self.session).is_some() {
            return Ok(());
        }
        let config = self.config.connection()?;
        let tables = TABLES.replace("{table}", &self.config.table);
        let connecting = async {
            let (client, connection) = config.connect(NoTls).await?;
            // Why it ends, the calls under way are told.
            let connection = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
            client.batch_execute(&tables).await?;
            Ok(Session { client, connection })
        };
        let connected = timeout(self.config.timeout, connecting).await;
        let connected = connected.map_err(|_| unavailable("PostgreSQL does not answer"))?;
        let session = connected.map_err(|error: tokio_postgres::Error| {
            // The user, the database, a privilege or an option: what no other attempt mends.
            let class = error.code().and_then(|code| code.code().get(..2));
            let is_refused = matches!(class, Some("28" | "3D" | "42"));
            let kind = if is_refused { ErrorKind::Config } else { ErrorKind::Unavailable };
            Error::new(kind, "cannot connect to PostgreSQL").with_source(error)
        })?;
        *lock(&self.session) = Some(Arc::new(session));
        Ok(())
    }

    /// Closes the session, and so releases its lock. Calls under way fail.
    pub(crate) fn disconnect(&self) {
        if let Some(session) = lock(&self.session).take() {
            session.connection.abort();
        }
    }

    /// Executes a statement. If it is not known whether it took effect, the error is of kind `doubt`.
    pub(crate) async fn query(
        &self,
        sql: &str,
        given: Parameters<'_>,
        doubt: ErrorKind,
    ) -> Result<Vec<Row>> {
        if let Some(damage) = self.damage.get() {
            return Err(damage.clone());
        }
        let session = lock(&self.session).clone().filter(|_| !self.stop.is_cancelled());
        let session = session.filter(|session| !session.client.is_closed());
        let session = session.ok_or_else(|| unavailable("not connected to PostgreSQL"))?;
        let sql = sql.replace("{table}", &self.config.table);
        match timeout(self.config.timeout, session.client.query_typed(&sql, given)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                // An error undoes the transaction. What ends the session may come after the commit.
                let severity = error.as_db_error().and_then(|error| error.parsed_severity());
                let is_undone = severity == Some(Severity::Error);
                let kind = if is_undone { ErrorKind::Unavailable } else { doubt };
                Err(Error::new(kind, "PostgreSQL failed").with_source(error))
            }
            Err(_) => {
                session.connection.abort();
                Err(Error::new(doubt, "PostgreSQL does not answer"))
            }
        }
    }

    /// Takes a version that was read. Without one, the state is damaged for good.
    pub(crate) fn observe(&self, stored: Option<&[u8]>) -> Result<Version> {
        let missing = || Error::new(ErrorKind::Corrupt, "the state's version is missing");
        let version = stored.ok_or_else(missing).and_then(|bytes| Version::decode(Some(bytes)));
        let version = version.inspect_err(|error| {
            self.damage.get_or_init(|| error.clone());
            self.stop.cancel();
        })?;
        self.observed.note(version);
        Ok(version)
    }

    pub(crate) async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let keys: Vec<_> = wanted.keys.iter().map(Vec::as_slice).chain([VERSION]).collect();
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
        let mut found = MemoryStore::default();
        found.commit(rows.iter().map(|row| (row.get(0), Some(row.get(1)))).collect())?;
        if self.observe(found.get(VERSION)?.as_deref())? == Version::EMPTY {
            found.commit(Effect::from_iter([(VERSION.to_vec(), None)]))?;
        }
        wanted.read_from(&found)
    }

    pub(crate) async fn commit(&self, base: Version, effect: &Effect) -> Result<Outcome> {
        let next = effect.version()?;
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
        let found = self.observe(rows.first().map(|row| row.get(0)))?;
        let outcome = base.admits(next, found);
        if outcome == Some(Outcome::Stored) {
            self.observed.note(next);
        }
        outcome
            .ok_or_else(|| unavailable("the state is at an older version than the commit's base"))
    }
}

pub(crate) fn unavailable(context: &str) -> Error {
    Error::new(ErrorKind::Unavailable, context)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
