//! What the daemon works from: its configuration as it is on the disk, its source, and what of that cannot
//! be used. Pure.

use super::daemon::one_line;
use super::finding::{Depth, Finding, Level, Section};
use super::running::Running;
use crate::admin::record;
use crate::admin::view::Status;
use crate::config::Config;
use crate::source::SourceProblem;

/// Problems that are named; more are counted.
const MOST_NAMED: usize = 4;

/// The findings, which stand beside those of the daemon. `problems` is what doctor itself found in the
/// manifests, for where there is no daemon that tells.
pub(super) fn examine(
    config: &Config,
    running: Option<&Running>,
    problems: &[SourceProblem],
) -> Vec<Finding> {
    if let Some(running) = running {
        return of_daemon(&running.status, &record::digest(config));
    }
    let told = problems.iter().map(|problem| Broken {
        file: &problem.file,
        line: problem.line,
        field: problem.field.as_deref(),
        message: &problem.message,
    });
    broken(told)
}

fn finding(level: Level, message: String, remedy: &str) -> Finding {
    Finding::new(Section::Daemon, level, message).mend(remedy)
}

/// `digest` is that of the configuration as it is on the disk.
fn of_daemon(status: &Status, digest: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let in_force = status.config.digest.as_deref();
    if let Some(problem) = &status.config.problem {
        let message =
            "the configuration file was refused, so the daemon goes on with the one before";
        let remedy = "edgelb check, then systemctl reload edgelb";
        findings.push(finding(Level::Problem, message.to_owned(), remedy).seen(one_line(problem)));
    } else if in_force.is_some_and(|in_force| in_force != digest) {
        let message = "the configuration file says something else than what the daemon works by: it was \
                       changed and not loaded";
        let remedy = "systemctl reload edgelb (restart where reload says that a key needs it)";
        findings.push(finding(Level::Warning, message.to_owned(), remedy));
    }
    let source = &status.source;
    if !source.connected {
        let message = "the daemon does not hear of changes: its source is not connected";
        let remedy = "look at the findings about the API server or the directory of manifests, and at \
                      journalctl -u edgelb";
        let told = finding(Level::Problem, message.to_owned(), remedy).at(Depth::Cluster);
        findings.push(match source.blind_since {
            None => told,
            Some(since) => told.seen(format!("blind since {since:.0} s after 1970")),
        });
    }
    if source.from_snapshot {
        let message = "what is served is the cluster as an earlier run recorded it";
        let remedy = "see whether the API server answers: edgelb doctor says so above";
        findings.push(finding(Level::Warning, message.to_owned(), remedy).at(Depth::Symptom));
    }
    let told = source.problems.iter().map(|problem| Broken {
        file: &problem.file,
        line: problem.line,
        field: problem.field.as_deref(),
        message: &problem.message,
    });
    findings.extend(broken(told));
    findings
}

/// A file or an object that cannot be used whole.
struct Broken<'p> {
    file: &'p str,
    line: Option<u64>,
    field: Option<&'p str>,
    message: &'p str,
}

fn broken<'p>(problems: impl Iterator<Item = Broken<'p>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut more = 0_usize;
    for problem in problems {
        if findings.len() == MOST_NAMED {
            more += 1;
            continue;
        }
        let line = (problem.line).map_or_else(String::new, |line| format!(":{line}"));
        let (file, message) = (problem.file, one_line(problem.message));
        let message = format!("{file}{line} cannot be used: {message}");
        let remedy = problem.field.map_or_else(
            || "correct it; it is read again at once".to_owned(),
            |field| format!("correct {field}; it is read again at once"),
        );
        findings.push(finding(Level::Warning, message, &remedy).at(Depth::Cluster));
    }
    if more > 0 {
        let message = format!("{more} more files or objects cannot be used");
        let remedy = "edgelb status -o json has all of them in source.problems";
        findings.push(finding(Level::Warning, message, remedy).at(Depth::Cluster));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_named_and_the_rest_is_counted() {
        let problem = |number: u64| SourceProblem {
            file: "web.yaml".to_owned(),
            line: Some(number),
            field: None,
            message: "no\nport".to_owned(),
            keeps_last_good: false,
        };
        let config = Config::defaults("edge-a");
        assert_eq!(examine(&config, None, &[]), []);
        let problems: Vec<SourceProblem> = (1..=6).map(problem).collect();
        let found = examine(&config, None, &problems);
        let first = found.first().map(|it| it.message.as_str());
        assert_eq!(first, Some("web.yaml:1 cannot be used: no port"));
        let last = found.last().map(|it| it.message.as_str());
        assert_eq!(last, Some("2 more files or objects cannot be used"));
    }
}
