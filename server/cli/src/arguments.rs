use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Write},
    process,
};

use clap::{
    Arg, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use crate::{
    ask, backup, bench, cert, cluster, completions, decode, drivers, encode, help, init, inspect,
    leases, man, migrate, raise, reload, restore, sequences, settings::Settings, status, token,
    verify,
};

const ABOUT: &str = "\
Strictly increasing timestamps, gapless sequences, and stamping leases.

Without a command it serves, as `tsoracle serve` does.";

const EXAMPLES: &str = "\
Examples:
  tsoracle                                      serve on 127.0.0.1:50551, data in ./tsoracle-data
  tsoracle serve file:/var/lib/tsoracle --listen 0.0.0.0:50551 --tls-cert db1.pem --tls-key db1.key
  tsoracle ts                                   one timestamp
  tsoracle seq orders --count 64                64 values that no other caller gets
  tsoracle seq orders --request-id order-17     asked again, the same value again
  tsoracle status --endpoint db1:50551,db2:50551,db3:50551
  tsoracle verify --endpoint db1,db2,db3        do they keep what is promised?
  tsoracle bench --baseline                     how fast, beside what the machine can do

`tsoracle COMMAND --help` shows more of each.

Exit codes: 0 done; 1 not done, and one line on standard error says why; 2 the arguments, the
environment or the config file are wrong; 3 (of serve) the cluster goes on without this node: do not
start it again before you have looked.";

const SERVE_EXAMPLES: &str = "\
DRIVER is a name (`file`), or a config string: NAME:PATH?OPTION=VALUE&OPTION=VALUE.
`tsoracle drivers` lists those of this build, with their options.

Every option can be given in three ways. A flag beats the environment, which beats the file:
  --window-ahead 5s
  TSORACLE_WINDOW_AHEAD=5s
  window-ahead = \"5s\"           in the TOML file that --config names

In the file, the driver is a config string as well, or a table:
  listen = \"0.0.0.0:50551\"
  [driver]
  driver = \"file\"
  path = \"/var/lib/tsoracle\"

When it serves, one line on standard output says so, with the address really bound; logs go to
standard error. SIGTERM and Ctrl-C let calls under way end, release the lease, and exit; a second
signal exits at once. SIGHUP has certificates, keys, policy, tokens and the log filter read again,
as `tsoracle reload` does, and as a server does by itself within seconds of a change.

Exit codes: 0 stopped, 1 failed, 2 wrong arguments, environment or config file, 3 the cluster goes on
without this node: it was removed or wiped, its directory was copied, or it runs twice. Do not start it
again before you have looked.";

/// The command line.
#[derive(Parser, Debug)]
#[command(name = "tsoracle", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Serve timestamps, sequences and stamping leases over gRPC
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Settings>),
    /// Get timestamps, each greater than all that were given out before
    ///
    /// Prints the timestamp, or the first and the last one of several. With --json also its parts:
    /// {"timestamp": N, "physical_ms": …, "logical": …, "time": "…", "count": C}
    #[command(after_help = ask::TS_EXAMPLES)]
    Ts(ask::TsArguments),
    /// Get the next values of a sequence, without gaps; no other caller gets them
    ///
    /// Prints the value, or the first and the last one of several. With --json:
    /// {"key": "…", "start": S, "count": C} for the values from S to S + C - 1.
    #[command(after_help = ask::SEQ_EXAMPLES)]
    Seq(ask::SeqArguments),
    /// Read the value that the next block of a sequence starts with, without taking it
    #[command(after_help = ask::SEQ_READ_EXAMPLES)]
    SeqRead(ask::KeyArguments),
    /// List sequences in the byte order of their keys, each with its next value
    ///
    /// Prints a line per sequence: its key, and the value that its next block starts with. With
    /// --json: {"key": "…", "next": N}
    #[command(after_help = sequences::LIST_EXAMPLES)]
    SeqList(sequences::ListArguments),
    /// Let a sequence that was never used begin elsewhere than at 0
    ///
    /// Prints its first value. With --json: {"key": "…", "next": N}
    #[command(after_help = sequences::SEED_EXAMPLES)]
    SeqSeed(sequences::SeedArguments),
    /// Delete a sequence, as if it had never been used
    ///
    /// Prints the value that its next block would have started with. With --json: {"key": "…", "next": N}
    #[command(after_help = sequences::DELETE_EXAMPLES)]
    SeqDelete(ask::KeyArguments),
    /// Open sequences that are closed since the state was restored from a backup
    ///
    /// Prints a line for each with a floor: its key, and its next value. With --json:
    /// {"entries": [{"key": "…", "next": N}], "closed": …}
    #[command(after_help = sequences::OPEN_EXAMPLES)]
    SeqOpen(sequences::OpenArguments),
    /// Acquire a stamping lease: the right to stamp events by oneself, up to a bound, for a while
    ///
    /// With --json: {"lease_id": N, "ts_upper_bound": MS, "expires_at_ms": MS, "remaining_ms": MS}
    #[command(after_help = leases::ACQUIRE_EXAMPLES)]
    LeaseAcquire(leases::AcquireArguments),
    /// Let a stamping lease run for its whole time again
    #[command(after_help = leases::RENEW_EXAMPLES)]
    LeaseRenew(leases::LeaseArguments),
    /// Give a stamping lease back
    #[command(after_help = leases::RELEASE_EXAMPLES)]
    LeaseRelease(leases::LeaseArguments),
    /// Read the safe frontier: the millisecond that all stamping leases, and the durable high-water,
    /// have reached
    #[command(after_help = leases::FRONTIER_EXAMPLES)]
    Frontier(leases::FrontierArguments),
    /// Take a timestamp apart: milliseconds since 1970, the position among those of one
    /// millisecond, and the time
    #[command(after_help = decode::EXAMPLES)]
    Decode(decode::Arguments),
    /// Make a timestamp of a time, and of a position among those of one millisecond
    #[command(after_help = encode::EXAMPLES)]
    Encode(encode::Arguments),
    /// Ask each server who leads, and whether it serves
    ///
    /// Exits with 0 if any of the servers serves. With --json, one line per server.
    #[command(after_help = status::EXAMPLES)]
    Status(status::Arguments),
    /// Look at the nodes of a cluster, and change them while it runs
    ///
    /// Each prints the nodes as they are then. Drivers without changes at run time refuse.
    #[command(subcommand, after_help = cluster::EXAMPLES)]
    Cluster(cluster::Command),
    /// Have servers read their policy, tokens, log filter and certificates again
    ///
    /// Prints a line per server. What the files of a server say only holds if all of it is right.
    #[command(after_help = reload::EXAMPLES)]
    Reload(reload::Arguments),
    /// Make certificates for nodes, clients and administrators
    ///
    /// For a cluster that has no authority of its own to ask: a secure cluster of three is six commands.
    #[command(subcommand, after_help = cert::EXAMPLES)]
    Cert(cert::Command),
    /// Make, list and revoke tokens, which prove to a server who a client is
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::Command),
    /// List the storage drivers of this build, with their options
    #[command(after_help = drivers::EXAMPLES)]
    Drivers(drivers::Arguments),
    /// Set up a new driver so that timestamps begin after those of another system
    ///
    /// Refuses where there is state already. No server may be running over the driver.
    #[command(after_help = init::EXAMPLES)]
    Init(init::Arguments),
    /// Take a backup of everything, while it is served
    ///
    /// Prints what is in it. With --json: {"file": "…", "bytes": N, "taken": "…", "era": N, "number": N, "sequences":
    /// N, …}
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Arguments),
    /// Look at the state of a stopped node, without changing anything
    ///
    /// Prints what is in it. With --json: {"driver": "…", "version": …, "sequences": N, …}, and with --keys a line of
    /// {"key": "…", "next": N} for each sequence
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(inspect::Arguments),
    /// Restore a backup into a new driver
    ///
    /// Timestamps go on above everything. Sequences are closed until it is said from where they go on, or that
    /// values may be granted twice. No server may be running over the driver.
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::Arguments),
    /// Copy everything from one driver into another, new one, to go on there
    ///
    /// Timestamps go on above the old ones; sequences, sessions and stamping leases arrive exactly. No
    /// server may be running over either. What arrived is compared with what left before it can serve.
    #[command(after_help = migrate::EXAMPLES)]
    Migrate(migrate::Arguments),
    /// Raise the time above what a restored backup lacks
    ///
    /// No server may be running over the driver. With --json: {"driver": "…", "high_water_ms": N}
    #[command(after_help = raise::EXAMPLES)]
    Raise(raise::Arguments),
    /// Check from outside whether a deployment keeps its promises
    ///
    /// Prints a line for each promise, and below one that is broken what shows it. With --json, all
    /// of it on one line.
    #[command(after_help = verify::EXAMPLES)]
    Verify(Box<verify::Arguments>),
    /// Measure how fast a server answers, and how near that is to what the machine can do
    #[command(after_help = bench::EXAMPLES)]
    Bench(Box<bench::Arguments>),
    /// Serve the echo that `bench --baseline` compares with
    #[command(hide = true, name = bench::echo::COMMAND)]
    BenchEcho,
    /// Print what makes a shell complete this program's arguments
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::Arguments),
    /// Print the manual page, or write one per command
    #[command(after_help = man::EXAMPLES)]
    Man(man::Arguments),
}

impl Cli {
    /// Reads the arguments, or prints help, or what is wrong with them, and exits.
    pub(crate) fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let command = without_empty_variables(help::laid_out(Self::command()));
        let matches = command.try_get_matches_from(with_command(arguments));
        let parsed = matches.and_then(|matches| Self::from_arg_matches(&matches));
        parsed.unwrap_or_else(|error| end(&with_variable(error)))
    }
}

/// Prints help, or what is wrong with the arguments, and ends the process. If nobody reads it, nobody misses it.
fn end(error: &clap::Error) -> ! {
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let (output, is_terminal): (&mut dyn Write, _) = match error.use_stderr() {
        true => (&mut stderr, io::stderr().is_terminal()),
        false => (&mut stdout, io::stdout().is_terminal()),
    };
    let text = match is_terminal {
        true => error.render().ansi().to_string(),
        false => error.render().to_string(),
    };
    let _ = output.write_all(help::printed(&text).as_bytes()).and_then(|()| output.flush());
    process::exit(error.exit_code())
}

/// A variable that is empty counts as not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |argument: &Arg| {
        let name = argument.get_env();
        name.and_then(env::var_os).is_some_and(|value| value.is_empty())
    };
    let command = command.mut_args(|argument| match is_empty(&argument) {
        true => argument.env(None::<&str>),
        false => argument,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Names the variable that a wrong value is from.
fn with_variable(mut error: clap::Error) -> clap::Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let option = context(ContextKind::InvalidArg).unwrap_or_default();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let flag = option.trim_start_matches("--").split([' ', '=', '[']).next().unwrap_or_default();
    let own = flag.to_uppercase().replace('-', "_");
    let names = [format!("TSORACLE_{own}"), format!("TSORACLE_CLIENT_{own}")];
    let given =
        env::args_os().any(|argument| argument.to_string_lossy().starts_with(&format!("--{flag}")));
    let from =
        names.iter().find(|name| !given && env::var(name).is_ok_and(|set| set.contains(&value)));
    if let Some(name) = from {
        error.insert(
            ContextKind::InvalidArg,
            ContextValue::String(format!("{option}, from {name}")),
        );
    }
    error
}

/// Serving needs no word: without one, or with an option in its place, it is added.
fn with_command(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const OWN: [&str; 4] = ["-h", "--help", "-V", "--version"];
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let serves = match arguments.get(1).map(|first| first.to_string_lossy()) {
        None => true,
        Some(first) => first.starts_with('-') && !OWN.contains(&&*first),
    };
    if serves {
        arguments.insert(arguments.len().min(1), "serve".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn words(arguments: &[&str]) -> Vec<OsString> {
        with_command(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
        help::laid_out(Cli::command()).debug_assert();
    }

    #[test]
    fn serving_needs_no_word() {
        assert_eq!(words(&["tsoracle"]), ["tsoracle", "serve"]);
        assert_eq!(words(&["tsoracle", "--lease", "2s"]), ["tsoracle", "serve", "--lease", "2s"]);
        assert_eq!(words(&["tsoracle", "ts"]), ["tsoracle", "ts"]);
        assert_eq!(words(&["tsoracle", "--help"]), ["tsoracle", "--help"]);
    }
}
