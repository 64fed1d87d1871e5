//! What survives a restart, a crash in the middle of a write, and a reboot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::service::ServiceKey;

/// A directory that goes away with the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgelb-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    fn open(&self) -> StateDirectory {
        let (state, warnings) = StateDirectory::open_in_boot(&self.state(), "boot-1").unwrap();
        assert_eq!(warnings, []);
        state
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn name(text: &str) -> VirtualServerName {
    text.parse().unwrap()
}

fn numbered(number: u32) -> VirtualServerName {
    VirtualServerName {
        protocol: crate::model::family::Protocol::Tcp,
        address: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
        port: 80,
    }
}

fn journal(state: &StateDirectory) -> Journal {
    let (journal, warnings) = Journal::open(state).unwrap();
    assert_eq!(warnings, []);
    journal
}

fn listed(journal: &Journal) -> Vec<String> {
    journal.iter().map(ToString::to_string).collect()
}

#[test]
fn the_directory_is_private_and_locked() {
    let temporary = Temporary::new("lock");
    let first = temporary.open();
    let mode = std::fs::metadata(first.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let error = StateDirectory::open(&temporary.state()).unwrap_err();
    assert!(
        matches!(error, Error::InUse { process: Some(process), .. } if process == std::process::id()),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id()))
    );
    drop(first);
    temporary.open();
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let temporary = Temporary::new("exposed");
    std::fs::create_dir(temporary.state()).unwrap();
    std::fs::set_permissions(temporary.state(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = StateDirectory::open(&temporary.state()).unwrap_err();
    assert!(matches!(error, Error::Exposed { .. }), "{error}");
}

#[test]
fn a_file_in_place_of_the_directory_is_an_error_that_names_it() {
    let temporary = Temporary::new("file");
    std::fs::write(temporary.state(), "").unwrap();
    let error = StateDirectory::open(&temporary.state()).unwrap_err();
    assert!(matches!(error, Error::Create { .. }));
    assert!(error.to_string().contains("/state"), "{error}");
}

#[test]
fn what_is_written_is_read_again() {
    let temporary = Temporary::new("read");
    let state = temporary.open();
    assert_eq!(
        state.read_allocations().unwrap(),
        (Allocations::default(), None)
    );
    assert_eq!(state.read_sysctls().unwrap(), (BTreeMap::new(), None));
    let mut allocations = Allocations::default();
    let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    allocations.set(&ServiceKey::new("shop", "web"), addresses, "edge-a");
    let record = SysctlRecord {
        previous: "0".to_owned(),
        ours: BTreeSet::from(["1".to_owned()]),
    };
    let values = SysctlRecords::from([("net/ipv4/ip_forward".to_owned(), record)]);
    state.write_allocations(&allocations).unwrap();
    state.write_sysctls(&values).unwrap();
    drop(state);
    let state = temporary.open();
    assert_eq!(state.read_allocations().unwrap(), (allocations, None));
    assert_eq!(state.read_sysctls().unwrap(), (values, None));
}

#[test]
fn a_damaged_file_is_set_aside_and_told() {
    let temporary = Temporary::new("damaged");
    let state = temporary.open();
    let path = state.path().join(ALLOCATIONS);
    for (content, part) in [
        (&b""[..], "EOF"),
        (b"{\"version\":1,\"content\":[{\"serv", "EOF"),
        (b"\xff\xfe", "expected"),
        (b"{\"version\":2,\"content\":{}}", "its format is 2, not 1"),
        (b"{\"version\":1,\"content\":{}}", "expected a sequence"),
    ] {
        std::fs::write(&path, content).unwrap();
        let (allocations, warning) = state.read_allocations().unwrap();
        assert_eq!(allocations, Allocations::default());
        let warning = warning.unwrap();
        assert!(warning.reason.contains(part), "{warning}");
        assert!(!path.exists());
        let aside = warning.set_aside.unwrap();
        assert!(aside.ends_with("allocations.json.damaged"));
        assert_eq!(std::fs::read(aside).unwrap(), content);
    }
}

fn farewell() -> Farewell {
    Farewell {
        at: Duration::from_millis(123_456),
        until: Duration::from_secs(125),
        alone: true,
    }
}

#[test]
fn a_farewell_counts_once() {
    let temporary = Temporary::new("farewell");
    let state = temporary.open();
    assert_eq!(state.take_farewell().unwrap(), (None, None));
    let farewell = farewell();
    state.write_farewell(&farewell).unwrap();
    assert_eq!(state.take_farewell().unwrap(), (Some(farewell), None));
    assert_eq!(state.take_farewell().unwrap(), (None, None));
}

#[test]
fn a_reboot_ends_the_records_about_the_kernel_but_not_the_allocations() {
    let temporary = Temporary::new("boot");
    let state = temporary.open();
    let mut allocations = Allocations::default();
    allocations.set(
        &ServiceKey::new("shop", "web"),
        vec!["192.0.2.1".parse().unwrap()],
        "a",
    );
    state.write_allocations(&allocations).unwrap();
    let values = SysctlRecords::from([("a".to_owned(), SysctlRecord::default())]);
    state.write_sysctls(&values).unwrap();
    journal(&state).record(&[name("TCP 192.0.2.1:80")]).unwrap();
    state.write_farewell(&farewell()).unwrap();
    drop(state);

    let state = temporary.open();
    assert_eq!(state.read_sysctls().unwrap(), (values, None));
    assert_eq!(listed(&journal(&state)), ["TCP 192.0.2.1:80"]);
    drop(state);

    let (state, warnings) = StateDirectory::open_in_boot(&temporary.state(), "boot-2").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(state.read_allocations().unwrap(), (allocations, None));
    assert_eq!(state.read_sysctls().unwrap(), (BTreeMap::new(), None));
    assert!(journal(&state).is_empty());
    assert_eq!(state.take_farewell().unwrap(), (None, None));
    journal(&state).record(&[name("TCP 192.0.2.1:80")]).unwrap();
    drop(state);

    std::fs::remove_file(temporary.state().join(BOOT)).unwrap();
    let (state, warnings) = StateDirectory::open_in_boot(&temporary.state(), "boot-2").unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(journal(&state).is_empty());
}

#[test]
fn the_journal_records_forgets_and_reads_again() {
    let temporary = Temporary::new("journal");
    let state = temporary.open();
    let names = [
        name("TCP 192.0.2.1:80"),
        name("UDP [2001:db8::1]:53"),
        name("SCTP 192.0.2.1:80"),
    ];
    let mut first = journal(&state);
    first.record(&names).unwrap();
    first.record(&names).unwrap();
    first.forget(&[names[0], name("TCP 192.0.2.9:9")]).unwrap();
    assert!(!first.contains(&names[0]));
    let text = std::fs::read_to_string(state.path().join(journal::FILE)).unwrap();
    assert_eq!(
        text,
        "TCP 192.0.2.1:80\nUDP [2001:db8::1]:53\nSCTP 192.0.2.1:80\nforget TCP 192.0.2.1:80\n"
    );
    let second = journal(&state);
    assert_eq!(
        listed(&second),
        ["UDP [2001:db8::1]:53", "SCTP 192.0.2.1:80"]
    );
    assert_eq!((second.len(), second.is_empty()), (2, false));
}

#[test]
fn a_torn_last_line_counts_for_nothing_and_does_not_spoil_the_next() {
    let temporary = Temporary::new("torn");
    let state = temporary.open();
    let path = state.path().join(journal::FILE);
    // Torn where the beginning is a good name of its own.
    std::fs::write(&path, "TCP 192.0.2.1:80\nTCP 192.0.2.2:8").unwrap();
    let mut journal = journal(&state);
    assert_eq!(listed(&journal), ["TCP 192.0.2.1:80"]);
    journal.record(&[name("TCP 192.0.2.3:80")]).unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "TCP 192.0.2.1:80\nTCP 192.0.2.3:80\n"
    );
}

#[test]
fn a_damaged_line_is_told_and_the_others_stay() {
    let temporary = Temporary::new("line");
    let state = temporary.open();
    let path = state.path().join(journal::FILE);
    let content = b"TCP 192.0.2.1:80\n\0\xff\0\nUDP 192.0.2.1:53\n";
    std::fs::write(&path, content).unwrap();
    let (mut journal, warnings) = Journal::open(&state).unwrap();
    assert_eq!(listed(&journal), ["TCP 192.0.2.1:80", "UDP 192.0.2.1:53"]);
    assert!(warnings[0].reason.starts_with("line 2:"), "{warnings:?}");
    let aside = warnings[0].set_aside.as_ref().unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), content);
    journal.record(&[name("TCP 192.0.2.3:80")]).unwrap();
    assert_eq!(self::journal(&state).len(), 3);
}

#[test]
fn the_journal_does_not_grow_with_time() {
    let temporary = Temporary::new("compact");
    let state = temporary.open();
    let mut journal = journal(&state);
    for round in 0..400 {
        journal.record(&[numbered(round)]).unwrap();
        journal.forget(&[numbered(round)]).unwrap();
    }
    journal.record(&[numbered(1)]).unwrap();
    let text = std::fs::read_to_string(state.path().join(journal::FILE)).unwrap();
    assert!(
        text.lines().count() <= 257,
        "{} lines",
        text.lines().count()
    );
    assert_eq!(listed(&self::journal(&state)), ["TCP 10.0.0.1:80"]);
}

#[test]
fn texts_that_name_no_virtual_server_are_refused() {
    for text in [
        "",
        "TCP",
        "TCP 1.2.3.4",
        "ICMP 1.2.3.4:5",
        "TCP 2001:db8::1:80",
        "TCP 1.2.3.4:65536",
    ] {
        assert!(text.parse::<VirtualServerName>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_journal_fail(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let temporary = Temporary::new("bytes");
        let state = temporary.open();
        std::fs::write(state.path().join(journal::FILE), &content).unwrap();
        Journal::open(&state).unwrap();
        prop_assert_eq!(Journal::open(&state).unwrap().1, []);
    }
}

const CHILD: &str = "EDGELB_TEST_STATE_DIRECTORY";

/// Writes for ever, and says what was acknowledged. Runs as a process of its own in the test below.
#[test]
#[ignore = "the child of the test below"]
fn child_that_writes_until_it_is_killed() {
    let path = std::env::var_os(CHILD).expect("only the test below starts this");
    let (state, _) = StateDirectory::open_in_boot(Path::new(&path), "boot-1").unwrap();
    let (mut journal, _) = Journal::open(&state).unwrap();
    let mut allocations = state.read_allocations().unwrap().0;
    let first = u32::try_from(allocations.held()).unwrap();
    let mut output = std::io::stdout();
    for number in first.. {
        journal.record(&[numbered(number)]).unwrap();
        // Makes lines, so that rewrites happen under way.
        let passing: Vec<_> = (0..30).map(|port| numbered(0x10_0000 + port)).collect();
        journal.record(&passing).unwrap();
        journal.forget(&passing).unwrap();
        let service = ServiceKey::new("shop", format!("web-{number}"));
        allocations.set(&service, vec![numbered(number).address], "edge-a");
        state.write_allocations(&allocations).unwrap();
        writeln!(output, "acknowledged {number}").unwrap();
    }
}

fn start_child(state: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("apply::state_directory::tests::child_that_writes_until_it_is_killed")
        .env(CHILD, state)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let temporary = Temporary::new("kill");
    drop(temporary.open());
    let mut acknowledged = None;
    for round in 0..25_u64 {
        let mut child = start_child(&temporary.state());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number =
            |line: &str| Some(line.rsplit_once("acknowledged ")?.1.parse::<u32>().unwrap());
        // After the first acknowledgement, at an instant that differs each time.
        acknowledged = Some(
            lines
                .by_ref()
                .find_map(|line| number(&line.unwrap()))
                .unwrap(),
        );
        std::thread::sleep(Duration::from_micros(round * 1_237 % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        // All that it said before it died.
        acknowledged = lines
            .filter_map(|line| number(&line.unwrap()))
            .last()
            .or(acknowledged);

        let state = temporary.open();
        let (allocations, warning) = state.read_allocations().unwrap();
        assert_eq!(warning, None);
        let journal = journal(&state);
        for number in 0..=acknowledged.unwrap() {
            assert!(
                journal.contains(&numbered(number)),
                "round {round}: {number}"
            );
            assert!(
                !allocations.holders_of(numbered(number).address).is_empty(),
                "round {round}: {number}"
            );
        }
    }
    assert!(acknowledged.unwrap() >= 25);
}
