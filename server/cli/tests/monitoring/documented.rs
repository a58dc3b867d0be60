//! Finds the series and labels of a query among those that are documented, which are those that are shown.

use std::collections::BTreeSet;

use crate::series::{documented, family_of};

/// Labels that Prometheus itself adds, or that a histogram has, or that alerts make.
const GIVEN: [&str; 4] = ["job", "instance", "le", "of"];

/// The one series that Prometheus makes.
const UP: &str = "up";

/// Checks that these are labels of some series.
pub(crate) fn check_labels<'a>(names: impl IntoIterator<Item = &'a str>) {
    let known: BTreeSet<_> = documented().into_values().flat_map(|family| family.labels).collect();
    for name in names {
        assert!(GIVEN.contains(&name) || known.contains(name), "no series has the label {name:?}");
    }
}

/// Checks that every series of a query is there, with the labels that are asked for.
pub(crate) fn check_query(query: &str) {
    let documented = documented();
    let mut series = 0;
    let mut rest = query;
    while let Some(start) = rest.find(is_of_a_name) {
        let end = rest[start..].find(|c| !is_of_a_name(c)).map_or(rest.len(), |at| start + at);
        let (name, before) = (&rest[start..end], &rest[..start]);
        rest = &rest[end..];
        if before.ends_with('"') || before.ends_with('$') {
            // Text, or a variable of the dashboard.
            rest = rest.split_once('"').filter(|_| before.ends_with('"')).map_or(rest, |it| it.1);
            continue;
        }
        if ["by", "on"].contains(&name) {
            let (labels, after) =
                rest.trim_start().trim_start_matches('(').split_once(')').unwrap();
            check_labels(labels.split(',').map(str::trim));
            rest = after;
            continue;
        }
        let is_series = name.starts_with("tsoracle_") || name.starts_with("process_") || name == UP;
        if !is_series {
            continue;
        }
        series += 1;
        let is_histogram =
            |name: &str| documented.get(name).is_some_and(|family| family.kind == "histogram");
        let family = family_of(name, is_histogram);
        let known = documented.get(family);
        assert!(known.is_some() || name == UP, "there is no series {name:?}, in {query}");
        let Some((matchers, after)) = rest.strip_prefix('{').and_then(|it| it.split_once('}'))
        else {
            continue;
        };
        rest = after;
        for matcher in matchers.split("\",").filter(|matcher| !matcher.is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap().trim();
            let has = known.is_some_and(|known| known.labels.contains(label));
            assert!(
                has || GIVEN[..3].contains(&label),
                "{name} has no label {label:?}, in {query}"
            );
        }
    }
    assert!(series > 0, "{query} asks for no series");
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[test]
fn what_is_not_there_is_found() {
    for query in [
        "tsoracle_grant_total",
        "rate(tsoracle_grants_total{method=\"x\"}[5m])",
        "sum by (methods) (tsoracle_grants_total)",
        "tsoracle_grants_total_bucket",
        "1 + 1",
    ] {
        let found = std::panic::catch_unwind(|| check_query(query));
        assert!(found.is_err(), "{query}");
    }
    check_query(
        "histogram_quantile(0.5, sum by (le, method) (rate(tsoracle_request_duration_seconds_bucket{job=\"a\"}[5m])))",
    );
}
