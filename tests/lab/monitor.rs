//! Foreign edits made by `nft` and `ip` are noticed at once, our own never.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use edgelb::apply::forwarder::Forwarder;
use edgelb::apply::monitor::{ForeignEdits, Monitor};
use edgelb::apply::nftables::{Layout, Nftables};
use edgelb::apply::route::Routes;
use edgelb::lab::{Namespace, tool};
use edgelb::model::family::Family;
use edgelb::model::node_state::{HeldFor, NodeState};
use tokio::sync::watch;

const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Far below any resync, and far above what a loaded or emulated machine needs.
const NOTICE_LIMIT: Duration = Duration::from_secs(2);

/// A node with all our objects, watched.
struct Watched {
    node: Namespace,
    nftables: Nftables,
    routes: Routes,
    state: NodeState,
    receiver: watch::Receiver<ForeignEdits>,
}

impl Watched {
    /// Runs a program by somebody else, then waits until something is told of it.
    async fn edit(&mut self, program: &str, arguments: &str) -> ForeignEdits {
        let before = *self.receiver.borrow_and_update();
        let words: Vec<&str> = arguments.split_whitespace().collect();
        tool(&self.node, program, &words).unwrap();
        let ended = Instant::now();
        let changed = tokio::time::timeout(TIME_LIMIT, self.receiver.changed()).await;
        changed
            .unwrap_or_else(|_| panic!("never told: {program} {arguments}"))
            .unwrap();
        let elapsed = ended.elapsed();
        assert!(elapsed < NOTICE_LIMIT, "{program} {arguments}: {elapsed:?}");
        self.settle().await;
        let after = *self.receiver.borrow_and_update();
        ForeignEdits {
            tables: after.tables - before.tables,
            routes: after.routes - before.routes,
            fences: after.fences - before.fences,
        }
    }

    async fn edits_table(&mut self, program: &str, arguments: &str) {
        let edits = self.edit(program, arguments).await;
        assert!(
            edits.tables > 0 && edits.routes == 0,
            "{program} {arguments}: {edits:?}"
        );
        let changes = self.nftables.repair(&self.state).unwrap();
        assert!(
            changes.rebuilt || changes.added > 0 || changes.removed > 0,
            "{program} {arguments}: {changes:?}"
        );
    }

    async fn edits_route(&mut self, program: &str, arguments: &str) {
        let edits = self.edit(program, arguments).await;
        assert!(
            edits.routes > 0 && edits.tables == 0,
            "{program} {arguments}: {edits:?}"
        );
        let outcome = self.routes.repair(&self.state).unwrap();
        assert!(
            outcome.added + outcome.replaced + outcome.removed > 0,
            "{program} {arguments}: {outcome:?}"
        );
        assert!(outcome.failures.is_empty(), "{outcome:?}");
    }

    /// Lets the monitor read all that the kernel has queued: it shares this thread's runtime, and
    /// the kernel queues within the system call that changes.
    async fn settle(&mut self) {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }
}

fn watched<F: Future<Output = ()>>(held: usize, test: impl FnOnce(Watched) -> F + Send) {
    let node = Namespace::create("monitor").unwrap();
    let ip = |arguments: &str| {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        tool(&node, "ip", &words).unwrap();
    };
    ip("link add eth0 type veth peer name eth1");
    ip("link set eth0 up");
    ip("addr add 10.9.0.1/24 dev eth0");
    let source: IpAddr = "10.9.0.1".parse().unwrap();
    let held = (0..held).map(|host| {
        (
            format!("198.18.{}.{}", host / 250, host % 250),
            HeldFor::Vip,
        )
    });
    let held = held.chain([("2001:db8::1".to_owned(), HeldFor::Vip)]);
    let state = NodeState {
        held: held
            .map(|(address, held)| (address.parse::<IpAddr>().unwrap(), held))
            .collect(),
        preferred_source: [(Family::V4, source)].into(),
        ..NodeState::default()
    };
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut nftables, mut routes) = (
                Nftables::open(Layout::new(Forwarder::Nftables)).unwrap(),
                Routes::open().unwrap(),
            );
            let (monitor, receiver) = Monitor::open(&[nftables.port(), routes.port()]).unwrap();
            let task = tokio::spawn(monitor.run());
            nftables.repair(&state).unwrap();
            routes.repair(&state).unwrap();
            test(Watched {
                node: node.clone(),
                nftables,
                routes,
                state,
                receiver,
            })
            .await;
            tokio::time::timeout(TIME_LIMIT, task)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
        });
    };
    node.run(run).unwrap();
}

#[test]
fn edits_of_our_tables_are_noticed() {
    watched(3, |mut watched| async move {
        for command in [
            "flush ruleset",
            "delete table inet edgelb",
            "flush table inet edgelb",
        ] {
            watched.edits_table("nft", command).await;
        }
        let listing = tool(&watched.node, "nft", &["list", "table", "inet", "edgelb"]).unwrap();
        // `set NAME {` of the set that holds the first address.
        let (before, _) = listing.split_once("198.18.0.0").unwrap();
        let (_, set) = before.rsplit_once("set ").unwrap();
        let set = set.split_whitespace().next().unwrap();
        let element = format!("delete element inet edgelb {set} {{ 198.18.0.0 }}");
        watched.edits_table("nft", &element).await;
        watched
            .edits_table(
                "nft",
                &format!("add element inet edgelb {set} {{ 203.0.113.9 }}"),
            )
            .await;
        watched
            .edits_table("nft", &format!("flush set inet edgelb {set}"))
            .await;
    });
}

#[test]
fn losses_of_our_routes_are_noticed() {
    watched(3, |mut watched| async move {
        for command in [
            "route flush table local proto 225",
            "-6 route flush table local proto 225",
            "route del local 198.18.0.1 table local",
            "route replace local 198.18.0.1 dev lo table local proto 225",
            "link set lo down",
        ] {
            watched.edits_route("ip", command).await;
        }
        // The kernel takes the routes whose source it was.
        let edits = watched.edit("ip", "addr del 10.9.0.1/24 dev eth0").await;
        assert!(edits.routes > 0, "{edits:?}");
    });
}

#[test]
fn our_own_and_unrelated_changes_are_not_told() {
    watched(10_000, |mut watched| async move {
        let empty = NodeState::default();
        watched.nftables.apply(&watched.state, &empty).unwrap();
        watched.routes.apply(&watched.state, &empty).unwrap();
        watched.nftables.remove().unwrap();
        let run = |program: &str, arguments: &str| {
            let words: Vec<&str> = arguments.split_whitespace().collect();
            tool(&watched.node, program, &words).unwrap();
        };
        run("nft", "add table inet other");
        run("nft", "add chain inet other edgelb");
        run("nft", "delete table inet other");
        run("ip", "addr add 10.9.0.2/24 dev eth0");
        run("ip", "route add 10.50.0.0/16 via 10.9.0.254");
        run("ip", "route del 10.50.0.0/16");
        run("ip", "link set eth1 up");
        watched.settle().await;
        assert_eq!(*watched.receiver.borrow(), ForeignEdits::default());
        // The monitor does live.
        let edits = watched.edit("nft", "add table inet edgelb").await;
        assert_eq!(
            edits,
            ForeignEdits {
                tables: 1,
                ..ForeignEdits::default()
            }
        );
    });
}

#[test]
fn lost_notifications_count_as_edits_of_everything() {
    watched(1, |mut watched| async move {
        // Nobody reads meanwhile: `ip` keeps this thread, which is the monitor's too.
        let batch: Vec<String> = (0..40_000)
            .map(|host| format!("203.0.{}.{}", host / 250, host % 250))
            .map(|address| format!("route add local {address} dev lo table local proto 225\n"))
            .collect();
        let file = std::env::temp_dir().join(format!("edgelb-overrun-{}", std::process::id()));
        std::fs::write(&file, batch.concat()).unwrap();
        let edits = watched
            .edit("ip", &format!("-batch {}", file.display()))
            .await;
        std::fs::remove_file(file).unwrap();
        assert!(edits.tables > 0 && edits.routes > 0, "{edits:?}");
        let outcome = watched.routes.repair(&watched.state).unwrap();
        assert_eq!(outcome.removed, 40_000, "{:?}", outcome.failures);
        // What was lost does not make it deaf.
        watched.edits_table("nft", "delete table inet edgelb").await;
    });
}
