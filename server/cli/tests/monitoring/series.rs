//! Series, as a scrape shows them and as docs/OPERATIONS.md lists them.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) const OPERATIONS: &str = include_str!("../../../../docs/OPERATIONS.md");

/// A family of series: all of one name.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
    pub(crate) meaning: String,
}

pub(crate) type Families = BTreeMap<String, Family>;

/// The families of a scrape of which there is a series.
pub(crate) fn scraped(text: &str) -> Families {
    let (mut families, mut help) = (Families::new(), BTreeMap::new());
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, meaning)) =
            line.strip_prefix("# HELP ").and_then(|it| it.split_once(' '))
        {
            help.insert(name, meaning);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' '))
        {
            kinds.insert(name, kind);
        } else if let Some((name, rest)) = line.split_once(['{', ' ']) {
            let name = family_of(name, |name| kinds.contains_key(name));
            let kind = kinds.get(name).unwrap_or_else(|| panic!("{name} has no type"));
            let family = families.entry(name.to_owned()).or_default();
            family.kind = kind.to_string();
            family.meaning = help.get(name).copied().unwrap_or_default().into();
            let labels = rest.rsplit_once('}').map_or("", |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|pair| pair.split_once('='));
            family.labels.extend(names.map(|(name, _)| name.into()).filter(|name| name != "le"));
        }
    }
    families
}

/// The name of the family that a series belongs to: those of histograms have endings.
pub(crate) fn family_of(name: &str, is_family: impl Fn(&str) -> bool) -> &str {
    let endings = ["_bucket", "_sum", "_count"];
    let histogram = endings.iter().find_map(|ending| name.strip_suffix(ending));
    histogram.filter(|family| is_family(family)).unwrap_or(name)
}

/// Those that docs/OPERATIONS.md lists.
pub(crate) fn documented() -> Families {
    let (_, section) = OPERATIONS.split_once("\n## Metrics\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let families = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, kind, labels, meaning, ""] = cells[..] else { panic!("{row}") };
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let family = Family { kind: kind.into(), labels, meaning: meaning.into() };
        (name.trim_end_matches('`').to_owned(), family)
    });
    families.collect()
}
