//! What is answered over plain HTTP: to whom, by which names, and how much of it.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use tempfile::TempDir;
use tokio::net::TcpStream as Connection;

use crate::{
    node::{Answer, Node, error_line, get, run, status, stdout, try_http, tsoracle, until},
    ports::free_port,
};

struct Served {
    node: Node,
    admin: String,
    probe: String,
    _directory: TempDir,
}

fn served(arguments: &[&str]) -> Served {
    let (directory, admin, probe) = (TempDir::new().unwrap(), free_port(), free_port());
    let own = ["memory", "--admin-listen", &admin, "--probe-listen", &probe];
    let node = Node::start(directory.path(), &[&own, arguments].concat());
    Served { node, admin, probe, _directory: directory }
}

fn ask(place: &str, method: &str, path: &str) -> Answer {
    try_http(place, method, path, "").expect("it answers")
}

#[test]
fn each_address_says_what_there_is_and_nothing_else() {
    let Served { node, admin, probe, .. } = served(&[]);
    stdout(&node.ask(&["ts"]));
    for place in [&admin, &probe] {
        let live = get(place, "/livez");
        assert_eq!((live.code, &*live.body), (200, "alive\n"));
        let ready = get(place, "/readyz");
        assert!(ready.code == 200 && ready.body.starts_with("leading, epoch "), "{ready:?}");
        let metrics = get(place, "/metrics");
        assert!(metrics.body.contains("tsoracle_grants_total 1"), "{metrics:?}");
        assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{metrics:?}");
        for path in ["/livez", "/readyz", "/metrics"] {
            let (whole, head) = (get(place, path), ask(place, "HEAD", path));
            assert_eq!((head.code, &*head.body), (200, ""), "{path}");
            assert!(head.head.contains("cache-control: no-store"), "{head:?}");
            assert!(!whole.body.is_empty());
        }
        for (method, path, code) in [
            ("GET", "/nothing", 404),
            ("GET", "/livez/", 404),
            ("GET", "/../etc/passwd", 404),
            ("POST", "/livez", 405),
            ("PUT", "/metrics", 405),
            ("DELETE", "/readyz", 405),
            ("OPTIONS", "/livez", 405),
        ] {
            let answer = ask(place, method, path);
            assert_eq!(answer.code, code, "{method} {path}: {answer:?}");
            assert_eq!(answer.body.lines().count(), 1, "{answer:?}");
            assert!(
                answer.body.contains("/livez, /readyz")
                    || answer.body.contains("/livez and /readyz"),
                "{answer:?}"
            );
            assert!(code != 405 || answer.head.contains("allow: get"), "{answer:?}");
        }
    }
    // Whoever reaches the probes learns no names, and changes nothing.
    for path in ["/", "/status", "/page.js", "/tsoracle.v1.TsoService/GetTs"] {
        assert_eq!(get(&probe, path).code, 404, "{path}");
    }
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/status", "application/json"),
    ] {
        let page = get(&admin, path);
        assert!(
            page.code == 200 && page.head.contains(&format!("content-type: {kind}")),
            "{path}: {page:?}"
        );
        for header in
            ["cache-control: no-store", "x-content-type-options: nosniff", "default-src 'none'"]
        {
            assert!(page.head.contains(header), "{header}: {page:?}");
        }
        assert!(!page.head.contains("unsafe-"), "{page:?}");
        assert_eq!(ask(&admin, "HEAD", path).body, "");
    }
    // The port of clients is that of gRPC alone.
    assert!(try_http(&node.address, "GET", "/status", "").is_none());
    // And gRPC is where it was.
    let asked = run(std::path::Path::new("."), &["status", "--endpoint", &admin]);
    assert!(stdout(&asked).contains("  leading"), "{asked:?}");
}

#[test]
fn the_status_is_in_units_that_its_names_say() {
    let Served { node, admin, .. } = served(&["--lease", "2s"]);
    stdout(&node.ask(&["ts", "--count", "7"]));
    stdout(&node.ask(&["seq", "orders"]));
    let status = status(&admin);
    assert_eq!(status["phase"], "leading");
    assert_eq!(status["lease_ms"], 2_000);
    assert_eq!(status["lease_ms_text"], "2000");
    assert_eq!(status["leader"], node.address);
    assert!((1..=2_000).contains(&status["lease_left_ms"].as_u64().unwrap()), "{status:#}");
    assert_eq!(status["totals"]["timestamps"], 7);
    assert_eq!(status["totals"]["grants"], 1);
    let commits = &status["commits"];
    assert!(
        commits["count"].as_u64().unwrap() >= 3,
        "a fence, an open, and what was asked for: {status:#}"
    );
    assert!(commits["median_ms"].as_f64().unwrap() <= commits["max_ms"].as_f64().unwrap());
    assert!(status["disk_writes"]["count"].as_u64().unwrap() >= 3);
    let sequences = &status["usage"][0];
    assert_eq!((&sequences["what"], &sequences["used"]), (&"sequences".into(), &1.into()));
    assert_eq!(status["changes"][0]["what"], "this node serves");
    assert_eq!(status["changes"][0]["cause"], "the state is new");
    assert_eq!(status["epoch"], "1");
    assert!(
        status["version"].is_string() && status["driver"] == "memory" && status["ready"] == true
    );
}

/// A page from elsewhere whose name leads to this address is shown nothing.
#[test]
fn names_that_nobody_has_given_the_node_are_refused() {
    let served = served(&["--advertise", "db1.example:50551"]);
    let admin = &served.admin;
    let asked = |host: &str, path: &str| {
        try_http(admin, "GET", path, &format!("host: {host}\r\n")).unwrap()
    };
    for host in ["127.0.0.1:1", "localhost", "db1.example", "DB1.example:50552", "[::1]:7"] {
        assert_eq!(asked(host, "/status").code, 200, "{host}");
    }
    for path in ["/", "/status"] {
        let refused = asked("evil.example:50552", path);
        assert_eq!(refused.code, 421, "{refused:?}");
        assert!(
            refused.body.contains("\"evil.example:50552\" is no name of this node"),
            "{refused:?}"
        );
    }
    // Of several names each has to be one of the node's.
    for hosts in ["localhost\r\nhost: evil.example", "evil.example\r\nhost: localhost"] {
        assert_eq!(asked(hosts, "/status").code, 421, "{hosts}");
    }
    // Supervisors ask by whatever name.
    assert_eq!(asked("anything.example", "/livez").code, 200);
}

#[test]
fn an_address_that_asks_who_it_is_shows_pages_to_those_with_the_right() {
    let directory = TempDir::new().unwrap();
    let run = |arguments: &[&str]| stdout(&run(directory.path(), arguments));
    let reader = run(&["token", "new", "reports", "--tokens", "tokens"]);
    let shop = run(&["token", "new", "shop", "--tokens", "tokens"]);
    let modest = run(&["token", "new", "modest", "--tokens", "tokens"]);
    let admin = free_port().replace("127.0.0.1", "0.0.0.0");
    let config = format!(
        "listen = \"127.0.0.1:0\"\nadmin-listen = \"{admin}\"\ntokens = \"tokens\"\naudit-log = \"audit\"\n\
         insecure-listen = true\n[policy.identities]\nreports = [\"reader\"]\nshop = [\"ts\"]\nadmin = [\"admin\"]\n\
         modest = {{ may = [\"reader\"], rate = 1 }}\n"
    );
    fs::write(directory.path().join("config.toml"), config).unwrap();
    let _node =
        Node::spawn(tsoracle(directory.path(), &["serve", "memory", "--config", "config.toml"]));
    let place = admin.replace("0.0.0.0", "127.0.0.1");
    let asked = |path: &str, token: Option<&str>| {
        let header = token.map(|token| format!("authorization: Bearer {token}\r\n"));
        try_http(&place, "GET", path, &header.unwrap_or_default()).unwrap()
    };
    for path in ["/status", "/metrics"] {
        let refused = asked(path, None);
        assert_eq!(refused.code, 401, "{refused:?}");
        assert!(refused.head.contains("www-authenticate: bearer"), "{refused:?}");
        assert!(
            refused.body.contains("anonymous clients lack the right \"status\""),
            "{refused:?}"
        );
        assert_eq!(asked(path, Some("nonsense")).code, 401);
        assert_eq!(asked(path, Some(&shop)).code, 403);
        assert_eq!(asked(path, Some(&reader)).code, 200);
    }
    assert_eq!(asked("/nothing", None).code, 401, "what there is is not told either");
    for path in ["/", "/page.js", "/page.css", "/livez", "/readyz"] {
        assert_eq!(asked(path, None).code, 200, "{path}");
    }
    // Pages are requests as others are.
    until("its rate is used up", || asked("/nothing", Some(&modest)).code == 429);
    let audit = fs::read_to_string(directory.path().join("audit")).unwrap();
    assert!(
        audit.contains("\"object\":\"/status\"") && audit.contains("\"identity\":\"shop\""),
        "{audit}"
    );
}

/// Browsers that speak TLS agree on HTTP/2 with a server of gRPC.
#[tokio::test]
async fn pages_are_there_over_http2_as_well() {
    let served = tokio::task::spawn_blocking(|| served(&[])).await.unwrap();
    let stream = Connection::connect(&served.admin).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    for (method, path, code) in
        [("GET", "/status", 200), ("GET", "/nothing", 404), ("PUT", "/status", 405)]
    {
        let request =
            http::Request::builder().method(method).uri(format!("http://127.0.0.1{path}"));
        let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), code, "{method} {path}");
    }
    let foreign = http::Request::builder().uri("http://evil.example/status").body(()).unwrap();
    let (answer, _) = send.send_request(foreign, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 421);
}

#[test]
fn a_flood_of_scrapes_is_refused_while_health_is_told_and_timestamps_are_granted() {
    let Served { node, probe, .. } = served(&[]);
    // Those who hold connections and say nothing keep nobody out.
    let held: Vec<_> = (0..200).map(|_| TcpStream::connect(&probe).unwrap()).collect();
    assert_eq!(get(&probe, "/livez").code, 200);
    let (stop, refused, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::<AtomicU32>::default(),
        Arc::<AtomicU32>::default(),
    );
    let floods: Vec<_> = (0..8)
        .map(|_| {
            let (stop, refused, answered, probe) =
                (stop.clone(), refused.clone(), answered.clone(), probe.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match try_http(&probe, "GET", "/metrics", "").map(|answer| answer.code) {
                        Some(429) => refused.fetch_add(1, Ordering::Relaxed),
                        Some(200) => answered.fetch_add(1, Ordering::Relaxed),
                        _ => 0,
                    };
                }
            })
        })
        .collect();
    while refused.load(Ordering::Relaxed) < 500 {
        // Both are asked as if there was no flood.
        assert_eq!(get(&probe, "/livez").code, 200);
        assert_eq!(get(&probe, "/readyz").code, 200);
        stdout(&node.ask(&["ts"]));
    }
    stop.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    assert!(answered.load(Ordering::Relaxed) > 0);
    let told = loop {
        let answer = get(&probe, "/metrics");
        if answer.code == 200 {
            break answer;
        }
        assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    };
    assert!(told.body.contains("tsoracle_grants_total"));
    drop(held);
}

/// Browsers and administrators share so many connections at their address.
#[test]
fn connections_of_browsers_are_bounded_as_those_of_administrators_are() {
    let Served { node, admin, .. } = served(&[]);
    let mut held = vec![];
    let begin = || {
        let mut stream = TcpStream::connect(&admin).unwrap();
        // It may be closed by then.
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n");
        stream
    };
    while try_http(&admin, "GET", "/livez", "").is_some() {
        assert!(held.len() < 1_000, "none of so many is refused");
        held.push(begin());
    }
    assert!(held.len() > 32, "{} are few", held.len());
    // That is not for clients.
    stdout(&node.ask(&["ts"]));
    drop(held);
    until("others have gone", || try_http(&admin, "GET", "/livez", "").is_some());
}

#[test]
fn the_earlier_name_of_the_address_of_probes_is_taken() {
    let directory = TempDir::new().unwrap();
    let (flag, variable, file) = (free_port(), free_port(), free_port());
    let serve = |arguments: &[&str]| {
        tsoracle(
            directory.path(),
            &[&["serve", "memory", "--listen", "127.0.0.1:0"], arguments].concat(),
        )
    };
    let live = |mut command: Command, variables: &[(&str, &str)], place: &str| {
        command.envs(variables.iter().copied());
        let _node = Node::spawn(command);
        assert_eq!(get(place, "/livez").code, 200);
    };
    live(serve(&["--metrics-listen", &flag]), &[], &flag);
    live(serve(&[]), &[("TSORACLE_METRICS_LISTEN", &variable)], &variable);
    fs::write(directory.path().join("file"), format!("metrics-listen = \"{file}\"")).unwrap();
    live(serve(&["--config", "file"]), &[], &file);
    live(serve(&["--config", "file", "--probe-listen", &file]), &[], &file);
    let both = ["serve", "memory", "--probe-listen", &flag, "--metrics-listen", &file];
    let refused = error_line(&run(directory.path(), &both), 2);
    assert!(refused.contains("the earlier name of --probe-listen"), "{refused}");
}
