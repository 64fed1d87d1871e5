//! Completions and man pages: made from the command line, so every command has its own.

use std::process::Command;

fn edgelb(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_edgelb"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `edgelb --help` names.
fn commands() -> Vec<String> {
    let help = edgelb(&["--help"]);
    let block = help.split("Commands:").nth(1).unwrap();
    let block = block.split("Options:").next().unwrap();
    let names = block.lines().filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' '));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_a_man_page_that_man_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    edgelb(&["man", pages.to_str().unwrap()]);
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for command in &commands {
        let page = std::fs::read_to_string(pages.join(format!("edgelb-{command}.1"))).unwrap();
        assert!(
            page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
            "{command}"
        );
    }
    assert!(pages.join("edgelb.1").exists() && pages.join("edgelb-bench-failover.1").exists());
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = edgelb(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
    // What bash itself thinks of it.
    let script = edgelb(&["completions", "bash"]);
    let completed = Command::new("bash")
        .arg("-c")
        .arg(format!("{script}\nCOMP_WORDS=(edgelb pee) COMP_CWORD=1; _edgelb edgelb pee edgelb; echo \"${{COMPREPLY[@]}}\""))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "peers");
}
