//! The suite in another process, which can be killed: what it does, and how it is instructed.

use std::{
    env, future,
    io::{self, Write},
    process::{ExitCode, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tsoracle_core::{
    DriverConfig, OpenContext, Oracle, OracleOptions, Registry, RequestId, SeqKey, SeqRequest,
    Session,
};

use crate::{Config, oracles::serves, suite::runtime};

const ROLE: &str = "TSORACLE_CONFORMANCE_ROLE";
const CONFIG: &str = "TSORACLE_CONFORMANCE_CONFIG";
const SERVICE: &str = "TSORACLE_CONFORMANCE_SERVICE";

/// What ends every line, since the last one may be there in part.
const END: &str = " .";

/// The sequence that a worker under load takes blocks of.
pub(crate) const KEY: &str = "orders";

/// How many callers ask at once, in each of the ways there are.
const CALLERS: u64 = 4;

/// This program, in another process.
pub(crate) struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The process ends when this is closed, so that none is left over.
    _stdin: ChildStdin,
}

impl Worker {
    /// Starts a process that opens the config string, and does `role`.
    pub(crate) fn start(config: Config, role: &str) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .env(ROLE, role)
            .env(CONFIG, config.string)
            .env(SERVICE, config.service_endpoint.unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().context("the process has no stdin")?;
        let stdout = child.stdout.take().context("the process has no stdout")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines(), _stdin: stdin })
    }

    /// The next line that begins so; others are passed over.
    pub(crate) async fn line_that_begins(&mut self, word: &str) -> Result<String> {
        loop {
            match self.line().await? {
                Some(line) if line.starts_with(word) => return Ok(line),
                Some(line) if line.starts_with("failed") => bail!("the other process {line}"),
                Some(_) => {}
                None => bail!("the other process ended before it said {word:?}"),
            }
        }
    }

    /// The next line, or `None` at the end.
    pub(crate) async fn line(&mut self) -> Result<Option<String>> {
        let line = self.lines.next_line().await?;
        Ok(line.and_then(|line| line.strip_suffix(END).map(str::to_owned)))
    }

    /// Ends the process with `kill -9`, and returns what it still said.
    pub(crate) async fn kill(&mut self) -> Result<Vec<String>> {
        self.child.kill().await?;
        let mut rest = Vec::new();
        while let Some(line) = self.line().await? {
            rest.push(line);
        }
        Ok(rest)
    }
}

/// What this process is to do, if it was started by a check.
pub(crate) struct Role {
    role: String,
    config: String,
    service_endpoint: Option<String>,
}

impl Role {
    pub(crate) fn of_this_process() -> Option<Self> {
        let service_endpoint = env::var(SERVICE).ok().filter(|endpoint| !endpoint.is_empty());
        Some(Self { role: env::var(ROLE).ok()?, config: env::var(CONFIG).ok()?, service_endpoint })
    }

    /// Does it until killed, or until the process that started this one has ended.
    pub(crate) fn run(self, registry: Option<Registry>) -> ExitCode {
        let outcome = runtime().context("no runtime").and_then(|runtime| {
            let doing = self.perform(registry);
            runtime.block_on(async {
                tokio::select! {
                    outcome = doing => outcome,
                    _ = tokio::task::spawn_blocking(|| io::read_to_string(io::stdin())) => Ok(()),
                }
            })
        });
        if let Err(error) = outcome {
            say(&format!("failed: {error:?}").replace('\n', " "));
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }

    async fn perform(self, registry: Option<Registry>) -> Result<()> {
        let registry = registry.map_or_else(Registry::linked, Ok)?;
        let context =
            OpenContext { service_endpoint: self.service_endpoint, ..OpenContext::default() };
        let driver = registry.open(DriverConfig::parse(&self.config)?, context).await?;
        let oracle = Oracle::start(driver, OracleOptions::default())?;
        serves(&oracle).await?;
        // Before the load, since what is written earlier is passed over.
        say("up");
        match self.role.as_str() {
            "hold" => {}
            "load" => load(&Arc::new(oracle)),
            other => bail!("there is no role {other:?}"),
        }
        future::pending().await
    }
}

/// Many callers at once, each of which writes what it requests before it does, and what it got.
fn load(oracle: &Arc<Oracle>) {
    for caller in 0..CALLERS {
        tokio::spawn(with_ids(oracle.clone(), format!("caller-{caller}-{}", std::process::id())));
        tokio::spawn(timestamps(oracle.clone()));
    }
}

async fn with_ids(oracle: Arc<Oracle>, session: String) -> Result<()> {
    for number in 1.. {
        say(&format!("ask {session} {number}"));
        let grant = oracle.get_seq(asked(&session, number)?).await?;
        say(&format!("got {session} {number} {}", grant.blocks[0].start));
    }
    Ok(())
}

async fn timestamps(oracle: Arc<Oracle>) -> Result<()> {
    loop {
        let granted = oracle.get_ts(10).await?;
        say(&format!("time {}", granted.range.last().as_u64()));
        // As many as sequence requests, not as many as possible.
        oracle.read_seq(SeqKey::new(KEY)?).await?;
    }
}

/// The request that a worker sends under this number.
pub(crate) fn asked(session: &str, number: u64) -> Result<SeqRequest> {
    let id = RequestId::new(Session::from_text(session), number, 1)?;
    let count = 1 + u32::try_from(number % 5)?;
    ensure!(number < 4_096, "the worker asked for more than a session keeps");
    Ok(SeqRequest::new(vec![(SeqKey::new(KEY)?, count)], Some(id))?)
}

fn say(line: &str) {
    // The process that reads it may have gone; then this one ends as well.
    let _ = writeln!(io::stdout(), "{line}{END}");
}
