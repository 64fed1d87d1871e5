//! The host's facts in a network namespace, changed by `ip` and published.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use edgelb::lab::{Namespace, tool};
use edgelb::model::host::{Host, Interface};
use edgelb::source::host::{HostSource, list};
use tokio::sync::watch;

/// A listing and the longest rest after it, several times over.
const TIME_LIMIT: Duration = Duration::from_secs(5);

fn ip(namespace: &Namespace, arguments: &str) {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    tool(namespace, "ip", &arguments).unwrap();
}

fn pair(test: &str) -> Namespace {
    let namespace = Namespace::create(test).unwrap();
    ip(
        &namespace,
        "link add eth0 address 02:00:00:00:00:01 type veth peer name eth1",
    );
    namespace
}

fn interface<'a>(host: &'a Host, name: &str) -> &'a Interface {
    host.interfaces
        .values()
        .find(|interface| interface.name == name)
        .unwrap()
}

fn addresses(host: &Host, name: &str) -> Vec<String> {
    let addresses = interface(host, name)
        .addresses
        .iter()
        .map(ToString::to_string);
    addresses
        .filter(|address| !address.starts_with("fe80"))
        .collect()
}

/// Runs `test` inside the namespace with the watch on a runtime of its own.
fn watching<F: Future<Output = ()>>(
    namespace: &Namespace,
    resolver_file: PathBuf,
    test: impl FnOnce(watch::Receiver<Host>, watch::Receiver<u64>) -> F + Send,
) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (source, receiver) = HostSource::open_with(resolver_file).unwrap();
            let listings = source.listings();
            let task = tokio::spawn(source.run());
            test(receiver, listings).await;
            // All receivers are gone, hence the task ends by itself.
            tokio::time::timeout(TIME_LIMIT, task)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
        });
    };
    namespace.run(run).unwrap();
}

async fn until(receiver: &mut watch::Receiver<Host>, what: &str, holds: impl Fn(&Host) -> bool) {
    let waited = tokio::time::timeout(TIME_LIMIT, receiver.wait_for(|host| holds(host))).await;
    drop(
        waited
            .unwrap_or_else(|_| panic!("in time: {what}"))
            .unwrap(),
    );
}

#[test]
fn a_listing_has_what_ip_made() {
    let namespace = pair("host-list");
    ip(&namespace, "link set eth0 up");
    ip(&namespace, "addr add 10.9.0.1/24 dev eth0");
    ip(&namespace, "-6 addr add 2001:db8:9::1/64 dev eth0 nodad");
    let before = namespace.run(list).unwrap().unwrap();
    let eth0 = interface(&before, "eth0");
    assert_eq!(eth0.mac, Some([2, 0, 0, 0, 0, 1]));
    assert!(!eth0.running && !eth0.loopback, "the other end is down");
    assert!(interface(&before, "lo").loopback && interface(&before, "lo").running);
    assert_eq!(interface(&before, "lo").index, 1);
    ip(&namespace, "link set eth1 up");
    ip(&namespace, "route add default via 10.9.0.254");
    ip(
        &namespace,
        "route add 10.50.0.0/16 nexthop via 10.9.0.252 nexthop via 10.9.0.253",
    );
    ip(&namespace, "-6 route add default via 2001:db8:9::fe");
    ip(&namespace, "route add 10.60.0.0/16 via 10.9.0.251 table 77");
    ip(
        &namespace,
        "route add 10.70.0.0/16 via inet6 2001:db8:9::fd",
    );
    // The kernel tells carrier when its own worker has looked.
    let after = super::rig::eventually(super::rig::PATIENCE, || {
        let host = namespace.run(list).unwrap().unwrap();
        interface(&host, "eth0").running.then_some(host)
    });
    assert_eq!(
        addresses(&after, "eth0"),
        ["10.9.0.1/24", "2001:db8:9::1/64"]
    );
    assert_eq!(addresses(&after, "lo"), ["127.0.0.1/8", "::1/128"]);
    for (address, expected) in [
        ("10.9.0.254", true),
        ("10.9.0.252", true),
        ("10.9.0.253", true),
        ("2001:db8:9::fe", true),
        ("2001:db8:9::fd", true),
        ("10.9.0.251", false),
    ] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(
            after.infrastructure.contains(&address),
            expected,
            "{address}"
        );
    }
}

#[test]
fn an_address_in_duplicate_address_detection_is_left_out_until_it_is_over() {
    let namespace = pair("host-dad");
    for name in ["eth0", "eth1"] {
        namespace
            .set_sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "1")
            .unwrap();
        ip(&namespace, &format!("link set {name} up"));
    }
    ip(&namespace, "-6 addr add 2001:db8:9::1/64 dev eth0");
    let during = namespace.run(list).unwrap().unwrap();
    assert!(addresses(&during, "eth0").is_empty());
    watching(
        &namespace,
        "/nonexistent".into(),
        |mut receiver, _| async move {
            let there = |host: &Host| addresses(host, "eth0") == ["2001:db8:9::1/64"];
            until(&mut receiver, "the address after detection", there).await;
        },
    );
}

#[test]
fn changes_are_published_as_they_happen() {
    let namespace = pair("host-watch");
    let resolver_file = std::env::temp_dir().join(format!("edgelb-resolv-{}", std::process::id()));
    std::fs::write(&resolver_file, "nameserver 192.0.2.53\n").unwrap();
    let node = namespace.clone();
    watching(
        &namespace,
        resolver_file.clone(),
        |mut receiver, _| async move {
            let name_server: IpAddr = "192.0.2.53".parse().unwrap();
            assert_eq!(receiver.borrow().infrastructure, [name_server]);
            let receiver = &mut receiver;
            ip(&node, "link set eth0 up");
            ip(&node, "link set eth1 up");
            until(receiver, "carrier", |host| interface(host, "eth0").running).await;
            ip(&node, "addr add 10.9.0.1/24 dev eth0");
            until(receiver, "an address", |host| {
                addresses(host, "eth0") == ["10.9.0.1/24"]
            })
            .await;
            ip(&node, "route add default via 10.9.0.254");
            until(receiver, "a gateway", |host| host.infrastructure.len() == 2).await;
            ip(&node, "-6 addr add 2001:db8:9::1/64 dev eth0 nodad");
            until(receiver, "an IPv6 address", |host| {
                addresses(host, "eth0").len() == 2
            })
            .await;
            ip(&node, "-6 route add default via 2001:db8:9::fe");
            until(receiver, "an IPv6 gateway", |host| {
                host.infrastructure.len() == 3
            })
            .await;
            ip(&node, "route del default via 10.9.0.254");
            until(receiver, "a gateway less", |host| {
                host.infrastructure.len() == 2
            })
            .await;
            ip(&node, "link set eth1 down");
            until(receiver, "no carrier", |host| {
                !interface(host, "eth0").running
            })
            .await;
            ip(&node, "link del eth0");
            until(receiver, "no interface", |host| host.interfaces.len() == 1).await;
        },
    );
    std::fs::remove_file(resolver_file).unwrap();
}

#[test]
fn our_own_routes_by_the_thousand_cause_no_listing() {
    let namespace = pair("host-routes");
    let node = namespace.clone();
    watching(
        &namespace,
        "/nonexistent".into(),
        |mut receiver, mut listings| async move {
            let batch: Vec<String> = (0..10_000)
                .map(|host| {
                    format!(
                        "route add local 198.18.{}.{}/32 dev lo table local proto 225\n",
                        host / 250,
                        host % 250
                    )
                })
                .collect();
            let file = std::env::temp_dir().join(format!("edgelb-batch-{}", std::process::id()));
            std::fs::write(&file, batch.concat()).unwrap();
            // What came before, from the making of the links, is over when it is quiet for a while.
            while let Ok(changed) =
                tokio::time::timeout(Duration::from_millis(300), listings.changed()).await
            {
                changed.unwrap();
            }
            let before = *listings.borrow_and_update();
            let (elsewhere, path) = (node.clone(), file.clone());
            let add = move || ip(&elsewhere, &format!("-batch {}", path.display()));
            tokio::task::spawn_blocking(add).await.unwrap();
            std::fs::remove_file(file).unwrap();
            // A change that does count comes after them all in the queue.
            ip(&node, "addr add 10.9.0.1/24 dev eth0");
            until(&mut receiver, "the address", |host| {
                addresses(host, "eth0") == ["10.9.0.1/24"]
            })
            .await;
            let more = *listings.borrow() - before;
            assert!(more <= 1, "{more} listings");
        },
    );
}

#[test]
fn a_flood_of_changes_ends_in_the_truth() {
    let namespace = pair("host-flood");
    ip(&namespace, "link set eth0 up");
    ip(&namespace, "addr add 10.9.0.1/24 dev eth0");
    let node = namespace.clone();
    watching(
        &namespace,
        "/nonexistent".into(),
        |mut receiver, mut listings| async move {
            let batch: Vec<String> = (0..3_000)
                .flat_map(|round| {
                    let address = format!("10.8.{}.{}/32 dev eth0", round / 250, round % 250);
                    [
                        format!("addr add {address}\n"),
                        format!("addr del {address}\n"),
                    ]
                })
                .chain(["addr add 10.8.200.1/32 dev eth0\n".to_owned()])
                .collect();
            let file = std::env::temp_dir().join(format!("edgelb-flood-{}", std::process::id()));
            std::fs::write(&file, batch.concat()).unwrap();
            let before = *listings.borrow_and_update();
            let (elsewhere, path) = (node.clone(), file.clone());
            let add = move || ip(&elsewhere, &format!("-batch {}", path.display()));
            tokio::task::spawn_blocking(add).await.unwrap();
            std::fs::remove_file(file).unwrap();
            let expected = ["10.9.0.1/24", "10.8.200.1/32"];
            until(&mut receiver, "the last address", |host| {
                addresses(host, "eth0") == expected
            })
            .await;
            let more = *listings.borrow() - before;
            assert!(more < 300, "{more} listings for 6,000 changes");
        },
    );
}
