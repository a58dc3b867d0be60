//! The oracles of one client, and the sequences that each of them has.

use std::cmp::Reverse;

use tsoracle_types::SeqKey;

use super::cluster::Cluster;
use crate::error::{Error, ErrorKind, Result};
use crate::values::SeqPage;

/// The main oracle, and those that have the sequences whose keys begin with a prefix.
pub(crate) struct Oracles {
    pub(crate) main: Cluster,
    /// The longest prefixes first, so that the first one that fits is the one that counts.
    routes: Vec<(String, Cluster)>,
}

/// A part of a list: the oracle that has it, its position among the routes, and the prefix of its keys.
pub(crate) struct Part<'a> {
    route: Option<usize>,
    pub(crate) oracle: &'a Cluster,
    pub(crate) prefix: &'a str,
}

impl Oracles {
    pub(crate) fn new(main: Cluster, mut routes: Vec<(String, Cluster)>) -> Self {
        routes.sort_by_key(|(prefix, _)| Reverse(prefix.len()));
        Self { main, routes }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Cluster> {
        std::iter::once(&self.main).chain(self.routes.iter().map(|(_, oracle)| oracle))
    }

    /// The one that has this sequence.
    pub(crate) fn of(&self, key: &SeqKey) -> &Cluster {
        self.at(self.route_of(key.as_str()))
    }

    /// The one that has all of these sequences.
    ///
    /// # Errors
    /// `Invalid` if no single one does: nothing could make all blocks be handed out or none.
    pub(crate) fn of_all(&self, entries: &[(SeqKey, u32)]) -> Result<&Cluster> {
        let mut keys = entries.iter().map(|(key, _)| (key, self.route_of(key.as_str())));
        let Some((first, route)) = keys.next() else { return Ok(&self.main) };
        match keys.find(|(_, other)| *other != route) {
            None => Ok(self.at(route)),
            Some((second, other)) => {
                let context = format!(
                    "a batch is all or nothing, and its keys lie in different oracles: {first:?} \
                     is routed {}, and {second:?} {}; ask each oracle in a batch of its own, or route \
                     keys that belong together by one prefix",
                    self.describe(route),
                    self.describe(other)
                );
                Err(Error::new(ErrorKind::Invalid, context))
            }
        }
    }

    /// The oracles to ask for all sequences whose keys begin with `prefix`.
    pub(crate) fn parts<'a>(&'a self, prefix: &'a str) -> Vec<Part<'a>> {
        let route = self.route_of(prefix);
        let own = Part { route, oracle: self.at(route), prefix };
        let routes = self.routes.iter().enumerate();
        let below = routes
            .filter(|(_, (longer, _))| longer.len() > prefix.len() && longer.starts_with(prefix));
        let below =
            below.map(|(route, (prefix, oracle))| Part { route: Some(route), oracle, prefix });
        std::iter::once(own).chain(below).collect()
    }

    /// Merges a page of each part into one, in the order of keys, up to the last key that all of them have
    /// reached. `Err` with that key if the page is empty, but more may come after it.
    pub(crate) fn merge(&self, listed: Vec<(Part<'_>, SeqPage)>) -> Result<SeqPage, SeqKey> {
        let unfinished = listed.iter().filter(|(_, page)| page.more);
        let end = unfinished.filter_map(|(_, page)| page.entries.last()).map(|(key, _)| key).min();
        let end = end.cloned();
        let more = listed.iter().any(|(_, page)| page.more);
        let mut entries = Vec::new();
        for (part, page) in listed {
            // Keys of an oracle that are routed to another one are out of use.
            entries.extend(page.entries.into_iter().filter(|(key, _)| {
                self.route_of(key.as_str()) == part.route
                    && end.as_ref().is_none_or(|end| key <= end)
            }));
        }
        entries.sort();
        match end {
            Some(end) if entries.is_empty() => Err(end),
            _ => Ok(SeqPage { entries, more }),
        }
    }

    fn at(&self, route: Option<usize>) -> &Cluster {
        route.map_or(&self.main, |route| &self.routes[route].1)
    }

    fn route_of(&self, key: &str) -> Option<usize> {
        self.routes.iter().position(|(prefix, _)| key.starts_with(prefix.as_str()))
    }

    fn describe(&self, route: Option<usize>) -> String {
        match route {
            Some(route) => format!("to the route {:?}", self.routes[route].0),
            None => "to the main endpoints".into(),
        }
    }
}
