//! Direct routing and tunnels: hosts on the LAN have the VIP themselves and answer the client without
//! the node. Real packets, both families; only IPVS can do it.

use std::net::IpAddr;

use edgelb::lab::client::{Protocol, Stream, open_stream};
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::manifests::{ManifestDirectory, ServiceManifest, ServicePort};
use edgelb::lab::membership::{Membership, MembershipNetwork};
use edgelb::lab::server::{Listen, Server};
use edgelb::lab::{Host, Lab, LabOptions, tool};

use super::rig::{PATIENCE, Rig, START, cluster_ips, eventually, socket, spread};

const TCP: Protocol = Protocol::Tcp;
pub(super) const VIPS: [&str; 2] = ["192.0.2.210", "fd00:2::210"];

/// Of the hosts on the LAN the first is the client, the others serve. Several nodes talk with one another.
pub(super) fn lan(nodes: usize) -> Rig {
    let lab = Lab::build(LabOptions {
        nodes,
        workloads: 1,
        clients: 3,
        ..LabOptions::default()
    })
    .unwrap();
    let manifests = ManifestDirectory::create(&lab.directory().join("manifests")).unwrap();
    for node in lab.nodes() {
        manifests.write_node(node).unwrap();
    }
    let mut rig = Rig {
        lab,
        manifests,
        daemons: Vec::new(),
    };
    let configuration = toml::toml! {
        [[pool]]
        name = "lan"
        addresses = ["192.0.2.200-192.0.2.219", "fd00:2::200-fd00:2::219"]
        forwarding_methods = ["direct-routing", "tunnel"]

        [membership]
        probe_interval = "1s"
    };
    let membership = Membership::among(&rig.lab, nodes, MembershipNetwork::Lan).unwrap();
    let options = DaemonOptions {
        membership: (nodes > 1).then_some(membership),
        ..rig.options(configuration)
    };
    for node in 0..nodes {
        let daemon = Daemon::start(&rig.lab, node, &options).unwrap();
        rig.daemons.push(daemon);
    }
    for daemon in &mut rig.daemons {
        daemon.wait_ready(START).unwrap();
    }
    rig
}

/// Lets a host answer for the VIPs without telling the LAN that it has them (SYS-5, SYS-6).
pub(super) fn take_vips(host: &Host, method: &str) -> Server {
    let namespace = &host.namespace;
    for (path, value) in [
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
        ("net/ipv4/conf/all/rp_filter", "0"),
    ] {
        namespace.set_sysctl(path, value).unwrap();
    }
    for vip in VIPS {
        let vip: IpAddr = vip.parse().unwrap();
        namespace.add_address("lo", vip.into()).unwrap();
    }
    if method == "tunnel" {
        for (link, kind) in [("unwrap4", "ipip"), ("unwrap6", "ip6tnl")] {
            let own = host.address.both()[usize::from(kind == "ip6tnl")].to_string();
            let add = ["link", "add", link, "type", kind, "local", &own];
            tool(namespace, "ip", &add).unwrap();
            namespace.set_up(link).unwrap();
        }
        let loose = "net/ipv4/conf/unwrap4/rp_filter";
        namespace.set_sysctl(loose, "0").unwrap();
    }
    Server::start(namespace, &host.name, &[Listen::tcp(80)]).unwrap()
}

pub(super) fn service(method: &str) -> ServiceManifest {
    let mut service = ServiceManifest::load_balancer(
        "bare",
        cluster_ips(60),
        vec![ServicePort {
            name: "http".to_owned(),
            protocol: TCP,
            port: 80,
            target_port: 80,
            node_port: None,
        }],
    );
    service.annotations.extend([
        ("edgelb.io/forwarding-method".to_owned(), method.to_owned()),
        ("edgelb.io/ips".to_owned(), VIPS.join(",")),
    ]);
    service
}

pub(super) fn endpoints(rig: &Rig, hosts: &[&Host]) {
    let text = [("IPv4", 0), ("IPv6", 1)]
        .map(|(family, index)| {
            let addresses: Vec<String> = hosts
                .iter()
                .map(|host| format!("- addresses: [\"{}\"]\n", host.address.both()[index]))
                .collect();
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: bare-{suffix}\n  \
                 namespace: default\n  labels:\n    kubernetes.io/service-name: bare\naddressType: {family}\n\
                 endpoints:\n{addresses}ports:\n- {{name: http, protocol: TCP, port: 80}}\n",
                suffix = family.to_lowercase(),
                addresses = addresses.concat(),
            )
        })
        .join("---\n");
    rig.manifests.write("endpoints-bare.yaml", &text).unwrap();
}

fn served_by_hosts(method: &str, shown: &str) {
    let rig = lan(1);
    let [client, first, second] = rig.lab.clients() else {
        panic!("three hosts on the LAN");
    };
    let servers = [first, second].map(|host| take_vips(host, method));
    endpoints(&rig, &[first, second]);
    rig.manifests.write_service(&service(method)).unwrap();
    let node = rig.lab.node(0).unwrap().address;
    // IPv6 by a route: this is not about who says where the VIP is.
    let route = ["-6", "route", "add", VIPS[1], "via", &node.ipv6.to_string()];
    tool(&client.namespace, "ip", &route).unwrap();
    let hosts = [first.name.clone(), second.name.clone()];
    let mut streams: Vec<Stream> = Vec::new();
    for (vip, own) in VIPS.iter().zip(client.address.both()) {
        let to = socket(vip.parse::<IpAddr>().unwrap(), 80);
        rig.wait_served(&client.namespace, to, TCP);
        let (by_host, seen) = spread(&client.namespace, to, TCP, 20);
        assert!(by_host.keys().eq(hosts.iter()), "{vip}: {by_host:?}");
        assert!(seen.iter().eq([&own]), "{vip}: {seen:?}");
        streams.push(eventually(PATIENCE, || {
            let mut stream = open_stream(&client.namespace, to).ok()?;
            (stream.send("hello").ok()?.workload == hosts[0]).then_some(stream)
        }));
    }
    let listing = tool(rig.node(0), "ipvsadm", &["-Ln"]).unwrap();
    assert_eq!(listing.matches(shown).count(), 4, "{listing}");
    // The answers took another way. The kernel adds up its counters every two seconds.
    for vip in VIPS {
        let fields = eventually(PATIENCE, || {
            let counters = ["-Ln", "--stats", "--exact"];
            let counters = tool(rig.node(0), "ipvsadm", &counters).unwrap();
            let line = counters.lines().find(|line| line.contains(vip))?;
            let fields: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            (fields[3] != "0").then_some(fields)
        });
        // Protocol, address, connections, packets in, packets out.
        assert_eq!(fields[4], "0", "{fields:?}");
    }

    // One goes: it drains in the same way, and comes back.
    endpoints(&rig, &[second]);
    for (vip, stream) in VIPS.iter().zip(&mut streams) {
        let to = socket(vip.parse::<IpAddr>().unwrap(), 80);
        eventually(PATIENCE, || {
            let by_host = (0..4).map(|_| super::rig::request(&client.namespace, to, TCP));
            let all = by_host.filter_map(Result::ok).map(|answer| answer.workload);
            (all.collect::<Vec<_>>() == vec![hosts[1].clone(); 4]).then_some(())
        });
        assert_eq!(stream.send("still").unwrap().workload, hosts[0]);
    }
    endpoints(&rig, &[first, second]);
    for vip in VIPS {
        let to = socket(vip.parse::<IpAddr>().unwrap(), 80);
        eventually(PATIENCE, || {
            let answer = super::rig::request(&client.namespace, to, TCP).ok()?;
            (answer.workload == hosts[0]).then_some(())
        });
    }

    // The Service thinks better of it: everything is translated again.
    let mut plain = service(method);
    plain.annotations.remove("edgelb.io/forwarding-method");
    rig.manifests.write_service(&plain).unwrap();
    eventually(PATIENCE, || {
        let listing = tool(rig.node(0), "ipvsadm", &["-Ln"]).unwrap();
        (!listing.contains(shown) && listing.contains("Masq")).then_some(())
    });
    for vip in VIPS {
        let to = socket(vip.parse::<IpAddr>().unwrap(), 80);
        let (by_host, seen) = spread(&client.namespace, to, TCP, 10);
        assert!(by_host.keys().eq(hosts.iter()), "{vip}: {by_host:?}");
        assert!(
            seen.iter().all(|seen| node.both().contains(seen)),
            "{seen:?}"
        );
    }
    drop(servers);
}

#[test]
fn direct_routing_leaves_the_answer_to_the_host() {
    served_by_hosts("direct-routing", "Route");
}

#[test]
fn a_tunnel_leaves_the_answer_to_the_host() {
    served_by_hosts("tunnel", "Tunnel");
}
