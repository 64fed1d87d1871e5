//! `edgelb doctor`: what keeps this node from working, or one Service from being reached, a line each with
//! what mends it.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::output::{self, Format};
use super::table::printable;
use crate::config::{self, Environment};
use crate::doctor::{self, Finding, Level};
use crate::model::service::ServiceKey;

/// What is looked at.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// A Service that cannot be reached, to be looked at closely; without it all are, in short.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    service: Option<ServiceKey>,
}

/// Reads NAMESPACE/NAME.
fn service(text: &str) -> Result<ServiceKey, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(ServiceKey::new(namespace, name))
        }
        _ => Err(format!(
            "write NAMESPACE/NAME, such as default/{}",
            if text.is_empty() { "web" } else { text }
        )),
    }
}

/// The object that `-o json` prints.
#[derive(Serialize)]
struct Report<'r> {
    /// As it was named.
    file: String,
    /// The Service that was asked for.
    service: Option<String>,
    problems: usize,
    warnings: usize,
    findings: &'r [Finding],
    /// Findings beyond these: the least of all.
    more_findings: usize,
}

/// The most findings that are printed: nobody reads more.
const MOST_FINDINGS: usize = 200;

/// Looks, and prints what it found; a problem ends with 1.
pub fn run(arguments: &DoctorArguments, file: &Path, format: Format) -> anyhow::Result<Exit> {
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
    let findings = runtime.block_on(doctor::examine(&loaded.config, arguments.service.as_ref()));
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    let report = Report {
        file: file.display().to_string(),
        service: arguments.service.as_ref().map(ToString::to_string),
        problems: count(Level::Problem),
        warnings: count(Level::Warning),
        findings: findings.get(..MOST_FINDINGS).unwrap_or(&findings),
        more_findings: findings.len().saturating_sub(MOST_FINDINGS),
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
    lines.extend(report.findings.iter().map(line));
    if report.more_findings > 0 {
        lines.push(format!("and {} more", report.more_findings));
    }
    let counted = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let problems = counted(report.problems, "problem");
    let warnings = counted(report.warnings, "warning");
    lines.push(format!("{problems}, {warnings}\n"));
    lines.join("\n")
}

/// `level: section: what (what was seen); remedy: …`
fn line(finding: &Finding) -> String {
    let (section, level) = (finding.section.as_str(), finding.level.as_str());
    let mut line = format!("{level}: {section}: ");
    if let Some(service) = &finding.service {
        line = format!("{line}{service}: ");
    }
    line.push_str(&finding.message);
    if let Some(evidence) = &finding.evidence {
        line = format!("{line} ({evidence})");
    }
    if let Some(remedy) = &finding.remedy {
        line = format!("{line}; remedy: {remedy}");
    }
    printable(&line)
}
