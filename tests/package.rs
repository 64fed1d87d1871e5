//! The Debian package as `systemd/deb/build` makes it, but for the profile of its program: what is in
//! it, and that shells, man(1) and systemd can read that. What it does to a machine: `tests/vm/package`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The most that `systemd-analyze security` may say, in tenths.
const EXPOSURE: &str = "29";

/// Files of the package by path, with their modes; man pages apart.
const FILES: &[(&str, &str)] = &[
    ("./etc/edgelb/edgelb.toml", "-rw-r-----"),
    ("./usr/bin/edgelb", "-rwxr-xr-x"),
    ("./usr/lib/modules-load.d/edgelb.conf", "-rw-r--r--"),
    ("./usr/lib/systemd/system/edgelb.service", "-rw-r--r--"),
    (
        "./usr/share/bash-completion/completions/edgelb",
        "-rw-r--r--",
    ),
    ("./usr/share/doc/edgelb/README.md", "-rw-r--r--"),
    ("./usr/share/doc/edgelb/copyright", "-rw-r--r--"),
    ("./usr/share/doc/edgelb/examples/edgelb.toml", "-rw-r--r--"),
    (
        "./usr/share/doc/edgelb/examples/grafana/edgelb.json",
        "-rw-r--r--",
    ),
    (
        "./usr/share/doc/edgelb/examples/prometheus/alerts.yaml",
        "-rw-r--r--",
    ),
    ("./usr/share/doc/edgelb/examples/rbac.yaml", "-rw-r--r--"),
    (
        "./usr/share/fish/vendor_completions.d/edgelb.fish",
        "-rw-r--r--",
    ),
    ("./usr/share/zsh/vendor-completions/_edgelb", "-rw-r--r--"),
];

/// What a command said, and whether it ended well.
struct Said {
    output: String,
    errors: String,
    success: bool,
}

fn run(command: &mut Command) -> Said {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Said {
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
        success: output.status.success(),
    }
}

/// Its output; a failure of the command fails the test.
fn output(command: &mut Command) -> String {
    let said = run(command);
    assert!(said.success, "{command:?}: {}{}", said.output, said.errors);
    said.output
}

/// The package, made once for all tests of this run.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        // Below target/debug; its parent is the target directory in use.
        let program = Path::new(env!("CARGO_BIN_EXE_edgelb"));
        let target = program.ancestors().nth(2).unwrap();
        let said = output(
            Command::new("systemd/deb/build")
                .args(["dev", "built"])
                .env("CARGO_TARGET_DIR", target),
        );
        let package = PathBuf::from(said.lines().last().expect("the path of the package"));
        assert!(package.is_file(), "{said}");
        package
    })
}

/// The package's files, unpacked.
fn unpacked() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    output(
        Command::new("dpkg-deb")
            .arg("-x")
            .args([package(), directory.path()]),
    );
    directory
}

/// The names of the program's own commands.
fn commands() -> Vec<String> {
    let help = output(Command::new(env!("CARGO_BIN_EXE_edgelb")).arg("--help"));
    let names: Vec<String> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // Lines that go on with a description are indented further.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 10, "{help}");
    names
}

#[test]
fn holds_what_a_node_needs() {
    let listing = output(Command::new("dpkg-deb").arg("-c").arg(package()));
    let mut files: Vec<(String, String)> = listing
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(fields[1], "0/0", "owner in {line}");
            (fields[5].to_owned(), fields[0].to_owned())
        })
        .filter(|(_, mode)| !mode.starts_with('d'))
        .collect();
    files.sort();
    let pages = "./usr/share/man/man1/";
    let (manual, other): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(path, _)| path.starts_with(pages));
    let expected: Vec<(String, String)> = FILES
        .iter()
        .map(|&(path, mode)| (path.to_owned(), mode.to_owned()))
        .collect();
    assert_eq!(other, expected);
    for command in commands() {
        let page = (
            format!("{pages}edgelb-{command}.1.gz"),
            "-rw-r--r--".to_owned(),
        );
        assert!(manual.contains(&page), "no {page:?} in {manual:?}");
    }
}

#[test]
fn keeps_an_edited_configuration_and_names_what_it_needs() {
    let field = |name| output(Command::new("dpkg-deb").arg("-f").arg(package()).arg(name));
    assert_eq!(field("Package"), "edgelb\n");
    assert!(
        field("Version").starts_with(concat!(env!("CARGO_PKG_VERSION"), "-")),
        "{}",
        field("Version")
    );
    for needed in ["adduser", "kmod", "libc6", "systemd"] {
        assert!(field("Depends").contains(needed), "{}", field("Depends"));
    }
    let conffiles = Command::new("dpkg-deb")
        .arg("-I")
        .arg(package())
        .arg("conffiles")
        .output()
        .unwrap();
    assert_eq!(conffiles.stdout, b"/etc/edgelb/edgelb.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        let text = output(
            Command::new("dpkg-deb")
                .arg("-I")
                .arg(package())
                .arg(script),
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(script);
        fs::write(&file, text).unwrap();
        output(Command::new("sh").arg("-n").arg(&file));
        // A call that no version of dpkg makes is an error, not an installation.
        if script != "postrm" {
            assert!(!run(Command::new("sh").arg(&file).arg("unknown")).success);
        }
    }
}

#[test]
fn shells_complete_its_commands() {
    let root = unpacked();
    let share = root.path().join("usr/share");
    let bash = share.join("bash-completion/completions/edgelb");
    output(Command::new("bash").arg("-n").arg(&bash));
    let completed = output(Command::new("bash").args(["--norc", "-c"]).arg(
        r#"source "$0" && complete -p edgelb &&
               COMP_WORDS=(edgelb dr) COMP_CWORD=1 && _edgelb edgelb dr edgelb && echo "${COMPREPLY[@]}""#,
    ).arg(&bash));
    let lines: Vec<&str> = completed.lines().collect();
    assert!(lines[0].contains("-F _edgelb"), "{completed}");
    assert_eq!(lines[1], "drain");
    let zsh = fs::read_to_string(share.join("zsh/vendor-completions/_edgelb")).unwrap();
    assert!(zsh.starts_with("#compdef edgelb\n"));
    let fish = fs::read_to_string(share.join("fish/vendor_completions.d/edgelb.fish")).unwrap();
    for command in commands() {
        assert!(fish.contains(&format!("-a \"{command}\"")), "{command}");
        assert!(zsh.contains(&format!("{command})")), "{command}");
    }
}

#[test]
fn manual_pages_render() {
    let root = unpacked();
    let pages: Vec<PathBuf> = fs::read_dir(root.path().join("usr/share/man/man1"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pages.len() > 10);
    for page in pages {
        let said = run(Command::new("man")
            .args(["--warnings", "--local-file"])
            .arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80"));
        let name = page.display();
        assert!(
            said.success && said.errors.is_empty(),
            "{name}: {}",
            said.errors
        );
        assert!(said.output.contains("SYNOPSIS"), "{name}: {}", said.output);
    }
}

#[test]
fn systemd_takes_the_unit_and_finds_little_exposed() {
    let root = unpacked();
    let unit = root.path().join("usr/lib/systemd/system/edgelb.service");
    let security = run(Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true"])
        .arg(format!("--threshold={EXPOSURE}"))
        .arg(&unit));
    assert!(security.success, "{}{}", security.output, security.errors);
    // It looks for the program, which is not installed on this machine.
    let program = root.path().join("usr/bin/edgelb");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(
        &unit,
        text.replace("/usr/bin/edgelb", program.to_str().unwrap()),
    )
    .unwrap();
    let verified = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit));
    assert!(
        verified.success && verified.errors.is_empty(),
        "{}",
        verified.errors
    );
}
