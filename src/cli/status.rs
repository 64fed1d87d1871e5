//! `edgelb status`: the running daemon at a glance, and everything that is wrong with it now.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::Exit;
use super::output::{Format, colour};
use super::record;
use super::table::printable;
use super::view::show;
use super::watch::{self, WatchedArguments};
use crate::admin::protocol::Command;
use crate::admin::view::{AllocatorView, PeerCounts, Status};
use crate::allocator::Role;
use crate::config::SourceKind;

/// The options of `edgelb status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    watched: WatchedArguments,
    /// Writes what the daemon plans from to FILE (`-`: to stdout), to be replayed with edgelb plan
    /// --inputs: for root and the group edgelb alone.
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    record: Option<PathBuf>,
}

/// Asks and prints.
pub fn run(arguments: &StatusArguments, config: &Path, format: Format) -> anyhow::Result<Exit> {
    if let Some(file) = &arguments.record {
        return record::run(&arguments.watched.view, config, file);
    }
    let watched = &arguments.watched;
    if watched.watch && format == Format::Json {
        return watch::events(&watched.view, config);
    }
    show(Command::Status, watched, config, format, |status| {
        let text = text(status, watch::now());
        if colour() { coloured(&text) } else { text }
    })
}

fn text(status: &Status, now: f64) -> String {
    let mut lines = vec![format!(
        "edgelb {} on {}: {}, {} datapath, up {}",
        status.version,
        status.node,
        if status.ready { "ready" } else { "not ready" },
        status.datapath,
        span(status.uptime_seconds)
    )];
    let mut line = |name: &str, value: String| lines.push(format!("{name:<14} {value}"));
    let config = &status.config;
    line(
        "configuration",
        match &config.problem {
            Some(problem) => format!("the newest file is not in force: {problem}"),
            None => "valid".to_owned(),
        },
    );
    line("source", source(status, now));
    if let Some(allocator) = &status.allocator {
        line("allocator", allocator_text(allocator));
    }
    let services = &status.services;
    line(
        "services",
        format!(
            "{}, of them {} LoadBalancer, {} waiting for a VIP",
            services.total, services.load_balancer, services.pending
        ),
    );
    line("endpoints", status.endpoints.to_string());
    line(
        "vips",
        format!(
            "{} held, {} announced by this node{}",
            status.vips.held,
            status.vips.owned,
            if status.draining {
                ", which is drained (edgelb undrain ends it)"
            } else {
                ""
            }
        ),
    );
    line("peers", peers(&status.peers));
    line("last pass", pass(status, now));
    for problem in &status.source.problems {
        let place = match problem.line {
            Some(line) => format!("{}:{line}", problem.file),
            None => problem.file.clone(),
        };
        let field = problem.field.as_ref();
        let field = field.map(|field| format!("{field}: ")).unwrap_or_default();
        let kept = if problem.keeps_last_good {
            " (what was good before stays in force)"
        } else {
            ""
        };
        line(
            "problem",
            format!("{place}: {field}{}{kept}", problem.message),
        );
    }
    for ignored in &status.source.ignored {
        line("ignored", ignored.clone());
    }
    for conflict in &status.address_conflicts {
        let announced = if conflict.announced {
            "announced here all the same"
        } else {
            "not announced here"
        };
        line(
            "conflict",
            format!(
                "{} is used by {}, {announced}: take it from that host or from the pool",
                conflict.address, conflict.mac
            ),
        );
    }
    for conflict in &status.conflicts {
        line(
            "conflict",
            format!(
                "{} is {}'s; {} does not get it",
                conflict.frontend, conflict.holder, conflict.refused
            ),
        );
    }
    for failure in &status.last_pass.failures {
        line(
            "failure",
            format!("{} {}: {}", failure.kind, failure.object, failure.message),
        );
    }
    let printed: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    printed.join("\n") + "\n"
}

/// What is wrong in red, what is to be known in yellow.
fn coloured(text: &str) -> String {
    let mut coloured = String::new();
    for line in text.lines() {
        let wrong = ["problem", "conflict", "failure"]
            .iter()
            .any(|name| line.starts_with(name))
            || line.contains(": not ready, ")
            || line.contains("the newest file is not in force");
        let known = line.starts_with("ignored")
            || (line.starts_with("peers ") && line.contains(" down ("))
            || (line.starts_with("vips ") && line.contains("which is drained"));
        let code = match known {
            _ if wrong => "31",
            true => "33",
            false => "0",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(coloured, "\u{1b}[{code}m{line}\u{1b}[0m");
    }
    coloured
}

fn source(status: &Status, now: f64) -> String {
    let source = &status.source;
    let kind = match source.kind {
        SourceKind::Kubernetes => "kubernetes",
        SourceKind::Manifests => "manifests",
    };
    let connected = match (source.connected, source.blind_since) {
        (true, _) => "connected".to_owned(),
        (false, None) => "not connected".to_owned(),
        (false, Some(since)) => format!("not connected, blind for {}", ago(now, since)),
    };
    let connected = if source.from_snapshot {
        format!("{connected}, working from the recorded cluster")
    } else {
        connected
    };
    let event = match source.last_event {
        Some(event) => format!("last event {} ago", ago(now, event)),
        None => "no event yet".to_owned(),
    };
    format!("{kind}, {connected}, {event}")
}

fn peers(peers: &PeerCounts) -> String {
    if !peers.membership {
        return "none are heard: there is no key in membership.key_files".to_owned();
    }
    let mut text = format!("{} alive", peers.alive);
    for (word, names) in [("restarting", &peers.restarting), ("down", &peers.down)] {
        if !names.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {} {word} ({})", names.len(), names.join(", "));
        }
    }
    text
}

fn allocator_text(allocator: &AllocatorView) -> String {
    let mut text = match (allocator.role, &allocator.leader) {
        (Role::Leader, _) => "this node gives out addresses".to_owned(),
        (Role::Follower, Some(leader)) => format!("stands by, {leader} gives out addresses"),
        (Role::Follower, None) => "stands by, nobody gives out addresses yet".to_owned(),
        (Role::Reader, _) => "this node may not give out addresses".to_owned(),
        (Role::Waiting, _) => "waits for the API server".to_owned(),
    };
    if allocator.waiting > 0 {
        let _ = write!(text, ", {} statuses to be written", allocator.waiting);
    }
    if let Some(problem) = &allocator.problem {
        text.push_str(": ");
        text.push_str(problem);
    }
    text
}

fn pass(status: &Status, now: f64) -> String {
    let pass = &status.last_pass;
    let Some(finished) = pass.finished else {
        return "none yet".to_owned();
    };
    let latency = pass
        .latency_ms
        .map(|latency| format!(", {latency} ms after its first event"))
        .unwrap_or_default();
    format!(
        "number {}, {} ago, took {} ms{latency}",
        pass.number,
        ago(now, finished),
        pass.duration_ms
    )
}

/// Between two times in seconds; a clock that was set back gives 0.
fn ago(now: f64, then: f64) -> String {
    // Negative and absurdly large values end at the bounds of the type.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    span((now - then) as u64)
}

/// Whole seconds in the two largest units that they have.
fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_out() {
        let text = coloured("endpoints      4\nfailure        route\nignored        a Pod\n");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.ends_with("\u{1b}[0m")));
        let begins = lines.iter().map(|line| line.get(..5).unwrap_or_default());
        assert_eq!(
            begins.collect::<Vec<_>>(),
            ["\u{1b}[0me", "\u{1b}[31m", "\u{1b}[33m"]
        );
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (7_260, "2h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(ago(1.0, 5.0), "0s", "a clock that was set back");
    }
}
