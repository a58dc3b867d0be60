//! Nodes that do not lead, seen from the command line.

use std::{path::Path, process::Output, time::Duration};

use serde_json::{Value, json};
use tsoracle_core::{Leadership, OracleOptions, Phase};
use tsoracle_server::Server;

use crate::{
    common::{Running, driver::Scripted},
    node::{Node, error_line, run, stdout},
    ports::free_port,
};

async fn ask(server: &Running, arguments: &[&'static str]) -> Output {
    let (address, mut arguments) = (server.address.to_string(), arguments.to_vec());
    arguments.push("--endpoint");
    let run = move || run(Path::new("."), &[&arguments[..], &[&address]].concat());
    tokio::task::spawn_blocking(run).await.expect("it does not panic")
}

#[tokio::test]
async fn a_follower_knows_who_leads_and_is_followed() {
    let leader = Running::in_memory().await;
    let address = leader.address.to_string();
    let follower = Running::over(Scripted::follower(&address, 1)).await;
    follower.reach(|phase| matches!(phase, Phase::Following(_))).await;

    let output = ask(&follower, &["status", "--json"]).await;
    assert_eq!(output.status.code(), Some(1), "no server that was named serves");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["phase"], &answer["health"]), (&json!("following"), &json!("SERVING")));
    assert_eq!((&answer["leader"], &answer["epoch"]), (&json!(address), &json!("1")));

    assert_eq!(stdout(&ask(&follower, &["seq", "k", "--count", "2"]).await), "0 to 1 (2 values)");
    assert_eq!(stdout(&ask(&follower, &["seq-read", "k"]).await), "2");
    stdout(&ask(&follower, &["ts"]).await).parse::<u64>().unwrap();
}

#[tokio::test]
async fn without_a_leader_it_says_so() {
    let options = OracleOptions { hold: Duration::ZERO, ..OracleOptions::default() };
    let driver = Scripted::new(Leadership::Unknown);
    let server = Running::start(Server::builder().driver(driver).options(options)).await;
    let output = ask(&server, &["status"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("{}  no leader, health NOT_SERVING\n", server.address));
    let line = error_line(&ask(&server, &["ts", "--timeout", "200ms"]).await, 1);
    assert!(line.contains(&server.address.to_string()), "{line}");
}

#[tokio::test]
async fn a_driver_whose_members_cannot_change_says_so() {
    let server = Running::in_memory().await;
    let line = error_line(&ask(&server, &["cluster", "members"]).await, 1);
    assert!(line.contains("no members that can be changed"), "{line}");
    let line = error_line(&ask(&server, &["cluster", "remove", "1"]).await, 1);
    assert!(line.contains("no members that can be changed"), "{line}");
}

#[test]
fn a_node_that_waits_for_another_one_says_so_in_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let peer = free_port();
    let peers = format!("1={peer}/127.0.0.1:1,2=127.0.0.1:1/127.0.0.1:2");
    for driver in ["openraft", "omnipaxos"] {
        let config = format!("{driver}:{driver}?node=1&peers={peers}");
        let node = Node::start(directory.path(), &[&config, "--advertise", "127.0.0.1:1"]);
        let asked = node.ask(&["status", "--json"]);
        let answer: Value = serde_json::from_slice(&asked.stdout).unwrap();
        let trouble = answer["troubles"][0].as_str().unwrap();
        assert!(trouble.contains("waiting for node 2 at 127.0.0.1:1"), "{trouble}");
        let text = String::from_utf8(node.ask(&["status"]).stdout).unwrap();
        assert!(text.trim_end().ends_with(trouble), "{text}");
    }
}
