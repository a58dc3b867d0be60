//! The table in `docs/CONFORMANCE.md`: generated here, compared by a test, rewritten on request.

use std::{env, fs, path::PathBuf};

use libtest_mimic::Failed;

use crate::sabotage::{SABOTAGES, Sabotage};

/// When it is set, the table is written and not compared.
const WRITE: &str = "TSORACLE_WRITE_DOCS";

const BEGIN: &str = "<!-- sabotages: begin -->\n";
const END: &str = "<!-- sabotages: end -->\n";

fn table() -> String {
    let mut table = String::from("\n| a driver that … | fails |\n|---|---|\n");
    for Sabotage { does, caught_by, foreseen, .. } in SABOTAGES {
        let mark = foreseen.map(|number| format!("**{number}** ")).unwrap_or_default();
        table += &format!("| {mark}{does} | `{caught_by}` |\n");
    }
    table + "\n"
}

/// Compares the table with the document, or writes it.
pub(crate) fn is_up_to_date() -> Result<(), Failed> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFORMANCE.md");
    let text = fs::read_to_string(&path)?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        rest.split_once(END).map(|(table, after)| (before, table, after))
    });
    let (before, found, after) = parts.ok_or("the document has no place for the table")?;
    let table = table();
    if env::var_os(WRITE).is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}"))?;
    } else if found != table {
        let text = format!("the table is not up to date; run this test with {WRITE}=1");
        return Err(text.into());
    }
    Ok(())
}
