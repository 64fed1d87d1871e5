//! Cases 78 to 82: repair, neighbors in the kernel, two families.

use std::time::{Duration, Instant};

use edgelb::lab::server::{Listen, Server};
use edgelb::lab::tool;
use serde_json::{Value, json};

use super::bench::{Bench, CLUSTER_IP, VIP};
use super::objects::{cluster_ip, load_balancer, slice, slice_ports};
use super::observe::{FAMILIES, TCP, UDP, answered, reaches, refused, try_datapath_items};
use crate::rig::{eventually, ipvs, request, socket};

/// Words for `nft -j` that delete the first element of a map or set of ours that has one.
fn one_element(bench: &Bench) -> String {
    let text = tool(
        bench.n1(),
        "nft",
        &["-j", "list", "table", "inet", "edgelb"],
    )
    .unwrap();
    let listed: Value = serde_json::from_str(&text).unwrap();
    let objects = listed["nftables"].as_array().unwrap();
    let found = objects.iter().find_map(|object| {
        let map = object.get("map")?;
        let first = map["elem"].as_array()?.first()?;
        let dynamic = map["flags"].to_string().contains("dynamic");
        (!dynamic).then(|| (map["name"].clone(), first.clone()))
    });
    let (name, element) = found.unwrap();
    let element = json!({"family": "inet", "table": "edgelb", "name": name, "elem": [element]});
    json!({"nftables": [{"delete": {"element": element}}]}).to_string()
}

/// Words for `ipvsadm` that change the weight of the first real server.
fn one_weight(bench: &Bench) -> Vec<String> {
    let text = tool(bench.n1(), "ipvsadm", &["-Sn"]).unwrap();
    let line = text.lines().find(|line| line.starts_with("-a ")).unwrap();
    let line = line.replacen("-a ", "-e ", 1);
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    "7".clone_into(words.last_mut().unwrap());
    words
}

#[test]
fn case_78_what_others_break_is_repaired() {
    let bench = Bench::configured("[proxy]\nresync_interval = \"30s\"");
    bench.serve(&load_balancer(), &[bench.endpoint(bench.a())]);
    let element = one_element(&bench);
    let mut edits: Vec<Vec<&str>> = vec![
        vec!["nft", "-j", &element],
        vec!["nft", "flush", "ruleset"],
        vec!["nft", "delete", "table", "inet", "edgelb"],
        vec!["ip", "route", "flush", "table", "local", "proto", "225"],
        vec![
            "ip", "-6", "route", "flush", "table", "local", "proto", "225",
        ],
    ];
    let weight = if ipvs() {
        one_weight(&bench)
    } else {
        Vec::new()
    };
    if ipvs() {
        let words = weight.iter().map(String::as_str);
        edits.push(std::iter::once("ipvsadm").chain(words).collect());
        edits.push(vec!["ipvsadm", "-C"]);
    }
    let whole = try_datapath_items(bench.n1()).unwrap();
    for edit in edits {
        tool(bench.n1(), edit[0], &edit[1..]).unwrap();
        // Twice the time from one resync to the next on an emulated machine.
        let bound = Duration::from_secs(if ipvs() { 60 } else { 30 });
        let start = Instant::now();
        loop {
            let items = try_datapath_items(bench.n1());
            if items.as_ref().is_ok_and(|items| *items == whole) {
                break;
            }
            assert!(
                start.elapsed() < bound,
                "{edit:?} is not repaired within {bound:?}: {items:?}, not {whole:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        for v6 in FAMILIES {
            let own = &bench.p().namespace;
            answered(own, bench.frontends(v6, 80)[0], TCP);
            for to in bench.external_frontends(v6, 80) {
                answered(bench.c(), to, TCP);
                answered(bench.c(), to, UDP);
            }
        }
    }
}

/// The table, the route and the virtual server of somebody else are as they were made.
fn assert_untouched(bench: &Bench, when: &str) {
    let text = tool(bench.n1(), "nft", &["list", "table", "inet", "kube-other"]).unwrap();
    assert!(text.contains("tcp dport 4444 drop"), "{when}: {text}");
    let routes = tool(bench.n1(), "ip", &["route", "show", "table", "local"]).unwrap();
    assert!(routes.contains("198.51.100.77"), "{when}: {routes}");
    if ipvs() {
        let servers = tool(bench.n1(), "ipvsadm", &["-Sn"]).unwrap();
        let foreign = servers
            .lines()
            .filter(|line| line.contains("198.51.100.77"));
        assert_eq!(
            foreign.map(str::trim_end).collect::<Vec<_>>(),
            [
                "-A -t 198.51.100.77:80 -s wrr",
                "-a -t 198.51.100.77:80 -r 192.0.2.50:80 -m -w 3"
            ],
            "{when}"
        );
    }
}

/// A Service that comes to the place of a neighbor's virtual server while the daemon runs does not
/// touch it, neither when it comes nor when it goes.
fn assert_left_where_a_service_comes(bench: &Bench) {
    let foreign = [
        format!("-A -t {}:80 -s wrr", VIP.ipv4),
        format!("-a -t {}:80 -r 192.0.2.50:80 -m -w 3", VIP.ipv4),
    ];
    let add = |words: &String| {
        tool(bench.n1(), "ipvsadm", &words.split(' ').collect::<Vec<_>>()).unwrap();
    };
    let at_vip = || -> Vec<String> {
        let servers = tool(bench.n1(), "ipvsadm", &["-Sn"]).unwrap();
        let ours = format!("-t {}:80 ", VIP.ipv4);
        let lines = servers.lines().filter(|line| line.contains(&ours));
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    let told = || -> bool {
        let status = bench.ask("status");
        let failures = status["last_pass"]["failures"].as_array().unwrap();
        failures.iter().any(|failure| {
            let message = failure["message"].as_str().unwrap();
            message.contains("edgelb did not make") && message.contains("ipvsadm -D")
        })
    };
    let endpoints = [bench.endpoint(bench.a())];
    // Once had and given back, it is not ours any more.
    bench.serve(&load_balancer(), &endpoints);
    assert_eq!(at_vip().len(), 2);
    bench.delete(&load_balancer());
    bench.settle();
    assert_eq!(at_vip(), [""; 0]);

    foreign.iter().for_each(add);
    bench.serve(&load_balancer(), &endpoints);
    eventually(Duration::from_secs(10), || told().then_some(()));
    answered(bench.c(), bench.external_frontends(true, 80)[0], TCP);
    bench.endpoints(&load_balancer(), &[bench.endpoint(bench.r())]);
    assert_eq!(at_vip(), foreign, "with a Service");
    bench.delete(&load_balancer());
    bench.settle();
    assert_eq!(at_vip(), foreign, "after the Service");
    eventually(Duration::from_secs(60), || (!told()).then_some(()));

    // What was in the way goes: the Service is served.
    bench.serve(&load_balancer(), &endpoints);
    let remove = format!("{}:80", VIP.ipv4);
    tool(bench.n1(), "ipvsadm", &["-D", "-t", &remove]).unwrap();
    eventually(Duration::from_secs(60), || {
        (at_vip().len() == 2 && at_vip() != foreign).then_some(())
    });
    bench.delete(&load_balancer());
    bench.settle();
}

#[test]
fn case_80_neighbors_in_the_kernel_are_left_alone() {
    let mut bench = Bench::new();
    let foreign = "table inet kube-other { chain in { type filter hook input priority 7; tcp dport 4444 drop; }; }";
    tool(bench.n1(), "nft", &[foreign]).unwrap();
    let local = "route add local 198.51.100.77 dev lo table local";
    tool(bench.n1(), "ip", &local.split(' ').collect::<Vec<_>>()).unwrap();
    if ipvs() {
        for words in [
            "-A -t 198.51.100.77:80 -s wrr",
            "-a -t 198.51.100.77:80 -r 192.0.2.50:80 -m -w 3",
        ] {
            tool(bench.n1(), "ipvsadm", &words.split(' ').collect::<Vec<_>>()).unwrap();
        }
    }
    let endpoints = [bench.endpoint(bench.a())];
    bench.serve(&load_balancer(), &endpoints);
    assert_untouched(&bench, "while it runs");
    bench.delete(&load_balancer());
    bench.settle();
    assert_untouched(&bench, "after a Service is gone");
    if ipvs() {
        assert_left_where_a_service_comes(&bench);
        assert_untouched(&bench, "after another one has it");
    }
    bench.daemons[0].terminate(Duration::from_secs(10)).unwrap();
    bench.start_again();
    bench.serve(&load_balancer(), &endpoints);
    assert_untouched(&bench, "after a restart");
    bench.daemons[0].terminate(Duration::from_secs(10)).unwrap();
    let output = bench.daemons[0].ask(&["cleanup"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_untouched(&bench, "after cleanup");
    let tables = tool(bench.n1(), "nft", &["list", "tables"]).unwrap();
    assert!(!tables.contains("edgelb"), "{tables}");
}

/// Also SEL-9, DS-1 and DS-4.
#[test]
fn case_82_each_family_has_its_own_endpoints() {
    let bench = Bench::new();
    let service = cluster_ip();
    let ports = slice_ports(&service);
    let of = |family: &str, workload| {
        let endpoints = [bench.endpoint(workload)];
        let name = format!("web-{}", family.to_lowercase());
        slice(&name, &service, family, &endpoints, &ports)
    };
    bench.put(&of("IPv4", bench.a()));
    bench.put(&of("IPv6", bench.r()));
    bench.put(&service);
    bench.settle();
    let p = &bench.p().namespace;
    reaches(p, socket(CLUSTER_IP.ipv4, 80), TCP, &[bench.a()]);
    reaches(p, socket(CLUSTER_IP.ipv6, 80), TCP, &[bench.r()]);
    // Only IPv4 is left, with slices of both families still there.
    let mut single = load_balancer();
    single["spec"]["clusterIPs"] = json!([CLUSTER_IP.ipv4]);
    single["spec"]["ipFamilies"] = json!(["IPv4"]);
    single["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    single["metadata"]["annotations"]["edgelb.io/ips"] = json!(VIP.ipv4);
    bench.put(&single);
    bench.settle();
    for to in [socket(CLUSTER_IP.ipv4, 80), socket(VIP.ipv4, 80)] {
        reaches(p, to, TCP, &[bench.a()]);
    }
    for to in [
        socket(CLUSTER_IP.ipv6, 80),
        bench.frontends(true, 80)[3],
        bench.frontends(true, 80)[1],
    ] {
        let result = request(p, to, TCP);
        assert!(result.is_err(), "{to}: {result:?}");
    }
}

/// NP-11: a process of the node that listens on a node port is not asked.
#[test]
fn case_122_a_node_port_shadows_processes() {
    let bench = Bench::new();
    let listen = [Listen::tcp(30_080), Listen::udp(30_080)];
    let host = Server::start(bench.n1(), "n1-itself", &listen).unwrap();
    let service = load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    for address in bench.node().address.both() {
        for from in [bench.c(), bench.n1()] {
            reaches(from, socket(address, 30_080), TCP, &[bench.a()]);
            reaches(from, socket(address, 30_080), UDP, &[bench.a()]);
        }
    }
    assert_eq!(host.served(), 0);
    // NOEP-1: also where nothing is behind it.
    bench.endpoints(&service, &[]);
    for address in bench.node().address.both() {
        refused(bench.c(), socket(address, 30_080), TCP);
        refused(bench.n1(), socket(address, 30_080), TCP);
    }
    assert_eq!(host.served(), 0);
    // And is itself again when the Service is gone.
    bench.delete(&service);
    bench.settle();
    let to = socket(bench.node().address.ipv4, 30_080);
    assert_eq!(answered(bench.c(), to, TCP).workload, "n1-itself");
}
