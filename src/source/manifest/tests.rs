//! What files say together, and in time; without a file system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::parse::parse;
use super::state::{Content, GRACE, ManifestState};
use crate::model::cluster::{ClusterChange, ClusterState};
use crate::source::SourceProblem;

pub(super) const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.96.0.10\n  ports:\n  - port: 80\n";
pub(super) const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  labels: {kubernetes.io/service-name: web}\naddressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.244.1.2]}]\n";
pub(super) const ENDPOINTS: &str = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 80}]}]\n";

/// A state, a clock, and the cluster that the changes lead to.
struct Rig {
    state: ManifestState,
    cluster: ClusterState,
    now: Instant,
    changes: usize,
}

impl Rig {
    fn new() -> Self {
        Self {
            state: ManifestState::default(),
            cluster: ClusterState::default(),
            now: Instant::now(),
            changes: 0,
        }
    }

    fn apply(&mut self, changes: Vec<ClusterChange>) -> Vec<ClusterChange> {
        self.changes += changes.len();
        for change in changes.clone() {
            assert!(
                !self.cluster.apply(change.clone()).is_empty(),
                "every change changes something: {change:?}"
            );
        }
        changes
    }

    fn put(&mut self, file: &str, text: &str) -> Vec<ClusterChange> {
        self.content(file, Content::Bytes(text.as_bytes().to_vec()))
    }

    fn content(&mut self, file: &str, content: Content) -> Vec<ClusterChange> {
        let changes = self.state.update([(file.to_owned(), content)], self.now);
        self.apply(changes)
    }

    fn pass(&mut self, time: Duration) -> Vec<ClusterChange> {
        self.now += time;
        let changes = self.state.expire(self.now, &BTreeSet::new());
        self.apply(changes)
    }

    fn services(&self) -> Vec<String> {
        self.cluster
            .services
            .keys()
            .map(ToString::to_string)
            .collect()
    }

    fn slices(&self) -> Vec<String> {
        self.cluster
            .slices
            .keys()
            .map(ToString::to_string)
            .collect()
    }

    fn web_address(&self) -> String {
        let service = self.cluster.services.values().next().expect("a Service");
        service.cluster_ips[0].to_string()
    }

    fn problems(&self) -> Vec<SourceProblem> {
        self.state.problems()
    }
}

fn with_address(address: &str) -> String {
    WEB.replace("10.96.0.10", address)
}

#[test]
fn a_broken_file_keeps_its_last_good_objects_as_a_whole() {
    let mut rig = Rig::new();
    let good = format!("{WEB}---\n{SLICE}");
    assert_eq!(rig.put("a.yaml", &good).len(), 2);
    for broken in [
        "",
        &good[..40],
        "kind: Service",
        "\u{0}",
        "a: [",
        &format!("{}---\nx", with_address("10.96.0.11")),
    ] {
        assert_eq!(rig.put("a.yaml", broken), [], "{broken:?}");
        let problems = rig.problems();
        if !broken.is_empty() {
            assert!(
                !problems.is_empty() && problems.iter().all(|problem| problem.keeps_last_good),
                "{broken:?} {problems:?}"
            );
        }
    }
    assert_eq!(rig.put("a.yaml", &good), [], "the same again");
    assert_eq!(rig.problems(), []);
    assert_eq!(
        rig.put("a.yaml", &with_address("10.96.0.12")).len(),
        2,
        "one changes, one goes"
    );
    assert_eq!(
        (rig.web_address().as_str(), rig.slices().len()),
        ("10.96.0.12", 0)
    );
}

#[test]
fn a_file_that_was_never_good_gives_what_it_can() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.put("a.yaml", &format!("{WEB}---\nbroken: [\n")).len(),
        1
    );
    assert!(!rig.problems()[0].keeps_last_good);
    assert_eq!(
        rig.put(
            "a.yaml",
            &format!("{}---\nbroken: [\n", with_address("10.96.0.11"))
        )
        .len(),
        1
    );
    assert_eq!(
        rig.web_address(),
        "10.96.0.11",
        "and follows what can be read"
    );
    assert_eq!(rig.put("a.yaml", "broken: ["), [], "but loses nothing");
    assert_eq!(rig.put("a.yaml", SLICE).len(), 2);
    assert_eq!(rig.services(), [""; 0]);
}

#[test]
fn a_file_that_comes_back_in_time_was_never_gone() {
    for away in [
        Content::Gone,
        Content::Bytes(Vec::new()),
        Content::Bytes(b"# empty\n".to_vec()),
    ] {
        let mut rig = Rig::new();
        rig.put("a.yaml", WEB);
        assert_eq!(rig.content("a.yaml", away.clone()), []);
        assert_eq!(
            rig.state.next_expiry(&BTreeSet::new()),
            Some(rig.now + GRACE)
        );
        assert_eq!(rig.pass(GRACE / 2), []);
        assert_eq!(rig.put("a.yaml", WEB), []);
        assert_eq!(rig.pass(GRACE * 2), []);
        assert_eq!(rig.content("a.yaml", away), []);
        assert_eq!(rig.pass(GRACE).len(), 1);
        assert!(rig.state.is_empty());
        assert_eq!(rig.state.next_expiry(&BTreeSet::new()), None);
    }
}

#[test]
fn a_file_that_is_being_written_again_does_not_expire() {
    let mut rig = Rig::new();
    rig.put("a.yaml", WEB);
    rig.content("a.yaml", Content::Gone);
    let written = BTreeSet::from(["a.yaml".to_owned()]);
    assert_eq!(rig.state.expire(rig.now + GRACE * 3, &written), []);
    assert_eq!(rig.state.next_expiry(&written), None);
}

#[test]
fn an_unreadable_file_keeps_its_objects_for_good() {
    let mut rig = Rig::new();
    rig.put("a.yaml", WEB);
    assert_eq!(rig.content("a.yaml", Content::Gone), []);
    assert_eq!(
        rig.content("a.yaml", Content::Unreadable("no".to_owned())),
        []
    );
    assert_eq!(rig.pass(GRACE * 100), []);
    assert!(rig.problems()[0].keeps_last_good);
    assert_eq!(rig.services(), ["default/web"]);
}

#[test]
fn no_new_file_takes_an_object_over() {
    let mut rig = Rig::new();
    rig.put("b.yaml", WEB);
    assert_eq!(rig.problems(), []);
    rig.put("a.yaml", &with_address("10.96.0.11"));
    assert_eq!(rig.web_address(), "10.96.0.10");
    let problems = rig.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        (problems[0].file.as_str(), problems[0].line),
        ("a.yaml", Some(1))
    );
    assert!(
        problems[0]
            .message
            .contains("Service default/web is in force from b.yaml"),
        "{problems:?}"
    );
    let changes = rig.content("b.yaml", Content::Gone);
    assert_eq!(
        changes.len(),
        1,
        "the other file takes over at once: {changes:?}"
    );
    assert_eq!(rig.web_address(), "10.96.0.11");
    assert_eq!(rig.problems(), []);
    assert_eq!(rig.pass(GRACE), [], "nothing was lost with it");
    // Of files that appear together the first by name counts.
    let mut rig = Rig::new();
    let both = [
        ("b.yaml".to_owned(), Content::Bytes(WEB.as_bytes().to_vec())),
        (
            "a.yaml".to_owned(),
            Content::Bytes(with_address("10.96.0.11").into_bytes()),
        ),
    ];
    rig.state.update(both, rig.now);
    assert!(rig.problems()[0].file == "b.yaml", "{:?}", rig.problems());

    let twice = parse("c.yaml", format!("{WEB}---\n{WEB}").as_bytes());
    assert!(!twice.broken);
    assert_eq!(twice.problems[0].line, Some(9));
}

#[test]
fn a_file_renamed_is_no_change() {
    let mut rig = Rig::new();
    rig.put("a.yaml", WEB);
    let before = rig.changes;
    let moved = [
        ("a.yaml".to_owned(), Content::Gone),
        ("b.yaml".to_owned(), Content::Bytes(WEB.as_bytes().to_vec())),
    ];
    assert_eq!(rig.state.update(moved, rig.now), []);
    assert_eq!(rig.pass(GRACE), []);
    assert_eq!(rig.changes, before);
}

#[test]
fn endpoints_count_where_no_slice_is() {
    let mut rig = Rig::new();
    rig.put("a.yaml", ENDPOINTS);
    assert_eq!(rig.slices(), ["default/web-endpoints-0-IPv4"]);
    rig.put("b.yaml", SLICE);
    assert_eq!(rig.slices(), ["default/web-1"]);
    assert_eq!(
        rig.state.ignored(),
        ["Endpoints default/web: the Service has EndpointSlices of its own"]
    );
    let other = SLICE.replace("service-name: web", "service-name: shop");
    let changes = rig.put("b.yaml", &other);
    assert!(
        !changes
            .iter()
            .any(|change| matches!(change, ClusterChange::SliceGone(_))),
        "{changes:?}"
    );
    assert_eq!(
        rig.slices(),
        ["default/web-1", "default/web-endpoints-0-IPv4"]
    );
    rig.content("a.yaml", Content::Gone);
    rig.pass(GRACE);
    assert_eq!(rig.slices(), ["default/web-1"]);
}

#[test]
fn a_service_that_becomes_headless_goes() {
    let mut rig = Rig::new();
    rig.put("a.yaml", WEB);
    let changes = rig.put("a.yaml", &with_address("None"));
    assert!(
        matches!(changes.as_slice(), [ClusterChange::ServiceGone(_)]),
        "{changes:?}"
    );
    assert_eq!(rig.state.ignored().len(), 1);
    assert_eq!(rig.put("a.yaml", WEB).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for name in ["a.yaml", "a.json"] {
            let parsed = parse(name, &bytes);
            prop_assert!(!parsed.problems.iter().any(|problem| problem.message.contains("bug in edgelb")));
        }
    }

    #[test]
    fn mutated_manifests_never_panic_nor_take_another_file_down(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = format!("{WEB}---\n{SLICE}---\n{ENDPOINTS}").into_bytes();
        for (index, byte, kind) in edits {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        bytes.truncate(cut.index(bytes.len() * 2));
        let parsed = parse("z.yaml", &bytes);
        prop_assert!(!parsed.problems.iter().any(|problem| problem.message.contains("bug in edgelb")));

        let mut rig = Rig::new();
        rig.put("a.yaml", WEB);
        rig.content("z.yaml", Content::Bytes(bytes));
        prop_assert_eq!(rig.cluster.services.get(&crate::model::service::ServiceKey::new("default", "web")).map(|service| service.cluster_ips.len()), Some(1));
        prop_assert_eq!(ClusterState::default(), {
            rig.content("z.yaml", Content::Gone);
            rig.content("a.yaml", Content::Gone);
            rig.pass(GRACE);
            rig.cluster
        });
    }
}

#[test]
fn namespaces_come_change_and_go_with_their_files() {
    let text = |team: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {{team: {team}}}\n"
        )
    };
    let mut rig = Rig::new();
    assert_eq!(rig.put("a.yaml", &text("web")).len(), 1);
    assert_eq!(
        rig.put("b.yaml", &text("data")),
        [],
        "the first file counts"
    );
    let [problem] = &rig.problems()[..] else {
        panic!("{:?}", rig.problems());
    };
    assert!(
        problem
            .message
            .starts_with("Namespace shop is in force from a.yaml")
    );
    let team = |rig: &Rig| rig.cluster.namespaces["shop"].labels["team"].clone();
    assert_eq!(team(&rig), "web");
    assert_eq!(rig.state.everything().len(), 1);
    rig.content("a.yaml", Content::Gone);
    assert_eq!(team(&rig), "data", "the other one steps in");
    rig.put("b.yaml", &text("front"));
    assert_eq!(team(&rig), "front");
    rig.content("b.yaml", Content::Gone);
    rig.pass(GRACE);
    assert!(rig.cluster.namespaces.is_empty());
    // It lives in no namespace itself.
    let misplaced = text("web").replace("  name: shop", "  name: shop\n  namespace: other");
    rig.put("c.yaml", &misplaced);
    assert!(rig.cluster.namespaces.contains_key("shop"));
}
