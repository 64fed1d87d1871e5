//! What `edgelb plan` prints. Decides nothing.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use crate::apply::Failure;
use crate::apply::reach::Step;
use crate::cli::output::{Format, colour, write_json, write_text};
use crate::cli::table::printable;

/// The object that `-o json` prints: `tests/schemas/plan.json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The node that is planned for.
    pub(super) node: String,
    /// `ipvs` or `nftables`.
    pub(super) datapath: String,
    /// Whether the kernel was looked at; else everything is shown as it would be made in an empty one.
    pub(super) compared: bool,
    /// In the order in which the daemon would make them.
    pub(super) changes: Vec<Step>,
    /// What could not be brought about, and what keeps it from that.
    pub(super) failures: Vec<Failure>,
}

impl Report {
    pub(super) fn print(&self, format: Format) -> io::Result<()> {
        match format {
            Format::Json => write_json(self),
            Format::Table => write_text(&self.text(colour())),
        }
    }

    /// A line a change, as a diff; `!` marks what could not be brought about.
    fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        let mut line = |sign: char, words: &str| {
            let words = printable(words);
            let code = match sign {
                '+' => 32,
                '~' => 33,
                _ => 31,
            };
            // Writing to a String cannot fail.
            let _ = if colour {
                writeln!(text, "\u{1b}[{code}m{sign} {words}\u{1b}[0m")
            } else {
                writeln!(text, "{sign} {words}")
            };
        };
        for step in &self.changes {
            line(step.operation.sign(), &step.command);
        }
        for failure in &self.failures {
            let Failure {
                kind,
                object,
                message,
            } = failure;
            line('!', &format!("{kind} {object}: {message}"));
        }
        if text.is_empty() {
            text.push_str("nothing to change\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::reach::Operation;

    #[test]
    fn a_plan_reads_as_a_diff() {
        let step = |operation, command: &str| Step {
            operation,
            object: "route".to_owned(),
            command: command.to_owned(),
        };
        let mut report = Report {
            node: "edge-a".to_owned(),
            datapath: "nftables".to_owned(),
            compared: true,
            changes: vec![
                step(Operation::Add, "ip route add a"),
                step(Operation::Change, "sysctl -w b=1"),
                step(Operation::Remove, "ip route del c\u{1b}[2J"),
            ],
            failures: vec![Failure::told("route", "d".to_owned(), "not ours")],
        };
        assert_eq!(
            report.text(false),
            "+ ip route add a\n~ sysctl -w b=1\n- ip route del c\\u{1b}[2J\n! route d: not ours\n"
        );
        assert!(
            report
                .text(true)
                .starts_with("\u{1b}[32m+ ip route add a\u{1b}[0m\n")
        );
        report.changes.clear();
        report.failures.clear();
        assert_eq!(report.text(true), "nothing to change\n");
    }
}
