//! Five hundred files that mean harm, beside one that works.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use edgelb::source::manifest::parse::parse;
use edgelb::source::manifest::scan::Look;
use edgelb::source::manifest::{ManifestSource, read_directory};
use tempfile::tempdir;

use crate::{address, cluster, service};

/// Everything that a text can be turned into by one thoughtless edit, or by one with intent.
fn hostile_texts() -> Vec<(String, Vec<u8>)> {
    let good = service("web", "10.96.0.66");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| files.push((name, bytes));
    // Cut off at every length.
    for length in 0..good.len() {
        add(
            format!("cut-{length:03}.yaml"),
            good.as_bytes()[..length].to_vec(),
        );
    }
    // A byte that does not belong there.
    for (index, byte) in [0u8, 0xff, 0xc3, b'\t', b'&', b'*', b'{', b'"', b'%', b'\r']
        .iter()
        .enumerate()
    {
        for at in (0..good.len()).step_by(5) {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = *byte;
            add(format!("byte-{index}-{at:03}.yaml"), bytes);
        }
    }
    // Every field with every wrong type.
    let wrong = [
        "null",
        "[]",
        "{}",
        "true",
        "-1",
        "1e400",
        "99999999999999999999999",
        ".nan",
        "''",
        "[[[[]]]]",
        "{a: {b: c}}",
        "2026-01-01",
        "!!binary x",
        "&a [*a]",
        "0x7fffffffffffffff",
    ];
    for (index, value) in wrong.iter().enumerate() {
        for field in ["apiVersion", "kind", "metadata", "spec"] {
            let text = good
                .lines()
                .map(|line| match line.strip_prefix(field) {
                    Some(_) => format!("{field}: {value}\n"),
                    None => format!("{line}\n"),
                })
                .collect::<String>();
            add(format!("type-{index:02}-{field}.yaml"), text.into_bytes());
        }
        for field in [
            "name",
            "clusterIP",
            "ports",
            "type",
            "externalIPs",
            "sessionAffinityConfig",
            "ipFamilies",
        ] {
            let text = format!(
                "apiVersion: v1\nkind: Service\nmetadata:\n  name: other\nspec:\n  {field}: {value}\n"
            );
            add(format!("spec-{index:02}-{field}.yaml"), text.into_bytes());
        }
    }
    add("deep-flow.yaml".to_owned(), vec![b'['; 10_000]);
    add(
        "deep-map.yaml".to_owned(),
        "{a: ".repeat(10_000).into_bytes(),
    );
    add(
        "deep.json".to_owned(),
        "{\"a\":".repeat(10_000).into_bytes(),
    );
    add(
        "deep-block.yaml".to_owned(),
        (0..10_000).map(|_| "- ").collect::<String>().into_bytes(),
    );
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let item = format!("*a{}", level - 1);
        let items = [item.as_str(); 9].join(", ");
        bomb += &[
            "a",
            &level.to_string(),
            ": &a",
            &level.to_string(),
            " [",
            &items,
            "]\n",
        ]
        .concat();
    }
    add("aliases.yaml".to_owned(), bomb.into_bytes());
    add("merge.yaml".to_owned(), b"a: &a {<<: *a}\n".to_vec());
    add("wide.yaml".to_owned(), "---\n".repeat(100_000).into_bytes());
    add(
        "documents.yaml".to_owned(),
        "x\n---\n".repeat(20_000).into_bytes(),
    );
    add(
        "long-line.json".to_owned(),
        format!("{{\"{}\": 1}}", "k".repeat(1_000_000)).into_bytes(),
    );
    add(
        "number.json".to_owned(),
        format!("{{\"a\": {}}}", "9".repeat(100_000)).into_bytes(),
    );
    add("duplicate.yaml".to_owned(), good.clone().into_bytes());
    add(
        "utf16.yaml".to_owned(),
        good.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    );
    files
}

fn fill(directory: &Path) -> usize {
    let texts = hostile_texts();
    let count = texts.len();
    for (name, bytes) in texts {
        // By name after the good file, so that the good one counts where they hold the same object.
        fs::write(directory.join(format!("x-{name}")), bytes).expect("write");
    }
    let path = |name: &str| directory.join(name);
    nix::unistd::mkfifo(
        &path("fifo.yaml"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("fifo");
    drop(UnixListener::bind(path("socket.yaml")).expect("socket"));
    symlink("/dev/zero", path("device.yaml")).expect("link");
    symlink("loop-b.yaml", path("loop-a.yaml")).expect("link");
    symlink("loop-a.yaml", path("loop-b.yaml")).expect("link");
    symlink("nothing", path("dangling.yaml")).expect("link");
    symlink("/", path("root.yaml")).expect("link");
    fs::create_dir(path("directory.yaml")).expect("directory");
    let giant = fs::File::create(path("giant.yaml")).expect("giant");
    giant.set_len(100 * 1024 * 1024).expect("sparse");
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"name-\xff.yaml");
    fs::write(directory.join(name), "x").expect("write");
    fs::write(path(".hidden.yaml"), "a: [").expect("write");
    fs::write(path("notes.txt"), "a: [").expect("write");
    count + 10
}

#[test]
fn five_hundred_hostile_files_leave_a_working_service_alone() {
    let directory = tempdir().expect("directory");
    let path = directory.path();
    fs::write(path.join("a-good.yaml"), service("web", "10.96.0.10")).expect("write");
    let mut source = ManifestSource::new(path.to_owned());
    let nobody = BTreeSet::new();
    let first = source
        .look(&Look::everything(), &nobody, Instant::now())
        .expect("look");
    assert_eq!(first.len(), 1);

    let count = fill(path);
    assert!(count >= 500, "{count} hostile files");
    let mut state = cluster(first);
    for change in source
        .look(&Look::everything(), &nobody, Instant::now())
        .expect("look")
    {
        state.apply(change.clone());
        assert_eq!(
            address(&state, "web").as_deref(),
            Some("10.96.0.10"),
            "after {change:?}"
        );
    }
    let (changes, problems) = read_directory(path);
    assert_eq!(
        cluster(changes),
        state,
        "read at once, the answer is the same"
    );
    assert_eq!(source.problems(), problems);
    for (file, words) in [
        ("fifo.yaml", "a FIFO, not a file"),
        ("socket.yaml", "a socket, not a file"),
        ("device.yaml", "a device, not a file"),
        ("loop-a.yaml", "in a circle"),
        ("dangling.yaml", "a symbolic link whose file is not there"),
        ("root.yaml", "a directory, not a file"),
        ("directory.yaml", "a directory, not a file"),
        ("giant.yaml", "104857600 bytes"),
        ("name-\u{fffd}.yaml", "not UTF-8: rename"),
        ("x-utf16.yaml", "NUL"),
        ("x-deep-flow.yaml", "recursion limit"),
        ("x-deep.json", "recursion"),
        ("x-duplicate.yaml", "in force from a-good.yaml"),
    ] {
        let of_file: Vec<_> = problems
            .iter()
            .filter(|problem| problem.file == file)
            .collect();
        assert!(
            of_file
                .iter()
                .any(|problem| problem.message.contains(words)),
            "{file} {words}: {of_file:?}"
        );
    }
    assert!(
        !problems
            .iter()
            .any(|problem| problem.message.contains("bug in edgelb"))
    );
    assert!(
        !problems
            .iter()
            .any(|problem| problem.file.contains("hidden") || problem.file.contains("notes"))
    );

    // The working file itself is replaced by each of them in turn.
    let look = Look {
        all: false,
        names: BTreeSet::from(["a-good.yaml".to_owned()]),
    };
    for (name, bytes) in hostile_texts() {
        if !parse("a-good.yaml", &bytes).broken {
            continue;
        }
        fs::write(path.join("a-good.yaml"), bytes).expect("write");
        let changes = source.look(&look, &nobody, Instant::now()).expect("look");
        assert_eq!(changes, [], "{name} takes nothing down");
    }
}
