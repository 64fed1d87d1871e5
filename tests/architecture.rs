//! The rules of the sources that no compiler knows: who may speak of whom, how long a file is, what
//! must not stand outside of tests. Reads `src`; a rule is a line in a table.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;

/// The most lines a file may have.
const LONGEST: usize = 450;

/// What must not be named below a folder (or in a file) of `src`, tests aside.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "model/",
        &[
            "crate::plan",
            "crate::apply",
            "crate::source",
            "crate::config",
            "crate::admin",
            "tokio",
            "std::fs",
            "Instant::now",
            "SystemTime::now",
            "k8s_openapi",
        ],
    ),
    (
        "plan/",
        &[
            "crate::apply",
            "crate::source",
            "crate::admin",
            "tokio",
            "std::fs",
            "Instant::now",
            "SystemTime::now",
            "rand",
            "k8s_openapi",
        ],
    ),
    (
        "membership/",
        &[
            "crate::plan",
            "crate::apply",
            "crate::source",
            "crate::admin",
            "k8s_openapi",
        ],
    ),
    (
        "membership/core/",
        &[
            "tokio",
            "std::fs",
            "Instant::now",
            "SystemTime::now",
            "UdpSocket",
        ],
    ),
    (
        "explain/",
        &[
            "crate::apply",
            "crate::source",
            "crate::admin",
            "tokio",
            "std::fs",
            "Instant::now",
            "SystemTime::now",
        ],
    ),
    ("source/", &["crate::plan", "crate::apply", "crate::admin"]),
    ("apply/", &["crate::plan", "crate::source", "crate::admin"]),
    (
        "config/",
        &[
            "crate::plan",
            "crate::apply",
            "crate::source",
            "crate::admin",
        ],
    ),
    ("admin/", &["crate::lab"]),
    (
        "api_server/",
        &[
            "crate::plan",
            "crate::apply",
            "crate::source",
            "crate::admin",
            "crate::model",
        ],
    ),
];

/// The files and folders that may name both what decides and what applies.
const SEE_BOTH_SIDES: &[&str] = &[
    "reconcile/",
    "daemon.rs",
    "owner/",
    "owning.rs",
    "probing.rs",
    "allocator/",
    "cli/",
    "admin/snapshot.rs",
];

/// The folders where Kubernetes types stop, and where they start again.
const KUBERNETES: &[&str] = &["source/kubernetes/", "apply/kubernetes/"];

/// The folder that is to become a crate of its own, and all that it may use of this one.
const IPVS: &str = "apply/ipvs/";
const IPVS_MAY_USE: &str = "crate::apply::netlink";

/// Programs that the daemon never runs: it speaks netlink and writes `/proc/sys` itself.
const PROGRAMS: &[&str] = &["\"ip\"", "\"nft\"", "\"ipvsadm\"", "\"sysctl\""];
/// The lab builds its networks and looks at them with those programs, as an independent eye.
const LAB: &str = "lab/";

/// What ends the program where it should have told an error.
const PANICS: &[&str] = &[
    ".unwrap()",
    ".expect(",
    "panic!(",
    "todo!(",
    "unimplemented!(",
];

/// A file below `src`, by its path from there.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests") || self.path.ends_with("tests.rs")
    }

    fn is_in(&self, place: &str) -> bool {
        self.path == place || (place.ends_with('/') && self.path.starts_with(place))
    }

    /// The lines that the program is made of, numbered: no comments, no module of tests.
    fn code(&self) -> Vec<(usize, &str)> {
        let inline_tests = self
            .text
            .find("#[cfg(test)]\nmod tests {")
            .unwrap_or(self.text.len());
        let program = self.text.get(..inline_tests).unwrap_or_default();
        program
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
            .collect()
    }
}

/// Whether the word stands in the line as a whole word: `crate::plan` is not in `crate::planner`.
fn names(line: &str, word: &str) -> bool {
    let part_of_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

/// Every rule that a file breaks, with the line.
fn violations(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let path = &source.path;
    if !source.text.starts_with("//!") {
        found.push(format!(
            "{path}:1 does not begin with //! and what it decides or does"
        ));
    }
    let length = source.text.lines().count();
    if length > LONGEST {
        found.push(format!(
            "{path} has {length} lines, more than {LONGEST}: split it by concept"
        ));
    }
    if source.is_test() {
        return found;
    }
    let code = source.code();
    let mut forbid =
        |word: &str, why: &str, line: usize| found.push(format!("{path}:{line} {word}: {why}"));
    let runs_programs = code.iter().any(|(_, line)| names(line, "Command"));
    for (line, text) in &code {
        for (place, words) in FORBIDDEN {
            for word in words
                .iter()
                .filter(|word| source.is_in(place) && names(text, word))
            {
                forbid(word, &format!("{place} must not know it"), *line);
            }
        }
        if names(text, "k8s_openapi") && !KUBERNETES.iter().any(|place| source.is_in(place)) {
            forbid(
                "k8s_openapi",
                "Kubernetes types stop in source/kubernetes and start again in apply/kubernetes",
                *line,
            );
        }
        if source.is_in(IPVS) && text.replace(IPVS_MAY_USE, "").contains("crate::") {
            forbid(
                "crate",
                "apply/ipvs uses nothing but crate::apply::netlink",
                *line,
            );
        }
        if text.contains("use crate::{") {
            forbid(
                "use crate::{",
                "one line a module, so that these rules can be read",
                *line,
            );
        }
        // A constant is evaluated when the program is built.
        let constant = text
            .trim_start()
            .trim_start_matches("pub ")
            .starts_with("const ");
        for word in PANICS
            .iter()
            .filter(|word| text.contains(**word) && !constant)
        {
            forbid(
                word,
                "tell an error that names the thing and its remedy",
                *line,
            );
        }
        for program in PROGRAMS {
            if runs_programs && text.contains(program) && !source.is_in(LAB) {
                forbid(program, "the daemon runs no program for that", *line);
            }
        }
    }
    let sees = |side: &str| code.iter().any(|(_, text)| names(text, side));
    if sees("crate::plan")
        && sees("crate::apply")
        && !SEE_BOTH_SIDES.iter().any(|place| source.is_in(place))
    {
        found.push(format!(
            "{path} sees both what decides and what applies: only {SEE_BOTH_SIDES:?} may"
        ));
    }
    found
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of src") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(Source {
                    path: path
                        .strip_prefix(&root)
                        .expect("below src")
                        .to_string_lossy()
                        .into_owned(),
                    text: fs::read_to_string(&path).expect("text"),
                });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

#[test]
fn every_source_keeps_the_rules() {
    let sources = sources();
    assert!(sources.len() > 100, "src is found");
    for (place, _) in FORBIDDEN {
        assert!(
            sources.iter().any(|source| source.is_in(place)),
            "{place} is there"
        );
    }
    let found: Vec<String> = sources.iter().flat_map(violations).collect();
    assert!(
        found.is_empty(),
        "{} violations:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn half_of_the_files_are_short() {
    let mut lengths: Vec<usize> = sources()
        .iter()
        .map(|source| source.text.lines().count())
        .collect();
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= 250, "the median file has {median} lines");
}

/// What the rules say of a file with this text.
fn said(path: &str, text: &str) -> Vec<String> {
    violations(&Source {
        path: path.to_owned(),
        text: text.to_owned(),
    })
}

#[test]
fn a_broken_rule_is_found() {
    let long = format!("//! Long.\n{}", "\n".repeat(LONGEST));
    for (path, text, part) in [
        (
            "model/service.rs",
            "//! x\nuse crate::plan::Plan;\n",
            "model/service.rs:2 crate::plan",
        ),
        (
            "model/service.rs",
            "//! x\nuse crate::config::Config;\n",
            "crate::config",
        ),
        (
            "model/service.rs",
            "//! x\nlet now = std::time::Instant::now();\n",
            "Instant::now",
        ),
        (
            "plan/mod.rs",
            "//! x\nuse crate::apply::Failure;\n",
            "plan/mod.rs:2 crate::apply",
        ),
        (
            "plan/ipam/mod.rs",
            "//! x\nfn f() { rand::random() }\n",
            "rand",
        ),
        (
            "plan/mod.rs",
            "//! x\nasync fn f() { tokio::task::yield_now().await }\n",
            "tokio",
        ),
        ("plan/mod.rs", "//! x\nstd::fs::read(path)\n", "std::fs"),
        (
            "source/host/mod.rs",
            "//! x\nuse crate::plan::Inputs;\n",
            "crate::plan",
        ),
        (
            "source/host/mod.rs",
            "//! x\nuse k8s_openapi::api;\n",
            "source/kubernetes",
        ),
        (
            "apply/status.rs",
            "//! x\nuse k8s_openapi::api;\n",
            "source/kubernetes",
        ),
        (
            "api_server/client.rs",
            "//! x\nuse crate::source::SourceEvent;\n",
            "api_server/ must not know it",
        ),
        (
            "api_server/client.rs",
            "//! x\nuse k8s_openapi::api;\n",
            "source/kubernetes",
        ),
        (
            "apply/route/mod.rs",
            "//! x\nuse crate::source::SourceEvent;\n",
            "crate::source",
        ),
        (
            "apply/ipvs/types.rs",
            "//! x\nuse crate::model::family::Family;\n",
            "nothing but crate::apply::netlink",
        ),
        (
            "admin/view.rs",
            "//! x\nuse crate::plan::Plan;\nuse crate::apply::Failure;\n",
            "sees both",
        ),
        (
            "lab/mod.rs",
            "//! x\nlet x = y.unwrap();\n",
            "lab/mod.rs:2 .unwrap()",
        ),
        (
            "lab/mod.rs",
            "//! x\nlet x = y.expect(\"z\");\n",
            ".expect(",
        ),
        ("lab/mod.rs", "//! x\npanic!(\"z\");\n", "panic!("),
        (
            "apply/sysctl.rs",
            "//! x\nCommand::new(\"sysctl\")\n",
            "runs no program",
        ),
        (
            "cli/run.rs",
            "//! x\nlet c = Command::new(\n\"nft\",\n);\n",
            "cli/run.rs:3 \"nft\"",
        ),
        (
            "cli/run.rs",
            "//! x\nuse crate::{plan, apply};\n",
            "one line a module",
        ),
        ("cli/run.rs", "use std::fs;\n", "does not begin with //!"),
        ("cli/run.rs", &long, "451 lines"),
        ("plan/tests/ipam.rs", &long, "451 lines"),
    ] {
        let found = said(path, text);
        assert!(
            found.iter().any(|found| found.contains(part)),
            "{path} {text:?}: {found:?}"
        );
    }
}

#[test]
fn what_the_rules_allow_is_not_found() {
    for (path, text) in [
        (
            "plan/mod.rs",
            "//! Uses no tokio and no rand.\nuse crate::model::service::Service; // not crate::apply\n",
        ),
        (
            "plan/mod.rs",
            "//! x\nuse crate::planner::Random;\nlet brand = operand;\n",
        ),
        (
            "plan/mod.rs",
            "//! x\n#[cfg(test)]\nmod tests {\n    let x = y.unwrap();\n}\n",
        ),
        (
            "plan/tests/ipam.rs",
            "//! x\nlet x = std::time::Instant::now(); y.unwrap();\n",
        ),
        (
            "apply/ipvs/mod.rs",
            "//! x\nuse crate::apply::netlink::Error;\n",
        ),
        (
            "source/kubernetes/convert.rs",
            "//! x\nuse k8s_openapi::api;\n",
        ),
        (
            "apply/kubernetes/lease.rs",
            "//! x\nuse k8s_openapi::api;\nuse crate::api_server::server::Server;\n",
        ),
        (
            "reconcile/mod.rs",
            "//! x\nuse crate::plan::Plan;\nuse crate::apply::Failure;\n",
        ),
        (
            "config/defaults.rs",
            "//! x\npub const PORT: NonZeroU16 = NonZeroU16::new(1).unwrap();\n",
        ),
        ("lab/link.rs", "//! x\nCommand::new(\"ip\")\n"),
        ("cli/table.rs", "//! x\nlet column = \"ip\";\n"),
    ] {
        assert_eq!(said(path, text), Vec::<String>::new(), "{path} {text:?}");
    }
}
