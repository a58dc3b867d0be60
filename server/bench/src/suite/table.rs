use std::{fmt::Write as _, fs, path::Path, time::Duration};

use super::{
    Arguments, Results,
    figures::{Figure, Goal},
    machine,
};
use tsoracle::{
    bench::{
        baseline::median,
        report::{micros, thousands},
    },
    failure::Failure,
};

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// The tables, in Markdown.
pub(super) fn markdown(
    figures: &[Figure],
    results: &Results,
    arguments: &Arguments,
    took: Duration,
) -> String {
    let reached = figures.iter().filter(|figure| figure.reached()).count();
    let measured = figures.iter().filter(|figure| !figure.runs.is_empty()).count();
    // Other programs on the machine slow some runs and not others.
    let others = results.noise.text();
    let mut text = format!(
        "Measured on {}, server and load sharing them, release {}: {} interleaved runs of {:?} each \
         (tails: {:?}), in {:.0} s. {}{reached} of {measured} goals are reached{}.\n\n\
         | figure | goal | median | lowest to highest | reached |\n|---|---|---|---|---|\n",
        machine::described(),
        env!("CARGO_PKG_VERSION"),
        arguments.rounds,
        arguments.slice,
        arguments.tail,
        took.as_secs_f64(),
        others,
        match figures.len() - measured {
            0 => String::new(),
            missing => format!(", and {missing} were not measured"),
        },
    );
    // Writing to a string cannot fail.
    for figure in figures {
        let _ = writeln!(text, "{}", row(figure));
    }
    text.push_str(
        "\nWhat these come from, run by run:\n\n\
         | load | calls/s | median p50 | median p99.9 | errors |\n|---|---|---|---|---|\n",
    );
    for (spec, runs) in results.records.all() {
        let all = |figure: fn(&super::Run) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let rates: Vec<_> = runs.iter().map(|run| thousands(run.calls_per_second)).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            spec.name(),
            rates.join(" · "),
            micros(median(&all(|run| run.p50_us))),
            micros(median(&all(|run| run.p999_us))),
            runs.iter().map(|run| run.errors).sum::<u64>(),
        );
    }
    if let Some(seeding) = results.single.get("seeding").and_then(|runs| runs.first()) {
        let keys = arguments.stored_keys;
        let _ = writeln!(text, "\nPutting {keys} keys into the store took {seeding:.1} s.");
    }
    for note in &results.notes {
        let _ = writeln!(text, "\nNot measured: {note}");
    }
    text
}

fn row(figure: &Figure) -> String {
    let Figure { name, goal, unit, .. } = figure;
    let goal = match goal {
        Goal::AtLeast(goal) => format!("≥ {goal}{unit}"),
        Goal::AtMost(goal) => format!("≤ {goal}{unit}"),
    };
    let median = match figure.median() {
        median if median.is_nan() => "not measured".into(),
        median => format!("{}{unit}", figure_text(median)),
    };
    let spread = match figure.spread() {
        None => String::new(),
        Some((lowest, highest)) => {
            format!("{} to {}", figure_text(lowest), figure_text(highest))
        }
    };
    let reached = match (figure.reached(), figure.runs.is_empty()) {
        (true, _) => "yes",
        (false, false) => "**no**",
        (false, true) => "–",
    };
    format!("| {name} | {goal} | {median} | {spread} | {reached} |")
}

/// Three digits or so: more would only pretend.
fn figure_text(figure: f64) -> String {
    match figure {
        0.0 => "0".into(),
        ..10.0 => format!("{figure:.2}"),
        ..100.0 => format!("{figure:.1}"),
        _ => thousands(figure),
    }
}

/// That the table has a place in this file.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    place(&read(path)?, path).map(drop)
}

/// Puts the table in its place.
pub(super) fn write(path: &Path, table: &str) -> Result<(), Failure> {
    let text = read(path)?;
    let (before, after) = place(&text, path)?;
    fs::write(path, format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", table.trim_end()))
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}

fn place<'a>(text: &'a str, path: &Path) -> Result<(&'a str, &'a str), Failure> {
    let (before, rest) =
        text.split_once(BEGIN).ok_or(BEGIN).map_err(|marker| missing(path, marker))?;
    let (_, after) = rest.split_once(END).ok_or(END).map_err(|marker| missing(path, marker))?;
    Ok((before, after))
}

fn missing(path: &Path, marker: &str) -> Failure {
    Failure::usage(format!("{} lacks the line {marker:?}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(goal: Goal, runs: &[f64]) -> Figure {
        Figure { name: "speed".into(), goal, unit: "×", runs: runs.to_vec() }
    }

    #[test]
    fn a_row_shows_the_spread_and_whether_the_goal_is_reached() {
        let text = row(&figure(Goal::AtLeast(0.9), &[0.98, 0.8, 1.011]));
        assert_eq!(text, "| speed | ≥ 0.9× | 0.98× | 0.80 to 1.01 | yes |");
        let text = row(&figure(Goal::AtMost(1.5), &[12.34, 1_234.0]));
        assert_eq!(text, "| speed | ≤ 1.5× | 623× | 12.3 to 1,234 | **no** |");
        let text = row(&figure(Goal::AtMost(1.5), &[]));
        assert_eq!(text, "| speed | ≤ 1.5× | not measured |  | – |");
    }

    #[test]
    fn the_table_goes_between_the_markers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("P.md");
        fs::write(&path, format!("# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")).unwrap();
        for table in ["| a |\n", "| b |\n"] {
            write(&path, table).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# Before\n\n{BEGIN}\n\n| b |\n\n{END}\n\nAfter\n"));
        fs::write(&path, "no place").unwrap();
        assert!(check(&path).is_err());
    }
}
