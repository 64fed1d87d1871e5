//! `edgelb doctor`: what keeps this node from working, a line each with what mends it.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::exit::Exit;
use super::output::{self, Format};
use super::table::printable;
use crate::config::{self, Environment};
use crate::doctor::{self, Finding, Level};

/// The object that `-o json` prints.
#[derive(Serialize)]
struct Report<'r> {
    /// As it was named.
    file: String,
    problems: usize,
    warnings: usize,
    findings: &'r [Finding],
}

/// Looks, and prints what it found; a problem ends with 1.
pub fn run(file: &Path, format: Format) -> anyhow::Result<Exit> {
    let loaded = match config::load(file, &Environment::detect()) {
        Ok(loaded) => loaded,
        Err(invalid) => {
            super::tell(&invalid.to_string());
            return Ok(Exit::Usage);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let findings = runtime.block_on(doctor::examine(&loaded.config));
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    let report = Report {
        file: file.display().to_string(),
        problems: count(Level::Problem),
        warnings: count(Level::Warning),
        findings: &findings,
    };
    match format {
        Format::Json => output::write_json(&report),
        Format::Table => output::write_text(&lines(&report)),
    }
    .context("cannot write the result")?;
    Ok(if report.problems == 0 {
        Exit::Fine
    } else {
        Exit::Problem
    })
}

/// A line a finding, then one that says what they come to.
fn lines(report: &Report) -> String {
    let mut lines = Vec::new();
    for finding in report.findings {
        let (section, level) = (finding.section.as_str(), finding.level.as_str());
        let remedy = finding.remedy.as_ref();
        let remedy = remedy.map_or_else(String::new, |remedy| format!("; remedy: {remedy}"));
        let line = format!("{section}: {level}: {}{remedy}", finding.message);
        lines.push(printable(&line));
    }
    let counted = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let problems = counted(report.problems, "problem");
    let warnings = counted(report.warnings, "warning");
    lines.push(format!("{problems}, {warnings}\n"));
    lines.join("\n")
}
