use tokio::{
    io::{DuplexStream, duplex},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;

/// How long something may take. It is there for what never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers everything, and says how much of the path there was.
async fn answer(request: Request<Body>) -> Response<Body> {
    Response::new(Body::new(format!("{} bytes", request.uri().path().len())))
}

/// One end of a connection, and what serves the other one.
fn connected(by_hand_alone: bool) -> (DuplexStream, JoinHandle<()>) {
    let (client, stream) = duplex(1 << 20);
    let serving = async move {
        match by_hand_alone {
            true => drop(by_hand(stream, answer).await),
            false => drop(http1(stream, answer).await),
        }
    };
    (client, tokio::spawn(serving))
}

/// What comes up to the end of the connection.
async fn rest(mut client: impl AsyncRead + Unpin) -> String {
    let mut read = Vec::new();
    // A connection that is reset has ended as well.
    let reading = client.read_to_end(&mut read);
    let _ = timeout(PATIENCE, reading).await.expect("the connection ends");
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let waited = async |by_hand_alone: bool, begun: &str| {
        let (mut client, serving) = connected(by_hand_alone);
        client.write_all(begun.as_bytes()).await.unwrap();
        let answered = rest(client).await;
        assert!(!answered.contains("200 OK"), "{answered}");
        serving.await.unwrap();
    };
    let begun = "GET / HTTP/1.1\r\nhost: a\r\n";
    tokio::join!(waited(false, ""), waited(false, begun), waited(true, ""), waited(true, begun));
}

#[tokio::test]
async fn a_head_may_only_be_so_long() {
    for (by_hand_alone, refused) in [(false, "431"), (true, "400")] {
        for (bytes, code) in [(HEAD_BYTES / 2, "200"), (HEAD_BYTES * 2, refused)] {
            let (mut client, _serving) = connected(by_hand_alone);
            let long = "x".repeat(bytes);
            let head = format!("GET / HTTP/1.1\r\nconnection: close\r\nlong: {long}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let answered = rest(client).await;
            assert!(answered.starts_with(&format!("HTTP/1.1 {code} ")), "{answered}");
        }
    }
}

#[tokio::test]
async fn what_is_no_request_is_told_so_by_hand_too() {
    for (asked, code, body) in [
        ("GET /abc HTTP/1.1\r\n\r\n", "200", "4 bytes"),
        ("HEAD /abc HTTP/1.1\r\n\r\n", "200", ""),
        ("nonsense\r\n\r\n", "400", ""),
        ("\u{16}\u{3}\u{1}", "400", ""),
    ] {
        let (mut client, _serving) = connected(true);
        client.write_all(asked.as_bytes()).await.unwrap();
        let answered = rest(client).await;
        let (head, found) = answered.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{answered}");
        assert_eq!(found, body, "{answered}");
    }
}

/// A server of probes, and where it is.
async fn probes() -> (JoinHandle<()>, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (tokio::spawn(serve_probes(listener, Routes::default())), address)
}

/// Asks over a connection that stays; false if it is closed.
async fn ask(client: &mut TcpStream) -> bool {
    let asked = client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut answer = [0; 4_096];
    asked.is_ok() && client.read(&mut answer).await.is_ok_and(|read| read > 0)
}

#[tokio::test]
async fn the_oldest_connection_of_probes_makes_room_for_a_new_one() {
    let (serving, address) = probes().await;
    let mut held = vec![];
    for _ in 0..CONNECTIONS {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut client).await);
        held.push(client);
    }
    let mut newest = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut newest).await);
    assert!(!ask(&mut held[0]).await, "there are more connections than there may be");
    serving.abort();
}

#[tokio::test]
async fn a_connection_of_probes_lasts_only_so_long() {
    let (serving, address) = probes().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut client).await);
    let asking = async { while ask(&mut client).await {} };
    timeout(PATIENCE, asking).await.expect("it is closed, though it is used");
    serving.abort();
}
