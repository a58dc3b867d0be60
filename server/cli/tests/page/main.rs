//! The status page, in a browser, on a cluster of processes.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod browser;
mod causes;
mod cluster;
#[allow(dead_code, reason = "it is shared with other test programs")]
#[path = "../binary/node.rs"]
mod node;
#[allow(dead_code, reason = "it is shared with other test programs")]
#[path = "../binary/ports.rs"]
mod ports;

use browser::Browser;
use cluster::Cluster;

const PHONE: (u32, u32) = (390, 844);
const DESK: (u32, u32) = (1280, 900);

/// A picture on each screen, light and dark.
fn pictures(browser: &mut Browser, name: &str) {
    for (screen, (width, height)) in [("desk", DESK), ("phone", PHONE)] {
        for scheme in ["light", "dark"] {
            browser.screen(width, height, scheme);
            let ground = "getComputedStyle(document.body).backgroundColor";
            let expected = if scheme == "light" { "rgb(245, 246, 248)" } else { "rgb(14, 17, 21)" };
            assert_eq!(browser.evaluate(ground), expected);
            browser.picture(&format!("{name}-{screen}-{scheme}"));
        }
    }
}

#[test]
fn it_shows_a_failover_a_lost_majority_and_the_end_of_its_node() {
    let mut cluster = Cluster::start();
    let leader = cluster.leader();
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    let _load = cluster.load();
    let mut browser = Browser::start();
    browser.screen(DESK.0, DESK.1, "light");
    browser.open(&cluster.page(leader));
    browser.wait_for_text("phase", "leading");
    browser.wait_for_text("problems", "Nothing is wrong");
    browser.wait_for(
        "PLOTS[0].values.filter(value => value > 0).length > 5 && PLOTS[2].values.at(-1) > 0",
    );
    browser.wait_for("document.querySelector('.plot .curve').getAttribute('d').length > 40");
    browser.wait_for_text("members", "leads");
    pictures(&mut browser, "leader");

    browser.open(&cluster.page(first));
    browser.wait_for_text("phase", "following");
    browser.wait_for_text("problems", "Nothing is wrong");
    browser.wait_for("document.querySelectorAll('#members tr').length == 3");
    cluster.kill(leader);
    browser.wait_for_text("problems", &format!("does not reach node {}", leader + 1));
    browser.wait_for_text("problems", "the others are enough to serve");
    browser.wait_for(
        "['leading', 'following'].includes(document.getElementById('phase').textContent)",
    );
    browser.wait_for_text("changes", "in epoch 2");
    browser.wait_for_text("changes", "lead");
    browser.wait_for_text("members", "not reached for");
    pictures(&mut browser, "failed-over");

    cluster.kill(second);
    browser.wait_for_text("problems", "a majority is lost");
    browser.wait_for_text("problems", &format!("node {}", second + 1));
    browser.wait_for_text("problems", "What to do: start node");
    browser.wait_for(
        "!['leading', 'following'].includes(document.getElementById('phase').textContent)",
    );
    let all = causes::said(&mut browser, cluster.admin(first), "majority_lost", "majority-lost");
    assert_eq!(all["ready"], false, "{all:#}");

    // They come back, and nothing is wrong any more.
    cluster.restart(leader);
    cluster.restart(second);
    browser.wait_for_text("problems", "Nothing is wrong");
    assert_eq!(browser.complaints, [""; 0]);

    cluster.kill(first);
    browser.wait_for_text("lost", "does not reach its node");
    assert_eq!(
        browser.evaluate("document.getElementById('live-text').textContent"),
        "no connection"
    );
    pictures(&mut browser, "node-gone");
    cluster.restart(first);
    browser.wait_for("document.getElementById('lost').hidden");
    browser.wait_for_text("problems", "Nothing is wrong");
}

/// What comes from outside stays text: here the name that an operator, or a peer, has given a node.
#[test]
fn what_it_shows_is_text() {
    let directory = tempfile::tempdir().unwrap();
    let admin = ports::free_port();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        &admin,
        "--advertise",
        "<u>&amp;<script>:1",
    ];
    let _node = node::Node::spawn(node::tsoracle(directory.path(), &serve));
    let mut browser = Browser::start();
    browser.open(&format!("http://{admin}/"));
    browser.wait_for_text("facts", "<u>&amp;<script>:1");
    assert_eq!(browser.evaluate("document.querySelectorAll('u, body script').length"), 0);
    // Code from elsewhere, or in the page, would be refused by its policy.
    let injected = "new Promise(done => { document.addEventListener('securitypolicyviolation', e => done(e.violatedDirective)); \
                    const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); })";
    assert_eq!(browser.evaluate(injected), "script-src-elem");
    assert!(browser.evaluate("window.ran === undefined").as_bool().unwrap());
}

/// An address that asks who it is gets the page to ask for a token.
#[test]
fn it_asks_for_a_token_where_the_address_does() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| node::stdout(&node::run(directory.path(), arguments));
    run(&["cert", "ca"]);
    run(&["cert", "node", "1", "--address", "127.0.0.1"]);
    let token = run(&["token", "new", "reports", "--tokens", "tokens"]);
    let admin = ports::free_port().replace("127.0.0.1", "0.0.0.0");
    let config = format!(
        "listen = \"127.0.0.1:0\"\nadmin-listen = \"{admin}\"\ntokens = \"tokens\"\n\
         admin-tls-cert = \"tsoracle-certs/node-1.pem\"\nadmin-tls-key = \"tsoracle-certs/node-1.key\"\n\
         [policy.identities]\nreports = [\"reader\"]\nadmin = [\"admin\"]\n"
    );
    std::fs::write(directory.path().join("config.toml"), config).unwrap();
    let _node =
        node::Node::spawn(node::tsoracle(directory.path(), &["serve", "--config", "config.toml"]));
    let mut browser = Browser::start();
    browser.trust_any_certificate();
    browser.open(&format!("https://{}/", admin.replace("0.0.0.0", "127.0.0.1")));
    browser.wait_for_text("token-reason", "anonymous clients lack the right");
    browser.screen(PHONE.0, PHONE.1, "light");
    browser.picture("token-phone-light");
    let token = serde_json::to_string(&token).unwrap();
    browser.evaluate(&format!(
        "document.getElementById('token').value = {token}; document.querySelector('#token-form button').click()"
    ));
    browser.wait_for_text("phase", "leading");
    browser.wait_for("document.getElementById('token-form').hidden");
    browser.wait_for_text("certificates", "node-1.pem");
}
