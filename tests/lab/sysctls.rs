//! Sysctls of a fresh network namespace, written and put back.

use std::collections::BTreeMap;

use edgelb::apply::state_directory::StateDirectory;
use edgelb::apply::sysctl::{Failure, Outcome, Sysctls};
use edgelb::lab::{Namespace, tool};
use edgelb::model::sysctl::{Rule, Sysctl};

const FORWARD: &str = "net/ipv4/ip_forward";
const ARP_IGNORE: &str = "net/ipv4/conf/all/arp_ignore";
const PORTS: &str = "net/ipv4/ip_local_port_range";
/// The kernel sets it to 0 when forwarding is switched on.
const REDIRECTS: &str = "net/ipv4/conf/all/accept_redirects";

struct Node {
    namespace: Namespace,
    directory: std::path::PathBuf,
}

impl Node {
    fn new(test: &str) -> Self {
        let namespace = Namespace::create(test).unwrap();
        let directory = std::env::temp_dir().join(format!("edgelb-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        Self {
            namespace,
            directory,
        }
    }

    /// Runs with the settings as a daemon would that has just started.
    fn run<T: Send>(&self, work: impl FnOnce(&mut Sysctls, &StateDirectory) -> T + Send) -> T {
        let started = || {
            let (state, warnings) = StateDirectory::open(&self.directory).unwrap();
            assert_eq!(warnings, []);
            let (mut sysctls, warning) = Sysctls::open(&state).unwrap();
            assert_eq!(warning, None);
            work(&mut sysctls, &state)
        };
        self.namespace.run(started).unwrap()
    }

    fn repair(&self, desired: &BTreeMap<String, Sysctl>) -> Outcome {
        self.run(|sysctls, state| sysctls.repair(state, desired).unwrap())
    }

    fn restore(&self) -> Outcome {
        self.run(|sysctls, state| sysctls.restore(state, &BTreeMap::new()).unwrap())
    }

    fn value(&self, path: &str) -> String {
        tool(&self.namespace, "cat", &[&format!("/proc/sys/{path}")])
            .unwrap()
            .trim()
            .to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn desired(values: &[(&str, &str)]) -> BTreeMap<String, Sysctl> {
    values
        .iter()
        .map(|(path, value)| ((*path).to_owned(), Sysctl::exactly(value)))
        .collect()
}

fn kinds(outcome: &Outcome) -> Vec<&str> {
    outcome.failures.iter().map(Failure::kind).collect()
}

#[test]
fn only_what_differs_is_written_and_all_of_it_is_put_back() {
    let node = Node::new("sysctls");
    node.namespace.set_sysctl(REDIRECTS, "1").unwrap();
    let ports = node.value(PORTS);
    let wanted = desired(&[
        (ARP_IGNORE, "1"),
        (FORWARD, "1"),
        (PORTS, "20000 30000"),
        (REDIRECTS, "1"),
    ]);
    let outcome = node.repair(&wanted);
    assert_eq!(kinds(&outcome), [""; 0]);
    // Redirects fitted before forwarding was written, and were reset by it.
    assert_eq!(outcome.written, [FORWARD, REDIRECTS, ARP_IGNORE, PORTS]);
    for (path, value) in [
        (FORWARD, "1"),
        (ARP_IGNORE, "1"),
        (REDIRECTS, "1"),
        (PORTS, "20000\t30000"),
    ] {
        assert_eq!(node.value(path), value, "{path}");
    }
    assert!(node.repair(&wanted).written.is_empty());

    // Somebody changes one: it is repaired, and what was first stays remembered.
    node.namespace.set_sysctl(ARP_IGNORE, "2").unwrap();
    assert_eq!(node.repair(&wanted).written, [ARP_IGNORE]);
    let outcome = node.restore();
    assert_eq!(kinds(&outcome), [""; 0]);
    for (path, value) in [
        (FORWARD, "0"),
        (ARP_IGNORE, "0"),
        (REDIRECTS, "1"),
        (PORTS, ports.as_str()),
    ] {
        assert_eq!(node.value(path), value, "{path}");
    }
    assert!(node.restore().written.is_empty());
}

#[test]
fn what_others_changed_since_is_left_alone_and_told() {
    let node = Node::new("sysctls-others");
    node.repair(&desired(&[(FORWARD, "1"), (ARP_IGNORE, "1")]));
    node.namespace.set_sysctl(ARP_IGNORE, "2").unwrap();
    let outcome = node.restore();
    assert_eq!(outcome.written, [FORWARD]);
    assert_eq!(kinds(&outcome), ["sysctl_changed_by_others"]);
    assert!(outcome.failures[0].to_string().contains(ARP_IGNORE));
    assert_eq!(node.value(ARP_IGNORE), "2");
}

#[test]
fn what_is_not_wanted_any_more_can_be_put_back_by_itself() {
    let node = Node::new("sysctls-keep");
    node.repair(&desired(&[(FORWARD, "1"), (ARP_IGNORE, "1")]));
    let keep = desired(&[(FORWARD, "1")]);
    let outcome = node.run(|sysctls, state| sysctls.restore(state, &keep).unwrap());
    assert_eq!(outcome.written, [ARP_IGNORE]);
    assert_eq!(
        (node.value(FORWARD), node.value(ARP_IGNORE)),
        ("1".to_owned(), "0".to_owned())
    );
    assert_eq!(node.restore().written, [FORWARD]);
}

#[test]
fn failures_name_the_path_and_stop_nothing() {
    let node = Node::new("sysctls-failures");
    let outcome = node.repair(&desired(&[
        ("../etc/passwd", "1"),
        ("/etc/passwd", "1"),
        ("net/ipv4/conf/eth77/arp_ignore", "1"),
        ("net/ipv4/vs_absent/conntrack", "1"),
        (ARP_IGNORE, "1"),
        (PORTS, "no ports"),
    ]));
    assert_eq!(outcome.written, [ARP_IGNORE]);
    assert_eq!(
        kinds(&outcome),
        [
            "sysctl_path",
            "sysctl_path",
            "sysctl_missing",
            "sysctl_missing",
            "sysctl_refused"
        ]
    );
    assert!(
        outcome.failures[2]
            .to_string()
            .contains("net/ipv4/conf/eth77/arp_ignore: the interface is gone")
    );
    assert_eq!(outcome.failures[4].path(), PORTS);
    // Read-only for everybody in a user namespace, and this one is always.
    let outcome = node.repair(&desired(&[("kernel/osrelease", "7")]));
    assert_eq!(kinds(&outcome), ["sysctl_not_permitted"]);
}

const MAXIMUM: &str = "net/core/somaxconn";
const FORWARD6: &str = "net/ipv6/conf/all/forwarding";

fn ruled(path: &str, rule: Rule) -> BTreeMap<String, Sysctl> {
    BTreeMap::from([(path.to_owned(), Sysctl::optionally(rule))])
}

#[test]
fn a_number_is_raised_and_never_lowered() {
    let node = Node::new("sysctls-raise");
    node.namespace.set_sysctl(MAXIMUM, "5000").unwrap();
    assert!(
        node.repair(&ruled(MAXIMUM, Rule::AtLeast(4999)))
            .written
            .is_empty()
    );
    assert!(node.restore().written.is_empty());
    assert_eq!(node.value(MAXIMUM), "5000");
    let raised = ruled(MAXIMUM, Rule::AtLeast(6000));
    assert_eq!(node.repair(&raised).written, [MAXIMUM]);
    assert_eq!(node.value(MAXIMUM), "6000");
    assert!(node.repair(&raised).written.is_empty());
    assert_eq!(node.restore().written, [MAXIMUM]);
    assert_eq!(node.value(MAXIMUM), "5000");
}

#[test]
fn optional_settings_that_are_not_there_or_not_ours_to_write_are_no_failure() {
    let node = Node::new("sysctls-optional");
    let mut wanted = ruled("net/absent/setting", Rule::Exactly("1".to_owned()));
    wanted.extend(ruled("kernel/osrelease", Rule::Exactly("7".to_owned())));
    wanted.extend(desired(&[(ARP_IGNORE, "1")]));
    let outcome = node.repair(&wanted);
    assert_eq!(kinds(&outcome), [""; 0]);
    assert_eq!(outcome.written, [ARP_IGNORE]);
    assert_eq!(outcome.absent, ["net/absent/setting"]);
    assert_eq!(kinds(&node.restore()), [""; 0]);
}

/// A router advertisement (RFC 4861, section 4.2) with a lifetime of half an hour and no options.
/// Fails as long as the link has no route for it, which it gets some time after it came up.
fn advertise(router: &Namespace, link: &str) -> std::io::Result<()> {
    let send = || -> std::io::Result<()> {
        let index = nix::net::if_::if_nametoindex(link)?;
        let kind = socket2::Type::RAW;
        let socket =
            socket2::Socket::new(socket2::Domain::IPV6, kind, Some(socket2::Protocol::ICMPV6))?;
        socket.set_multicast_hops_v6(255)?;
        socket.set_multicast_if_v6(index)?;
        let all_nodes = "ff02::1".parse().unwrap();
        let to = std::net::SocketAddrV6::new(all_nodes, 0, 0, index);
        let message = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        socket.send_to(&message, &to.into())?;
        Ok(())
    };
    router.run(send).unwrap()
}

/// The node's default route is its router's word: it must outlast that the node becomes a router.
#[test]
fn a_node_that_becomes_a_router_keeps_its_default_route() {
    const UPLINK: &str = "net/ipv6/conf/eth0/accept_ra";
    const CLOSED: &str = "net/ipv6/conf/eth1/accept_ra";
    let node = Node::new("sysctls-router");
    let neighbour = Namespace::create("sysctls-advertiser").unwrap();
    for link in ["eth0", "eth1"] {
        node.namespace.create_veth(link, &neighbour, link).unwrap();
        neighbour.set_up(link).unwrap();
    }
    node.namespace.set_sysctl(UPLINK, "1").unwrap();
    for link in ["eth0", "eth1"] {
        node.namespace.set_up(link).unwrap();
    }
    let routes = || tool(&node.namespace, "ip", &["-6", "route", "show", "default"]).unwrap();
    super::rig::eventually(super::rig::PATIENCE, || {
        let sent = advertise(&neighbour, "eth0").is_ok();
        (sent && routes().contains("proto ra")).then_some(())
    });
    let instead = |path: &str| {
        let rule = Rule::Instead {
            found: "1".to_owned(),
            value: "2".to_owned(),
            because: FORWARD6.to_owned(),
        };
        ruled(path, rule)
    };
    let mut wanted = desired(&[(FORWARD6, "1")]);
    wanted.extend(instead(UPLINK));
    wanted.extend(instead(CLOSED));
    wanted.extend(instead("net/ipv6/conf/gone/accept_ra"));
    let outcome = node.repair(&wanted);
    assert_eq!(kinds(&outcome), [""; 0]);
    assert_eq!(outcome.written, [UPLINK, FORWARD6]);
    assert!(routes().contains("proto ra"), "the route went");
    assert_eq!(
        (node.value(UPLINK), node.value(CLOSED)),
        ("2".to_owned(), "0".to_owned())
    );
    // Another run finds its own work, and an interface that appeared since.
    node.namespace
        .create_veth("eth2", &neighbour, "eth2")
        .unwrap();
    let late = "net/ipv6/conf/eth2/accept_ra";
    node.namespace.set_sysctl(late, "1").unwrap();
    wanted.extend(instead(late));
    assert_eq!(node.repair(&wanted).written, [late]);
    assert_eq!(
        node.run(|sysctls, _| sysctls.previous(FORWARD6)).as_deref(),
        Some("0")
    );
    let outcome = node.restore();
    assert_eq!(kinds(&outcome), [""; 0]);
    assert_eq!(outcome.written, [FORWARD6, UPLINK, late]);
    assert_eq!(node.value(UPLINK), "1");

    // One that was a router before takes what its interfaces are told to take.
    node.namespace.set_sysctl(FORWARD6, "1").unwrap();
    assert!(node.repair(&wanted).written.is_empty());
    assert_eq!(node.value(UPLINK), "1");
}
