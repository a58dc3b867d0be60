//! Alerts, their tests, and what docs/OPERATIONS.md says about each.

use std::{collections::BTreeSet, path::Path, process::Command};

use crate::{
    documented::{check_labels, check_query},
    series::OPERATIONS,
};

const RULES: &str = include_str!("../../../../packaging/prometheus/alerts.yml");
const TESTS: &str = include_str!("../../../../packaging/prometheus/alerts_test.yml");

/// What stands behind this, line by line.
fn after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.trim_start().strip_prefix(prefix)).map(str::trim)
}

fn alerts() -> BTreeSet<&'static str> {
    after(RULES, "- alert: ").collect()
}

fn promtool(arguments: &[&str]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/prometheus");
    let mut promtool = Command::new("promtool");
    let done = promtool.args(arguments).current_dir(directory).output();
    let done = done.expect("promtool is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
    let tested: BTreeSet<_> = after(TESTS, "alertname: ").collect();
    assert_eq!(tested, alerts(), "each alert has a test");
}

#[test]
fn each_alert_is_explained_under_its_name() {
    let explained: BTreeSet<_> =
        after(OPERATIONS, "### ").filter(|title| title.starts_with("Tsoracle")).collect();
    assert_eq!(explained, alerts());
    for (place, _) in OPERATIONS.match_indices("### Tsoracle") {
        let section = OPERATIONS[place + 4..].split("\n#").next().unwrap();
        assert!(section.len() > 200, "{section}");
    }
}

#[test]
fn alerts_and_their_tests_name_series_and_labels_that_there_are() {
    let mut expressions = 0;
    for rule in RULES.split("- alert: ").skip(1) {
        let (_, expression) = rule.split_once("expr: ").unwrap();
        let end = ["        for: ", "        labels: "].map(|next| expression.find(next));
        let end = end.into_iter().flatten().min().unwrap();
        check_query(&expression[..end]);
        expressions += 1;
        for label in rule.split("$labels.").skip(1) {
            let name: String = label.chars().take_while(|c| c.is_alphanumeric()).collect();
            check_labels([name.as_str()]);
        }
    }
    assert_eq!(expressions, alerts().len());
    for series in after(TESTS, "- series: ") {
        check_query(series.trim_matches('\''));
    }
}
