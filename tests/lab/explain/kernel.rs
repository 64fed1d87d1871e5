//! A kernel that is not as planned: what somebody took away or put there is named.

use std::net::IpAddr;
use std::sync::Arc;

use edgelb::apply::forwarder::Forwarder;
use edgelb::apply::inspect::{Wanted, inspect};
use edgelb::apply::nftables::{Layout, Nftables};
use edgelb::apply::route::Routes;
use edgelb::lab::{Namespace, tool};
use edgelb::model::family::Protocol as Transport;
use edgelb::model::frontend::{
    ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, Treatment, Verdict,
};
use edgelb::model::node_state::{HeldFor, NodeState};
use edgelb::model::observation::Difference;
use edgelb::model::scheduler::Scheduler;
use edgelb::model::service::ServiceKey;

use super::*;
use crate::rig::{ipvs, socket, web};

fn vip() -> IpAddr {
    "192.0.2.200".parse().unwrap()
}

fn port() -> FrontendPort {
    FrontendPort {
        address: FrontendAddress::Address(vip()),
        protocol: Transport::Tcp,
        port: 80,
    }
}

/// A VIP with two endpoints, which one range may ask.
fn state() -> NodeState {
    let real_servers: Vec<RealServer> = ["10.244.1.2", "10.244.2.2"]
        .map(|address| RealServer {
            address: address.parse().unwrap(),
            port: 8080,
        })
        .to_vec();
    let treatment = Treatment {
        verdict: Verdict::Forward(real_servers.into()),
        masquerade: true,
    };
    let frontend = Frontend {
        service: ServiceKey::new("default", "web"),
        treatments: std::array::from_fn(|_| treatment.clone()),
        session_affinity: None,
        scheduler: Scheduler::Rr,
        allowed_sources: Some(vec!["192.0.2.0/24".parse().unwrap()].into()),
        keeps: Arc::default(),
        forwarding_method: ForwardingMethod::Masquerade,
    };
    let mut state = NodeState::default();
    state.frontends.insert(port(), Arc::new(frontend));
    state.held.insert(vip(), HeldFor::Vip);
    state.pod_ranges.insert("10.244.0.0/16".parse().unwrap());
    state
}

fn differences(state: &NodeState, from: &str) -> Vec<Difference> {
    let wanted = Wanted {
        frontends: vec![(port(), None)],
        from: Some(from.parse().unwrap()),
        ..Wanted::default()
    };
    let observation = inspect(Forwarder::Nftables, state, &wanted);
    assert_eq!(observation.unread, [""; 0]);
    let mut differences = observation.differences;
    let frontend = observation.frontends.get(&port()).unwrap();
    differences.extend(frontend.differences.iter().cloned());
    differences
}

/// Each edit by another hand is named in the words of that hand, and nothing else is.
#[test]
fn what_others_changed_is_named() {
    let namespace = Namespace::create("node").unwrap();
    let node = namespace.clone();
    let test = move || {
        let state = state();
        let mut table = Nftables::open(Layout::new(Forwarder::Nftables)).unwrap();
        let mut routes = Routes::open().unwrap();
        let mut repair = || {
            table.repair(&state).unwrap();
            routes.repair(&state).unwrap();
        };
        let run = |command: &str| {
            let words: Vec<&str> = command.split(' ').collect();
            tool(&node, words[0], &words[1..]).unwrap();
        };
        let changes = [
            (
                "nft delete element inet edgelb endpoints4 { 192.0.2.200 . tcp . 80 . 0x00000001 }",
                "element inet edgelb endpoints4 { 192.0.2.200 . tcp . 80 . 0x00000001 : 10.244.2.2 . 8080 }",
                "is missing",
            ),
            (
                "nft delete element inet edgelb frontends4 { 192.0.2.200 . tcp . 80 }",
                "element inet edgelb frontends4 { 192.0.2.200 . tcp . 80 : goto pick4_2 }",
                "is missing",
            ),
            (
                "nft add element inet edgelb closed4 { 192.0.2.200 . tcp . 80 : drop }",
                "element inet edgelb closed4 { 192.0.2.200 . tcp . 80 : drop }",
                "is there and not planned",
            ),
            (
                "nft delete element inet edgelb masquerade4 { 192.0.2.200 . tcp . 80 }",
                "element inet edgelb masquerade4 { 192.0.2.200 . tcp . 80 : goto masquerade_all }",
                "is missing",
            ),
            (
                "nft delete element inet edgelb allowed4 { 192.0.2.200 . tcp . 80 . 192.0.2.0/24 }",
                "element inet edgelb allowed4 { 192.0.2.200 . tcp . 80 . 192.0.2.0-192.0.2.255 }",
                "is missing",
            ),
            (
                "nft delete element inet edgelb held4 { 192.0.2.200 }",
                "element inet edgelb held4 { 192.0.2.200 }",
                "is missing",
            ),
            (
                "nft delete element inet edgelb pod_ranges4 { 10.244.0.0/16 }",
                "set inet edgelb pod_ranges4",
                "lacks elements",
            ),
            (
                "nft flush chain inet edgelb prerouting",
                "chain inet edgelb prerouting",
                "lacks the rule \"connections to frontends are counted\"",
            ),
            (
                "nft insert rule inet edgelb guard ip daddr 192.0.2.200 drop",
                "chain inet edgelb guard",
                "has a rule that is not ours",
            ),
            (
                "nft delete table inet edgelb",
                "table inet edgelb",
                "is missing",
            ),
            (
                "ip route del local 192.0.2.200 table local",
                "route for 192.0.2.200 in table local",
                "is missing",
            ),
            (
                "ip route replace blackhole 192.0.2.200 table local",
                "route for 192.0.2.200 in table local",
                "refuses packets",
            ),
        ];
        for (change, object, problem) in changes {
            repair();
            assert_eq!(differences(&state, "192.0.2.50"), [], "before {object}");
            run(change);
            let found = differences(&state, "192.0.2.50");
            let named = found
                .iter()
                .any(|it| it.object == object && it.problem.contains(problem));
            assert!(named, "{object} {problem}: {found:#?}");
            // With the table goes all that was in it.
            assert!(
                found.len() == 1 || object.starts_with("table"),
                "{found:#?}"
            );
        }
        run("ip route del blackhole 192.0.2.200 table local");
        repair();
        // A range that somebody else let in is seen by whom it lets in.
        run("nft add element inet edgelb allowed4 { 192.0.2.200 . tcp . 80 . 203.0.113.0/24 }");
        assert_eq!(differences(&state, "192.0.2.50"), []);
        let found = differences(&state, "203.0.113.9");
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].problem, "is there and not planned");
        assert!(
            found[0].object.contains("203.0.113.0-203.0.113.255"),
            "{found:#?}"
        );
    };
    namespace.run(test).unwrap();
}

/// A route that somebody else put over ours stays until it is taken away: the node itself gets nothing
/// then, nor does anybody where IPVS forwards, and the daemon says so.
#[test]
fn a_foreign_route_is_named_while_it_stands() {
    let rig = Rig::new(1, 2);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, _) = rig.vip("web");
    let to = socket(vip, 80);
    let node = rig.lab.node(0).unwrap().address.ipv4.into();
    served(&rig, 0, rig.node(0), node, to);
    let address = vip.to_string();
    let words = ["route", "replace", "blackhole", &address, "table", "local"];
    tool(rig.node(0), "ip", &words).unwrap();
    let told = eventually(PATIENCE, || {
        let told = explain(&rig, 0, &tcp(to), Some(node));
        (told.exit == 1 && told.answer().contains("is not ours")).then_some(told)
    });
    assert!(request(rig.node(0), to, TCP).is_err());
    if ipvs() {
        assert!(request(rig.client(), to, TCP).is_err());
    }
    let words = format!("may not be served: in this node's kernel, route for {address}");
    assert!(told.verdict().contains(&words), "{}", told.verdict());
    let remedy = told.json["differences"][0]["remedy"].as_str().unwrap();
    assert!(remedy.contains("ip route del local"), "{remedy}");
    let whole = explain(&rig, 0, "default/web", None);
    assert_eq!(whole.exit, 1);
    assert!(
        whole.verdict().contains(&format!("route for {address}")),
        "{}",
        whole.verdict()
    );

    let words = ["route", "del", "blackhole", &address, "table", "local"];
    tool(rig.node(0), "ip", &words).unwrap();
    // A failure is tried again with back-off, up to half a minute.
    eventually(std::time::Duration::from_secs(40), || {
        (explain(&rig, 0, &tcp(to), Some(node)).exit == 0).then_some(())
    });
    served(&rig, 0, rig.node(0), node, to);
}

/// IPVS tells nobody of edits: what another hand changed stands until the next resync, and is told.
#[test]
fn edits_of_virtual_servers_are_named() {
    let configuration = toml::toml! {
        [proxy]
        resync_interval = "20s"
    };
    let rig = Rig::with(1, 2, configuration);
    rig.serve(&web("web", 82), &rig.workloads());
    let (vip, _) = rig.vip("web");
    let (to, client) = (socket(vip, 80), rig.client_address());
    let told = served(&rig, 0, rig.client(), client, to);
    let way = &told.frontend()["way"];
    if !ipvs() {
        // There is none: the chain that chooses is named.
        assert_eq!(way["chain"]["map"], "frontends4");
        let chain = way["chain"]["chain"].as_str().unwrap().to_owned();
        tool(
            rig.node(0),
            "nft",
            &["list", "chain", "inet", "edgelb", &chain],
        )
        .unwrap();
        return;
    }
    let server = to.to_string();
    assert_eq!(way["virtual_server"]["name"], format!("TCP {server}"));
    assert_eq!(way["virtual_server"]["scheduler"], "rr");
    let real_server = format!("{}:8080", rig.workload("web-1").address.ipv4);
    let ipvsadm = |words: &[&str]| tool(rig.node(0), "ipvsadm", words).unwrap();
    for (words, object, problem) in [
        (
            &["-e", "-t", &server, "-r", &real_server, "-m", "-w", "0"][..],
            format!("virtual server TCP {server} real server {real_server}"),
            "has the weight 0 and not 1",
        ),
        (
            &["-d", "-t", &server, "-r", &real_server],
            format!("virtual server TCP {server} real server {real_server}"),
            "is missing",
        ),
        (
            &["-E", "-t", &server, "-s", "wlc"],
            format!("virtual server TCP {server}"),
            "has the scheduler wlc and not rr",
        ),
        (
            &["-D", "-t", &server],
            format!("virtual server TCP {server}"),
            "is missing",
        ),
    ] {
        eventually(std::time::Duration::from_secs(60), || {
            (explain(&rig, 0, &tcp(to), Some(client)).exit == 0).then_some(())
        });
        ipvsadm(words);
        let told = explain(&rig, 0, &tcp(to), Some(client));
        assert_eq!(told.exit, 1, "{:#}", told.json);
        let differences = told.json["differences"].as_array().unwrap();
        let named = differences
            .iter()
            .any(|it| it["object"] == object.as_str() && it["problem"] == problem);
        assert!(named, "{:#}", told.json);
        assert!(
            told.answer()
                .contains("the next resync repairs it, within 20 s"),
            "{}",
            told.answer()
        );
    }
    refused(&rig, 0, rig.client(), client, to);
    eventually(std::time::Duration::from_secs(60), || {
        (explain(&rig, 0, &tcp(to), Some(client)).exit == 0).then_some(())
    });
    served(&rig, 0, rig.client(), client, to);
}
