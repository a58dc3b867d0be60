//! Sequences of one client in several oracles, by the prefixes of their keys.

use std::time::Duration;

use tsoracle_client::{Client, ClientBuilder, ErrorKind};
use tsoracle_core::{SeqKey, on_one_line};

use crate::common::Running;

/// A main server, one for `invoices/`, and one for `invoices/eu/`.
async fn three() -> [Running; 3] {
    [Running::in_memory().await, Running::in_memory().await, Running::in_memory().await]
}

fn builder([main, invoices, europe]: [&Running; 3]) -> ClientBuilder {
    Client::builder()
        .endpoints([main.address.to_string()])
        .route("invoices/", [invoices.address.to_string()])
        .route("invoices/eu/", [europe.address.to_string()])
        .timeout(Duration::from_secs(60))
}

async fn connect(servers: &[Running; 3]) -> Client {
    builder(servers.each_ref()).connect().await.expect("the main server listens")
}

/// Where a sequence stands, in each of the servers.
async fn stands(servers: &[Running; 3], key: &str) -> [Option<u64>; 3] {
    let key = SeqKey::new(key).expect("a valid key");
    let mut found = [None; 3];
    for (server, found) in servers.iter().zip(&mut found) {
        *found = server.oracle.read_seq(key.clone()).await.expect("it serves");
    }
    found
}

#[tokio::test]
async fn a_sequence_is_in_the_oracle_of_the_longest_prefix_of_its_key() {
    let servers = three().await;
    let client = connect(&servers).await;
    for (key, place) in [
        ("orders", 0),
        ("invoices", 0),
        ("invoice/1", 0),
        ("invoices/", 1),
        ("invoices/us/1", 1),
        ("invoices/eu", 1),
        ("invoices/eu/", 2),
        ("invoices/eu/1", 2),
    ] {
        client.seed_seq(key, 100).await.unwrap();
        assert_eq!(client.get_seq(key, 2).await.unwrap().start, 100);
        assert_eq!(client.get_seq_batch(&[(key, 3)]).await.unwrap()[0].start, 102);
        let named = client.get_seq_as(format!("request {key}"), key, 4).await.unwrap();
        assert_eq!(client.get_seq_as(format!("request {key}"), key, 4).await.unwrap(), named);
        assert_eq!(client.read_seq(key).await.unwrap(), 109);
        let mut expected = [None; 3];
        expected[place] = Some(109);
        assert_eq!(stands(&servers, key).await, expected, "{key}");
    }
    let error = client.seed_seq("invoices/eu/1", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let error = client.read_seq("invoices/never").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    client.close().await;
}

#[tokio::test]
async fn timestamps_and_leases_are_of_the_main_oracle() {
    let servers = three().await;
    let client = connect(&servers).await;
    let lease = client.acquire_lease("holder", 1, Duration::from_secs(60)).await.unwrap();
    client.get_ts().await.unwrap();
    assert_eq!(client.get_safe_frontier().await.unwrap().physical_ms, lease.bound_ms);
    for (server, is_main) in servers.iter().zip([true, false, false]) {
        let bound = server.oracle.safe_frontier().await.unwrap().physical_ms;
        assert_eq!(bound == lease.bound_ms, is_main);
    }
}

#[tokio::test]
async fn a_batch_goes_to_one_oracle_or_is_refused_with_what_to_do() {
    let servers = three().await;
    let client = connect(&servers).await;
    for batch in
        [["orders", "customers"], ["invoices/1", "invoices/2"], ["invoices/eu/1", "invoices/eu/2"]]
    {
        let blocks = client.get_seq_batch(&batch.map(|key| (key, 1))).await.unwrap();
        assert!(blocks.iter().all(|block| block.start == 0), "{blocks:?}");
    }
    for batch in [
        ["orders", "customers", "invoices/1"],
        ["invoices/1", "invoices/2", "orders"],
        ["invoices/eu/1", "invoices/eu/2", "invoices/1"],
    ] {
        let error = client.get_seq_batch(&batch.map(|key| (key, 1))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        for part in [batch[0], batch[2], "ask each oracle in a batch of its own"] {
            assert!(text.contains(part), "{text}");
        }
        for key in batch {
            assert!(stands(&servers, key).await.iter().flatten().all(|next| *next == 1), "{key}");
        }
    }
}

/// All keys that are listed, page by page.
async fn listed(client: &Client, prefix: &str) -> Vec<String> {
    let (mut keys, mut after) = (vec![], String::new());
    loop {
        let page = client.list_seqs(prefix, &after).await.expect("all of them serve");
        keys.extend(page.entries.iter().map(|(key, _)| key.to_string()));
        if !page.more {
            return keys;
        }
        after = keys.last().expect("a page with more behind it is not empty").clone();
    }
}

#[tokio::test]
async fn a_list_is_of_all_oracles_that_have_keys_under_its_prefix() {
    let servers = three().await;
    let client = connect(&servers).await;
    let mut expected = vec![];
    for index in 0..1_500 {
        expected.push(format!("a{index}"));
        expected.push(format!("invoices/{index}"));
        expected.push(format!("invoices/eu/{index}"));
        expected.push(format!("z{index}"));
    }
    expected.sort();
    let mut seeding: Vec<_> = expected.iter().map(|key| client.seed_seq(key, 7)).collect();
    while !seeding.is_empty() {
        let some = seeding.split_off(seeding.len().saturating_sub(500));
        futures::future::try_join_all(some).await.unwrap();
    }
    // What is left where a prefix was before it was moved is out of use: more of it than a page has, and
    // with nothing else around it.
    let old = Client::connect([servers[0].address.to_string()]).await.unwrap();
    for chunk in (0..2_500).collect::<Vec<_>>().chunks(500) {
        let seeding = chunk.iter().map(|index| old.seed_seq(format!("invoices/old {index}"), 1));
        futures::future::try_join_all(seeding).await.unwrap();
    }
    for prefix in ["", "i", "invoices/", "invoices/e", "invoices/eu/", "invoices/eu/9", "a", "none"]
    {
        let under: Vec<_> =
            expected.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        assert_eq!(listed(&client, prefix).await, under, "{prefix:?}");
    }
}

#[tokio::test]
async fn an_oracle_that_is_gone_takes_no_other_along() {
    let [main, invoices, europe] = three().await;
    let client = builder([&main, &invoices, &europe]).connect().await.unwrap();
    for key in ["orders", "invoices/1", "invoices/eu/1"] {
        assert_eq!(client.get_seq(key, 1).await.unwrap().start, 0);
    }
    let addresses = [&main, &invoices, &europe].map(|server| server.address.to_string());
    invoices.stop().await.unwrap();
    let brief = client.with_timeout(Duration::from_millis(300));
    for turn in 1..4 {
        let error = brief.get_seq("invoices/1", 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        client.get_ts().await.unwrap();
        for key in ["orders", "invoices/eu/1"] {
            assert_eq!(client.get_seq(key, 1).await.unwrap().start, turn, "no value is lost");
        }
        assert_eq!(client.list_seqs("orders", "").await.unwrap().entries.len(), 1);
        let error = brief.list_seqs("", "").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    // Nor does it keep a client from starting. Without the main one nothing starts, and a client that
    // is there goes on with the others.
    let again = Client::builder().endpoints([&addresses[0]]).route("invoices/", [&addresses[1]]);
    again.connect().await.unwrap().get_ts().await.unwrap();
    main.stop().await.unwrap();
    assert_eq!(brief.get_ts().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(client.get_seq("invoices/eu/1", 1).await.unwrap().start, 4);
}

#[test]
fn a_route_without_a_prefix_or_a_server_is_refused() {
    let builder = || Client::builder().endpoints(["localhost"]);
    let none: [&str; 0] = [];
    for (builder, says) in [
        (builder().route("", ["localhost"]), "1 to 128 bytes"),
        (builder().route("k".repeat(129), ["localhost"]), "1 to 128 bytes"),
        (builder().route("k", none), "the route \"k\" cannot be used: there is no endpoint"),
        (builder().route("k", ["local host"]), "the route \"k\" cannot be used:"),
        (Client::builder().route("k", ["localhost"]), "there is no endpoint"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let line = on_one_line(&error);
        assert!(line.contains(says), "{line}");
    }
}
