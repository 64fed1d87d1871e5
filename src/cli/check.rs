//! `edgelb check`: every problem of a configuration file, each with its place and the corrected form.
//!
//! Reads the file and the interfaces' names; touches nothing else of the machine.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::exit::Exit;
use super::output::{self, Format};
use crate::config::{self, Environment, Level, Problem};

/// The object that `-o json` prints.
#[derive(Serialize)]
struct Report<'r> {
    file: String,
    valid: bool,
    problems: &'r [Problem],
}

/// Checks one file; warnings leave it valid.
pub fn run(file: &Path, format: Format) -> anyhow::Result<Exit> {
    let (valid, problems) = match config::load(file, &Environment::detect()) {
        Ok(loaded) => (true, loaded.warnings),
        Err(invalid) => (false, invalid.problems),
    };
    match format {
        Format::Json => {
            let file = file.display().to_string();
            output::write_json(&Report {
                file,
                valid,
                problems: &problems,
            })
        }
        Format::Table => output::write_text(&table(file, valid, &problems)),
    }
    .context("cannot write the result")?;
    Ok(if valid { Exit::Fine } else { Exit::Usage })
}

/// A line a problem, then one that says what they come to.
fn table(file: &Path, valid: bool, problems: &[Problem]) -> String {
    let count = |level: Level| {
        problems
            .iter()
            .filter(|problem| problem.level == level)
            .count()
    };
    let (errors, warnings) = (
        counted(count(Level::Error), "error"),
        counted(count(Level::Warning), "warning"),
    );
    let verdict = if valid { "valid" } else { "invalid" };
    let mut lines: Vec<String> = problems
        .iter()
        .map(|problem| problem.describe(file))
        .collect();
    lines.push(format!(
        "{}: {verdict}: {errors}, {warnings}\n",
        file.display()
    ));
    lines.join("\n")
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
