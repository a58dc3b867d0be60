//! Who may do what, as an operator sets it up: tokens, a policy, an admin address, an audit log.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    node::{Node, error_line, finished, json, run, stdout, tsoracle, until},
    ports,
};

const POLICY: &str = "
[policy.roles]
biller = ['seq:invoices/*', 'read:invoices/*']
[policy.identities]
billing = ['biller', 'ts']
ops = ['admin']
watcher = ['reader']
";

/// A directory with a config file, and with a token in a file for each of these identities.
struct Place(TempDir);

impl Place {
    fn new(config: &str) -> Self {
        let place = Self(TempDir::new().unwrap());
        place.write("config.toml", config);
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn token(&self, name: &str) -> String {
        let token = stdout(&run(self.path(), &["token", "new", name, "--tokens", "tokens"]));
        self.write(&format!("{name}.token"), &format!("{token}\n"));
        token
    }

    fn serve(&self, arguments: &[&str]) -> Node {
        Node::start(self.path(), &[&["--config", "config.toml"], arguments].concat())
    }

    /// Asks a node as an identity.
    fn ask(&self, node: &Node, name: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = tsoracle(self.path(), arguments);
        command.args(["--endpoint", &node.address]);
        if let Some(name) = name {
            command.args(["--token-file", &format!("{name}.token")]);
        }
        finished(&mut command)
    }

    fn audited(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn free_port() -> String {
    ports::free_port().replace("127.0.0.1:", "")
}

#[test]
fn tokens_prove_identities_and_a_policy_says_what_they_may() {
    let place = Place::new(POLICY);
    for name in ["billing", "ops", "watcher"] {
        place.token(name);
    }
    let node = place.serve(&["--tokens", "tokens", "--audit-log", "audit.jsonl"]);
    let invoices: &[&str] = &["seq", "invoices/1"];
    assert_eq!(stdout(&place.ask(&node, Some("billing"), invoices)), "0");
    let line = error_line(&place.ask(&node, Some("billing"), &["seq", "orders"]), 1);
    assert!(line.contains("\"billing\" lacks the right \"seq:orders\""), "{line}");
    let line = error_line(&place.ask(&node, None, &["seq", "invoices/1"]), 1);
    assert!(line.contains("certificate or a token"), "{line}");
    assert_eq!(stdout(&place.ask(&node, Some("ops"), &["seq-seed", "orders", "7"])), "7");
    let line = error_line(&place.ask(&node, Some("watcher"), &["seq-delete", "orders"]), 1);
    assert!(line.contains("\"delete\""), "{line}");
    assert_eq!(stdout(&place.ask(&node, Some("watcher"), &["seq-read", "orders"])), "7");
    let status = json(&place.ask(&node, Some("watcher"), &["status", "--json"]));
    assert_eq!(status["phase"], "leading");
    let mut command = tsoracle(place.path(), &["ts", "--endpoint", &node.address]);
    let token = fs::read_to_string(place.path().join("billing.token")).unwrap();
    stdout(&finished(command.env("TSORACLE_TOKEN", token.trim())));

    until("the audit log is written", || place.audited().len() >= 5);
    let audited: Vec<_> = place
        .audited()
        .iter()
        .map(|line| {
            ["identity", "right", "outcome"].map(|name| line[name].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ["billing", "seq", "PERMISSION_DENIED"],
        // Looked at by the client before it asks for anything.
        ["anonymous", "status", "UNAUTHENTICATED"],
        ["anonymous", "seq", "UNAUTHENTICATED"],
        ["ops", "seed", "OK"],
        ["watcher", "delete", "PERMISSION_DENIED"],
    ];
    assert_eq!(audited, expected);
    for file in ["audit.jsonl", "tokens"] {
        let mode = fs::metadata(place.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_token_is_shown_once_and_can_be_revoked() {
    let place = Place::new(POLICY);
    let first = place.token("billing");
    let second = place.token("billing");
    let (file, listed) = (
        fs::read_to_string(place.path().join("tokens")).unwrap(),
        run(place.path(), &["token", "list", "--tokens", "tokens", "--json"]),
    );
    assert!(!file.contains(&first[8..]) && !file.contains(&second[8..]), "{file}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let listed: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.len(), 2);
    let node = place.serve(&["--tokens", "tokens"]);
    stdout(&place.ask(&node, Some("billing"), &["ts"]));

    let id = listed[1]["id"].as_str().unwrap();
    stdout(&run(place.path(), &["token", "revoke", id, "--tokens", "tokens"]));
    // Without a signal: the server looks by itself.
    until("a revoked token is good for nothing", || {
        !place.ask(&node, Some("billing"), &["ts"]).status.success()
    });
    let line = error_line(&place.ask(&node, Some("billing"), &["ts"]), 1);
    assert!(line.contains("revoked"), "{line}");
    place.write("billing.token", &first);
    stdout(&place.ask(&node, Some("billing"), &["ts"]));
    let line = error_line(&run(place.path(), &["token", "revoke", id, "--tokens", "tokens"]), 1);
    assert!(line.contains("token list"), "{line}");
}

#[test]
fn administrators_have_an_address_of_their_own() {
    let place = Place::new("");
    let port = free_port();
    let node = place.serve(&["--admin-listen", &port]);
    let line = error_line(&place.ask(&node, None, &["seq-seed", "orders", "7"]), 1);
    assert!(line.contains("--admin-listen"), "{line}");
    let admin = format!("127.0.0.1:{port}");
    let seed = ["seq-seed", "orders", "7", "--endpoint", &admin];
    assert_eq!(stdout(&run(place.path(), &seed)), "7");
    assert_eq!(stdout(&place.ask(&node, None, &["seq", "orders"])), "7", "clients go on");
}

#[test]
fn a_policy_is_taken_up_while_the_server_runs_and_a_bad_one_is_not() {
    let place = Place::new(POLICY);
    place.token("billing");
    let mut node = place.serve(&["--tokens", "tokens"]);
    let may_read = |node: &Node| place.ask(node, Some("billing"), &["frontier"]).status.success();
    assert!(!may_read(&node));

    place.write("config.toml", &POLICY.replace("'ts']", "'ts', 'writer']"));
    node.signal(Signal::HUP);
    node.wait_for_log("no right \"writer\"");
    stdout(&place.ask(&node, Some("billing"), &["ts"]));

    // As while an editor writes it.
    place.write("config.toml", "");
    node.wait_for_log("no policy any more");
    assert!(!may_read(&node));
    error_line(&place.ask(&node, None, &["ts"]), 1);

    let wider = POLICY.replace("'ts']", "'ts', 'reader']");
    place.write("config.toml", &format!("log = 'debug'\nlease = '2s'\n{wider}"));
    node.signal(Signal::HUP);
    node.wait_for_log("next start on");
    assert!(may_read(&node));
}

#[test]
fn a_token_is_revoked_whatever_else_is_wrong() {
    let place = Place::new(POLICY);
    for name in ["billing", "watcher"] {
        place.token(name);
    }
    let mut node = place.serve(&["--tokens", "tokens"]);
    place.write("config.toml", "[policy.identities]\nbilling = ['writer']");
    node.wait_for_log("no right \"writer\"");
    stdout(&place.ask(&node, Some("billing"), &["ts"]));
    stdout(&run(place.path(), &["token", "revoke", "billing", "--tokens", "tokens"]));
    node.wait_for_log("tokens are taken up");
    let line = error_line(&place.ask(&node, Some("billing"), &["ts"]), 1);
    assert!(line.contains("revoked"), "{line}");
    // The policy of before holds, also when the files of tokens cannot be used.
    stdout(&place.ask(&node, Some("watcher"), &["frontier"]));
    place.write("tokens", "nonsense");
    node.wait_for_log("no right \"writer\"");
    stdout(&place.ask(&node, Some("watcher"), &["frontier"]));
}

#[test]
fn a_client_that_runs_takes_up_a_new_token() {
    let place = Place::new(POLICY);
    place.token("billing");
    let node = place.serve(&["--tokens", "tokens"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let builder = tsoracle_client::Client::builder().endpoints([&node.address]);
        builder.token_file(place.path().join("billing.token")).build().unwrap()
    });
    let ask = || runtime.block_on(client.get_seq("invoices/1", 1));
    ask().unwrap();
    stdout(&run(place.path(), &["token", "revoke", "billing", "--tokens", "tokens"]));
    until("the token is good for nothing", || ask().is_err());
    assert_eq!(ask().unwrap_err().kind(), tsoracle_client::ErrorKind::Denied);
    place.token("billing");
    until("the client has the new one, and the server", || ask().is_ok());
}

#[test]
fn a_policy_that_cannot_be_proven_or_lets_strangers_administrate_is_warned_of() {
    let place = Place::new(POLICY);
    let mut node = place.serve(&[]);
    node.wait_for_log("nothing proves the identities of the policy");
    let place = Place::new("[policy.identities]\nanonymous = ['admin']");
    let mut node = place.serve(&[]);
    node.wait_for_log("clients that prove nothing may change the cluster");
}

#[test]
fn an_administrator_asks_for_what_the_files_say_and_hears_what_came_of_it() {
    let place = Place::new(POLICY);
    for name in ["billing", "ops"] {
        place.token(name);
    }
    let port = free_port();
    let arguments = ["--tokens", "tokens", "--audit-log", "audit.jsonl", "--admin-listen", &port];
    let node = place.serve(&arguments);
    let admin = format!("127.0.0.1:{port}");
    let at_admin: &[&str] = &["reload", "--endpoint", &admin];
    let may_read = || place.ask(&node, Some("billing"), &["frontier"]).status.success();

    let refused = |name, expected: &str| {
        let output = place.ask(&node, Some(name), &["reload"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(answer.contains(expected), "{answer}");
    };

    refused("billing", "lacks the right \"cluster\"");
    assert_eq!(stdout(&run(place.path(), at_admin)), format!("{admin}  taken up"));
    let wider = POLICY.replace("'ts']", "'ts', 'reader']");
    place.write("config.toml", &format!("lease = '2s'\n{wider}"));
    let answer = json(&run(place.path(), &[at_admin, &["--json"]].concat()));
    assert_eq!(answer["next_start"], serde_json::json!(["lease"]), "{answer}");
    assert!(may_read(), "it holds as soon as it is answered");

    place.write("config.toml", &POLICY.replace("'ts']", "'ts', 'writer']"));
    refused("ops", "no right \"writer\"");
    assert!(may_read());
    until("it is on record", || {
        let reloads = |outcome| {
            let of = |line: &&Value| line["right"] == "cluster" && line["outcome"] == outcome;
            place.audited().iter().filter(of).count()
        };
        reloads("OK") == 2
            && reloads("PERMISSION_DENIED") == 1
            && reloads("FAILED_PRECONDITION") == 1
    });
}

#[test]
fn what_would_leave_the_door_open_is_refused_at_the_start() {
    let table: &[(&str, &[&str], &str)] = &[
        ("", &["--listen", "0.0.0.0:0"], "--insecure-listen"),
        ("", &["--admin-listen", "0.0.0.0:0"], "--insecure-listen"),
        ("", &["--admin-listen", "0.0.0.0:0", "--insecure-listen"], "--admin-tls-client-ca"),
        ("", &["--admin-tls-cert", "a.pem"], "--admin-tls-key"),
        ("", &["--tokens", "none"], "cannot read the tokens none"),
        ("[policy.identities]\na = ['client']", &[], "the role admin"),
        (
            "[policy.identities]\na = ['client']",
            &["--admin-listen", "0.0.0.0:0", "--insecure-listen"],
            "the role admin",
        ),
        ("[policy.identities]\na = ['writer']", &[], "no right \"writer\""),
        ("[policy.identities]\na = ['seq:x/*', 'seq:x/y']", &[], "part of seq:x/*"),
        ("[policy.identities]\na = 'admin'", &[], "a list of roles and rights"),
        ("[policy]\nidentity = 1", &[], "line 2"),
        ("", &["--audit-log", "none/audit"], "cannot write to none/audit"),
    ];
    for (config, arguments, expected) in table {
        let place = Place::new(config);
        let all = [&["serve", "--config", "config.toml"], *arguments].concat();
        let line = error_line(&run(place.path(), &all), 2);
        assert!(line.contains(expected), "{config} {arguments:?}: {line}");
    }
    let place = Place::new("");
    place.token("billing");
    let line = error_line(&run(place.path(), &["serve", "--tokens", "tokens"]), 2);
    assert!(line.contains("without a policy"), "{line}");
    place.write("tokens", "tso_123");
    let line = error_line(&run(place.path(), &["serve", "--tokens", "tokens"]), 2);
    assert!(line.contains("line 1"), "{line}");
}

#[test]
fn a_token_that_cannot_be_one_is_not_sent() {
    let place = Place::new("");
    place.write("short", "tso_12");
    let line = error_line(&run(place.path(), &["ts", "--token-file", "short"]), 2);
    assert!(line.contains("68 characters, this one has 6"), "{line}");
    let output = finished(tsoracle(place.path(), &["status"]).env("TSORACLE_TOKEN", "x"));
    assert!(error_line(&output, 2).contains("TSORACLE_TOKEN"));
    let output = run(place.path(), &["token", "new", "anonymous", "--tokens", "t"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("prove none"));
}

#[test]
fn status_that_is_refused_asks_for_nothing_more() {
    let place = Place::new(POLICY);
    for name in ["billing", "watcher"] {
        place.token(name);
    }
    let node = place.serve(&["--tokens", "tokens", "--audit-log", "audit.jsonl"]);
    for name in [Some("billing"), None] {
        let said = String::from_utf8(place.ask(&node, name, &["status"]).stdout).unwrap();
        assert!(said.contains("  denied"), "{said}");
    }
    assert!(stdout(&place.ask(&node, Some("watcher"), &["status"])).contains("leading"));
    // What is recorded last.
    error_line(&place.ask(&node, Some("watcher"), &["seq-delete", "orders"]), 1);
    let audited = || {
        let fields = |line: &Value| {
            ["identity", "right"].map(|name| line[name].as_str().unwrap().to_owned())
        };
        place.audited().iter().map(fields).collect::<Vec<_>>()
    };
    until("the audit log is written", || audited().iter().any(|[_, right]| right == "delete"));
    let expected = [["billing", "status"], ["anonymous", "status"], ["watcher", "delete"]];
    assert_eq!(audited(), expected);
}
