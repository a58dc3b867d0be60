//! By which names this node may be asked for its pages.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::line;
use crate::settings::Settings;

/// The names that the operator has given this node.
///
/// A page from elsewhere may have its name lead to this address, and would then be let by the browser to read what is
/// shown here. It is refused, since the browser says which name it was told.
#[derive(Clone, Debug)]
pub(crate) struct Hosts(Arc<BTreeSet<String>>);

impl Hosts {
    /// Those in the addresses of the settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        let places = [&settings.listen, &settings.admin_listen, &settings.advertise];
        Self::named(places.into_iter().flatten().map(String::as_str))
    }

    fn named<'a>(places: impl Iterator<Item = &'a str>) -> Self {
        Self(Arc::new(places.map(|place| name(place).to_ascii_lowercase()).collect()))
    }

    fn allow(&self, host: &str) -> bool {
        let name = name(host).to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.0.contains(&name)
    }
}

/// The name or address in HOST:PORT, or HOST alone.
fn name(place: &str) -> &str {
    if let Some((address, _)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    place.rsplit_once(':').map_or(place, |(host, _)| host)
}

/// Answers requests under these names alone.
pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(|authority| Cow::from(authority.as_str()));
    let headers = request.headers().get_all(header::HOST).into_iter();
    let named = headers.map(|host| String::from_utf8_lossy(host.as_bytes()));
    let not_allowed = authority.into_iter().chain(named).find(|host| !hosts.allow(host));
    match not_allowed.map(Cow::into_owned) {
        None => next.run(request).await,
        Some(host) => {
            let host: String = host.chars().take(100).collect();
            let text = format!(
                "{host:?} is no name of this node; ask for its address, or give it that name by --advertise"
            );
            (StatusCode::MISDIRECTED_REQUEST, line(&text)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_that_were_given_are_allowed() {
        let hosts = Hosts::named(["0.0.0.0:50551", "DB1.example:50551"].into_iter());
        for host in [
            "127.0.0.1:1",
            "10.0.0.1",
            "[::1]:50552",
            "localhost:80",
            "a.localhost",
            "db1.example:9",
            "db1.EXAMPLE",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:50552", "db1.example.evil", "127.0.0.1.evil:1", "", ":1"]
        {
            assert!(!hosts.allow(host), "{host}");
        }
    }
}
