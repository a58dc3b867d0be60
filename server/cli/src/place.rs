//! Where a server listens, and where clients reach one.

use std::{net::SocketAddr, path::Path};

use tsoracle_server::{Listener, SOCKET_MODE, listen, listen_at};

use crate::{
    failure::Failure,
    settings::{Settings, SocketMode},
};

/// The path of a socket in the file system, if `text` names one: `unix:PATH`, or `unix://PATH` as gRPC has it too.
pub(crate) fn socket(text: &str) -> Option<&Path> {
    let path = text.strip_prefix("unix:")?;
    Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
}

/// Checks that `text`, which an option gives, is a place to listen at.
pub(crate) fn check_place(option: &str, text: &str) -> Result<(), Failure> {
    match socket(text) {
        Some(path) if path.as_os_str().is_empty() => {
            Err(Failure::usage(format!("{option} {text} names no socket; the form is unix:PATH")))
        }
        Some(_) => Ok(()),
        None => check_address(option, text, " or unix:PATH"),
    }
}

/// Checks that `text` is HOST:PORT.
fn check_address(option: &str, text: &str, or: &str) -> Result<(), Failure> {
    let place = text.rsplit_once(':').filter(|(host, port)| {
        !host.is_empty() && !host.contains(['/', ' ', ',']) && port.parse::<u16>().is_ok()
    });
    match place {
        Some(_) => Ok(()),
        None => Err(Failure::usage(format!("{option} takes HOST:PORT{or}, not {text:?}"))),
    }
}

/// Listens at a place that was checked.
pub(crate) async fn open(place: &str, settings: &Settings) -> Result<Listener, Failure> {
    let listener = match socket(place) {
        Some(path) => {
            let mode = settings.socket_mode.map_or(SOCKET_MODE, |SocketMode(mode)| mode);
            listen_at(path, mode).await
        }
        None => listen(&place).await,
    };
    listener.map_err(Failure::from)
}

/// Checks where clients reach this server.
pub(crate) fn endpoint(text: &str) -> Result<String, Failure> {
    if socket(text).is_some() {
        return Err(Failure::usage(format!(
            "--advertise {text} is a socket of this machine, which no other one reaches; name HOST:PORT"
        )));
    }
    check_address("--advertise", text, "")?;
    if text.ends_with(":0") {
        return Err(Failure::usage(format!("--advertise {text}: no client can connect to port 0")));
    }
    match text.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified()) {
        true => Err(Failure::usage(format!(
            "--advertise {text} is an address to listen on, where no client can connect to; name this machine"
        ))),
        false => Ok(text.into()),
    }
}
