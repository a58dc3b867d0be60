use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use tsoracle_core::{Clock, SystemClock};

use super::Proxy;

/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for a byte that is not held back to arrive.
const LONG: Duration = Duration::from_millis(300);

/// Sends back what it reads.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    address
}

/// Accepts one connection.
fn accept_one(listener: &TcpListener, proxy: &Proxy) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(proxy.address()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn arrives(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG)).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 1,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            false
        }
    }
}

fn is_over(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Has a byte echoed, and returns how long that took.
fn ask(stream: &mut TcpStream) -> Duration {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = SystemClock.now().boot;
    stream.write_all(&[1]).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    SystemClock.now().boot.since(sent)
}

#[test]
fn what_hangs_arrives_later_and_nothing_breaks() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut before = TcpStream::connect(proxy.address()).unwrap();
    ask(&mut before);
    proxy.hang();
    let mut meanwhile = TcpStream::connect(proxy.address()).unwrap();
    for stream in [&mut before, &mut meanwhile] {
        stream.write_all(&[1]).unwrap();
        assert!(!arrives(stream), "it hangs");
    }
    proxy.open();
    for stream in [&mut before, &mut meanwhile] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(proxy.answered(), 3);
}

#[test]
fn answers_can_hang_alone_or_with_requests() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap()).unwrap();
    let (mut client, mut server) = accept_one(&listener, &proxy);
    proxy.hang_answers();
    client.write_all(&[1]).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(&[1]).unwrap();
    assert!(!arrives(&mut client), "answers hang");
    proxy.hang();
    client.write_all(&[1]).unwrap();
    assert!(!arrives(&mut server), "requests hang as well");
    proxy.open();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn each_direction_has_a_delay_of_its_own() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    for (forth, back) in [(LONG, Duration::ZERO), (Duration::ZERO, LONG), (LONG, LONG)] {
        proxy.delay(forth, back);
        assert!(ask(&mut stream) >= forth + back);
    }
}

#[test]
fn new_connections_are_refused_and_older_ones_go_on() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut before = TcpStream::connect(proxy.address()).unwrap();
    ask(&mut before);
    proxy.refuse();
    let refused = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    ask(&mut before);
    proxy.open();
    ask(&mut TcpStream::connect(proxy.address()).unwrap());
}

#[test]
fn a_cut_breaks_what_is_connected_and_a_later_connection_works() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut before = TcpStream::connect(proxy.address()).unwrap();
    ask(&mut before);
    proxy.cut();
    assert!(is_over(&mut before));
    ask(&mut TcpStream::connect(proxy.address()).unwrap());
}

#[test]
fn what_is_closed_or_dropped_stays_closed() {
    let proxy = Proxy::to(echo()).unwrap();
    let mut before = TcpStream::connect(proxy.address()).unwrap();
    ask(&mut before);
    proxy.hang();
    proxy.close();
    proxy.open();
    assert!(is_over(&mut before));
    assert!(TcpStream::connect(proxy.address()).is_err());
    let dropped = Proxy::to(echo()).unwrap();
    let address = dropped.address();
    let mut before = TcpStream::connect(address).unwrap();
    ask(&mut before);
    drop(dropped);
    assert!(is_over(&mut before));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_filter_rewrites_what_clients_send() {
    let double = || Box::new(|bytes: &[u8]| bytes.repeat(2)) as super::Filter;
    let proxy = Proxy::filtering(echo(), double).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(&[7]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut echoed = [0; 2];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, [7, 7]);
}
