//! The suite in another process, which can be killed: what it does, and how it is told.

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
use tsoracle_core::{Oracle, OracleOptions, RequestId, SeqKey, SeqRequest, Session};

use crate::{
    Harness, Place,
    commanded::Commanded,
    rig::{Leader, serves},
    suite::runtime,
};

const ROLE: &str = "TSORACLE_CONFORMANCE_ROLE";
const PLACE: &str = "TSORACLE_CONFORMANCE_PLACE";

/// What ends every line, since the last one may be there in part.
const END: &str = " .";

/// The sequences that a worker under load asks for: with ids, and without.
pub(crate) const WITH_ID: &str = "with id";
pub(crate) const WITHOUT_ID: &str = "without id";

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
    /// Starts a process that does `role` over the place.
    pub(crate) fn start(place: &dyn Place, role: &str) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .env(ROLE, role)
            .env(PLACE, place.name()?)
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
    place: String,
}

impl Role {
    pub(crate) fn of_this_process() -> Option<Self> {
        Some(Self { role: env::var(ROLE).ok()?, place: env::var(PLACE).ok()? })
    }

    /// Does it until killed, or until whoever started this process has ended.
    pub(crate) fn run(&self, harness: &dyn Harness) -> ExitCode {
        let outcome = runtime().context("no runtime").and_then(|runtime| {
            let doing = self.perform(harness);
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

    async fn perform(&self, harness: &dyn Harness) -> Result<()> {
        let mut place = harness.place_named(&self.place).await?;
        let driver = place.open().await?;
        match self.role.as_str() {
            "hold" => Leader::of(Commanded::over(driver)).await?.reign().await.map(drop)?,
            "load" => {
                let oracle = Oracle::start(driver, OracleOptions::default())?;
                serves(&oracle).await?;
                // Before the load, since what is said earlier is passed over.
                say("up");
                load(&Arc::new(oracle));
                return future::pending().await;
            }
            other => bail!("there is no role {other:?}"),
        }
        say("up");
        future::pending().await
    }
}

/// Many callers at once, each saying what it asks before it asks, and what it got.
fn load(oracle: &Arc<Oracle>) {
    for caller in 0..CALLERS {
        tokio::spawn(with_ids(oracle.clone(), format!("caller-{caller}-{}", std::process::id())));
        tokio::spawn(without_ids(oracle.clone()));
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

async fn without_ids(oracle: Arc<Oracle>) -> Result<()> {
    loop {
        let request = SeqRequest::single(SeqKey::new(WITHOUT_ID)?, 3)?;
        say("plain");
        let grant = oracle.get_seq(request).await?;
        say(&format!("had {}", grant.blocks[0].start));
    }
}

async fn timestamps(oracle: Arc<Oracle>) -> Result<()> {
    loop {
        let granted = oracle.get_ts(10).await?;
        say(&format!("time {}", granted.range.last().as_u64()));
        // As many as sequence requests, not as many as possible.
        oracle.read_seq(SeqKey::new(WITHOUT_ID)?).await?;
    }
}

/// The request that a worker sends under this number.
pub(crate) fn asked(session: &str, number: u64) -> Result<SeqRequest> {
    let id = RequestId::new(Session::from_text(session), number, 1)?;
    let count = 1 + u32::try_from(number % 5)?;
    ensure!(number < 4_096, "the worker asked for more than a session keeps");
    Ok(SeqRequest::new(vec![(SeqKey::new(WITH_ID)?, count)], Some(id))?)
}

fn say(line: &str) {
    // Whoever listened may have gone; then this process ends as well.
    let _ = writeln!(io::stdout(), "{line}{END}");
}
