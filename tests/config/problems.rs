//! Every kind of problem with its exact text: `problems.txt` holds files and what `check` says of each.
//!
//! A block is a heading (`# …`, optional), the file (`> …`) and the lines said (`= …`). With
//! `UPDATE_EXPECTED=1` the lines are written anew, to be reviewed as a difference.

use std::path::Path;

use super::{Level, POOL, environment, lines, parse};

/// One file and what is said of it.
struct Case {
    heading: Vec<String>,
    file: Vec<String>,
    said: Vec<String>,
}

fn cases(text: &str) -> Vec<Case> {
    let block = |block: &str| {
        let with = |prefix: &str| -> Vec<String> {
            let line = |line: &str| {
                line.strip_prefix(prefix)
                    .map(|rest| rest.strip_prefix(' ').unwrap_or(rest).to_owned())
            };
            block.lines().filter_map(line).collect()
        };
        let case = Case {
            heading: with("#"),
            file: with(">"),
            said: with("="),
        };
        let known = case.heading.len() + case.file.len() + case.said.len();
        assert_eq!(
            known,
            block.lines().count(),
            "a line without a mark in:\n{block}"
        );
        case
    };
    text.trim().split("\n\n").map(block).collect()
}

#[test]
fn each_problem_says_what_where_and_what_to_write() {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/config/problems.txt"
    ));
    let cases = cases(&std::fs::read_to_string(path).unwrap());
    assert!(cases.len() > 100, "the cases are there");
    let mut updated = Vec::new();
    let mut wrong = Vec::new();
    for case in cases {
        let said = lines(&(case.file.join("\n") + "\n"));
        let marked = |mark: &str, lines: &[String]| {
            let lines: Vec<String> = lines
                .iter()
                .map(|line| format!("{mark} {line}\n"))
                .collect();
            lines.concat()
        };
        updated.push(marked("#", &case.heading) + &marked(">", &case.file) + &marked("=", &said));
        assert!(
            !said.is_empty(),
            "nothing is said of:\n{}",
            case.file.join("\n")
        );
        if said != case.said {
            wrong.push(format!(
                "{}\nexpected {:#?}\nsaid {said:#?}",
                case.file.join("\n"),
                case.said
            ));
        }
    }
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(path, updated.join("\n")).unwrap();
    } else {
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }
}

#[test]
fn one_wrong_type_hides_nothing() {
    let text = "\
[node]
nmae = 3
[announce]
refresh = 60
exclude_interfaces = [1, \"wlan*\"]
[proxy]
scheduler = \"wrrr\"
node_port_range = \"2-1\"
ping = true
[[pool]]
name = \"a\"
addresses = [7, \"192.0.2.20-192.0.2.10\", \"198.51.100.0/24\"]
auto_assign = \"no\"
[[pool]]
name = \"a\"
addresses = [\"198.51.100.128/25\"]
";
    let said = lines(text);
    let places: Vec<&str> = said
        .iter()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "F:2", "F:4", "F:5", "F:5", "F:7", "F:8", "F:9", "F:12", "F:12", "F:13", "F:15", "F:16"
        ],
        "{said:#?}"
    );
}

/// What `check` says to write is itself accepted in that place, wherever it replaces one value.
#[test]
fn corrected_values_are_correct() {
    let mut corrected = 0;
    for case in cases(include_str!("problems.txt")) {
        let text = case.file.join("\n") + "\n";
        let Err(problems) = parse(&text, &environment()) else {
            continue;
        };
        let [problem] = problems.as_slice() else {
            continue;
        };
        let (Some(line), Some(suggestion)) = (problem.line, &problem.suggestion) else {
            continue;
        };
        let key = problem.key.rsplit('.').next().unwrap();
        let name = key.split('[').next().unwrap();
        let old = case.file[line - 1].clone();
        let Some(start) = old.find(&format!("{name} = ")) else {
            continue;
        };
        let header = problem.key.is_empty() || problem.message.contains("a table is wanted");
        if header
            || problem.message.starts_with("unknown key")
            || suggestion.contains(" = ")
            || suggestion.starts_with("[[")
        {
            continue;
        }
        let list = key.contains('[') && !suggestion.starts_with('[');
        let new = if list {
            format!("[{suggestion}]")
        } else {
            suggestion.clone()
        };
        let mut file = case.file.clone();
        file[line - 1] = format!("{}{name} = {new}", &old[..start]);
        let text = file.join("\n") + "\n";
        if let Err(problems) = parse(&text, &environment()) {
            panic!("{text}\n{problems:#?}");
        }
        corrected += 1;
    }
    assert!(corrected > 40, "{corrected} suggestions were tried");
    let warned = parse(POOL, &environment()).unwrap().warnings;
    assert!(warned.iter().all(|problem| problem.level == Level::Warning) && warned.is_empty());
}
