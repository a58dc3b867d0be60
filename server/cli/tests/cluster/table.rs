//! What was measured, as Markdown.

use std::{fmt, time::Duration};

/// What two callers noticed of one fault, where that can be said.
#[derive(Clone, Copy)]
pub(crate) struct Outage {
    /// From the fault to the answer of the call for timestamps that took longest.
    pub(crate) timestamps: Option<Duration>,
    /// The same, for sequence values.
    pub(crate) sequences: Option<Duration>,
    /// How long the longer of both calls took.
    pub(crate) longest_call: Option<Duration>,
}

/// One kind of fault with one driver.
pub(crate) struct Row(Vec<String>);

impl Row {
    pub(crate) fn new(driver: &str, fault: &str, outages: &[Outage]) -> Self {
        let mut row = vec![driver.to_owned(), fault.to_owned(), outages.len().to_string()];
        let figures: [fn(&Outage) -> Option<Duration>; 3] =
            [|one| one.timestamps, |one| one.sequences, |one| one.longest_call];
        for figure in figures {
            let mut sorted: Vec<_> = outages.iter().filter_map(figure).collect();
            sorted.sort_unstable();
            let shown = |at: Option<&Duration>| {
                at.map_or_else(|| "–".into(), |at| format!("{:.2} s", at.as_secs_f64()))
            };
            row.push(shown(sorted.get(sorted.len() / 2)));
            row.push(shown(sorted.last()));
        }
        Self(row)
    }

    pub(crate) fn failed(driver: &str, fault: &str, error: &anyhow::Error) -> Self {
        eprintln!("{driver}, {fault}: {error:?}");
        let nothing = std::iter::repeat_n("–".to_owned(), 6);
        Self([driver, fault, "failed"].map(String::from).into_iter().chain(nothing).collect())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} |", self.0.join(" | "))
    }
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| driver | fault | times | GetTs again after: median | worst | GetSeq again after: median \
         | worst | longest call: median | worst |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        table += &format!("{row}\n");
    }
    table
}
