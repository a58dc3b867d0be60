//! Ports that a test names before a program listens there.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    process,
    sync::Mutex,
};

/// From where the system takes none for those that want any.
const FROM: u16 = 12_000;
const COUNT: u16 = 20_000;

/// Those of this process, each held in the other protocol, where nothing listens: so no other test is given it, neither
/// from here nor by asking the system for any port, until this process has ended.
static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// Addresses of this machine at which nobody listens, and no other test will.
pub(crate) fn free_ports(count: usize) -> Vec<String> {
    let mut held = HELD.lock().unwrap();
    // Each process looks from elsewhere on.
    let first = u16::try_from(process::id().wrapping_mul(61) % u32::from(COUNT)).unwrap();
    let all = (0..COUNT).map(|place| FROM + (first + place) % COUNT);
    let free = all.filter_map(|port| {
        let mark = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        held.push(mark);
        Some(format!("{}:{port}", Ipv4Addr::LOCALHOST))
    });
    let free: Vec<_> = free.take(count).collect();
    assert_eq!(free.len(), count, "there are ports");
    free
}

/// One such address.
pub(crate) fn free_port() -> String {
    free_ports(1).remove(0)
}
