//! The lab's faults and its eye on the wire do what they say, and are undone whole.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use edgelb::lab::client::{Protocol, RequestOptions, request_with};
use edgelb::lab::fault::Traffic;
use edgelb::lab::keepalived::{self, Keepalived, KeepalivedOptions};
use edgelb::lab::membership::MEMBERSHIP_PORT;
use edgelb::lab::server::{Listen, Server};
use edgelb::lab::wire::{Eye, Flood, frame};
use edgelb::lab::{Lab, LabOptions, MacAddress, Namespace};

use crate::rig::{PATIENCE, eventually, ipvs};

fn lab(nodes: usize) -> Lab {
    Lab::build(LabOptions {
        nodes,
        workloads: nodes,
        clients: 2,
        client_pod_routes: true,
        management: true,
        ..LabOptions::default()
    })
    .unwrap()
}

fn answers(from: &Namespace, to: impl Into<IpAddr>, port: u16, protocol: Protocol) -> bool {
    let options = RequestOptions {
        timeout: Duration::from_millis(if ipvs() { 1000 } else { 100 }),
        ..RequestOptions::default()
    };
    request_with(from, SocketAddr::new(to.into(), port), protocol, &options).is_ok()
}

/// Whether one of several tries is answered: a first packet may be lost to neighbor discovery.
fn reaches(from: &Namespace, to: impl Into<IpAddr> + Copy, port: u16, protocol: Protocol) -> bool {
    (0..3).any(|_| answers(from, to, port, protocol))
}

#[test]
fn a_power_failure_takes_a_node_and_its_pods_away_and_gives_them_back() {
    let lab = lab(2);
    let client = &lab.clients()[0].namespace;
    let node = Server::start(&lab.nodes()[0].namespace, "node", &[Listen::tcp(80)]).unwrap();
    let everything = || -> Vec<bool> {
        let addresses = [lab.nodes()[0].address, lab.workloads()[0].address];
        addresses
            .into_iter()
            .zip([80, 8080])
            .flat_map(|(address, port)| address.both().map(|it| (it, port)))
            .map(|(address, port)| reaches(client, address, port, Protocol::Tcp))
            .collect()
    };
    assert_eq!(everything(), [true; 4]);
    let failure = lab.power_off(0, None).unwrap();
    assert_eq!(everything(), [false; 4]);
    assert!(!lab.nodes()[0].namespace.carrier("eth0").unwrap());
    assert!(!lab.nodes()[0].namespace.carrier("eth1").unwrap());
    let other = lab.workloads()[1].address.ipv4;
    assert!(reaches(client, other, 8080, Protocol::Tcp));
    failure.restore().unwrap();
    eventually(PATIENCE, || (everything() == [true; 4]).then_some(()));
    drop(node);
}

#[test]
fn a_cut_of_membership_lets_all_else_pass() {
    let lab = lab(3);
    let listen = [Listen::udp(MEMBERSHIP_PORT), Listen::udp(8080)];
    let servers: Vec<_> = lab
        .nodes()
        .iter()
        .map(|node| Server::start(&node.namespace, &node.name, &listen).unwrap())
        .collect();
    let from = &lab.nodes()[0].namespace;
    let heard = |node: usize, port| -> Vec<bool> {
        let second = edgelb::lab::address_plan::management_address(node);
        let addresses = [lab.nodes()[node].address, second];
        addresses
            .into_iter()
            .flat_map(edgelb::lab::DualStack::both)
            .map(|address| reaches(from, address, port, Protocol::Udp))
            .collect()
    };
    let everywhere = || [heard(1, MEMBERSHIP_PORT), heard(2, MEMBERSHIP_PORT)];
    assert_eq!(everywhere(), [[true; 4], [true; 4]]);
    let cut = lab.cut(&[0, 1], Traffic::MembershipDatagrams).unwrap();
    assert_eq!(everywhere(), [[false; 4], [true; 4]]);
    assert_eq!(heard(1, 8080), [true; 4]);
    // A client is no node.
    let client = &lab.clients()[0].namespace;
    let address = lab.nodes()[1].address.ipv4;
    assert!(reaches(client, address, MEMBERSHIP_PORT, Protocol::Udp));
    cut.mend().unwrap();
    assert_eq!(everywhere(), [[true; 4], [true; 4]]);

    // Dropping one mends it as well, and two do not disturb one another.
    let all = lab.cut(&[0, 1, 2], Traffic::Membership).unwrap();
    drop(lab.cut(&[0, 2], Traffic::Membership).unwrap());
    assert_eq!(everywhere(), [[false; 4], [false; 4]]);
    drop(all);
    assert_eq!(everywhere(), [[true; 4], [true; 4]]);
    drop(servers);
}

#[test]
fn a_partition_parts_all_and_only_the_halves() {
    let lab = lab(3);
    let client = &lab.clients()[0].namespace;
    let reached = || -> Vec<bool> {
        lab.workloads()
            .iter()
            .map(|workload| reaches(client, workload.address.ipv4, 8080, Protocol::Tcp))
            .collect()
    };
    assert_eq!(reached(), [true, true, true]);
    let cut = lab
        .partition(&["edge-a", "client-1"], &["edge-b", "client-2"])
        .unwrap();
    assert_eq!(reached(), [true, false, true]);
    cut.mend().unwrap();
    assert_eq!(reached(), [true, true, true]);
}

#[test]
fn a_share_of_the_packets_is_lost() {
    let lab = lab(2);
    let to = &lab.nodes()[1];
    let server = Server::start(
        &to.namespace,
        "node",
        &[Listen::udp(MEMBERSHIP_PORT), Listen::udp(8080)],
    )
    .unwrap();
    let from = &lab.nodes()[0].namespace;
    assert!(reaches(from, to.address.ipv4, 8080, Protocol::Udp));
    let loss = lab.lose(50, Traffic::MembershipDatagrams).unwrap();
    let count = |port| {
        (0..80)
            .filter(|_| answers(from, to.address.ipv4, port, Protocol::Udp))
            .count()
    };
    // Each request is lost with one half; its answer goes to another port and is not.
    let heard = count(MEMBERSHIP_PORT);
    assert!((15..=65).contains(&heard), "{heard} of 80");
    assert_eq!(count(8080), 80);
    loss.mend().unwrap();
    assert_eq!(count(MEMBERSHIP_PORT), 80);
    drop(server);
}

#[test]
fn the_eye_sees_who_answers_who_lies_and_that_nobody_does() {
    let lab = lab(2);
    let address = lab.nodes()[0].address;
    let eye = Eye::open(&lab.clients()[1], &address.both()).unwrap();
    let owner = lab.nodes()[0].namespace.mac_address("eth0").unwrap();
    let liar = lab.clients()[0].namespace.mac_address("eth0").unwrap();
    let only = BTreeSet::from([owner]);
    for address in address.both() {
        eventually(PATIENCE, || {
            (eye.answering(address, Duration::from_millis(200)) == only).then_some(())
        });
    }
    let both = BTreeSet::from([owner, liar]);
    let frames = vec![
        frame::gratuitous(liar, liar, address.ipv4),
        frame::unsolicited(liar, liar, address.ipv6),
    ];
    let flood = Flood::start(&lab.clients()[0], frames, Duration::from_millis(5)).unwrap();
    for address in address.both() {
        eventually(PATIENCE, || {
            let contention = eye.sightings().longest_contention(address, &both);
            (contention > Duration::from_millis(300)).then_some(())
        });
        // It said so and answered to no question.
        let seen = eye.sightings();
        assert_eq!(seen.answering(address, None), only);
        assert_eq!(seen.longest_contention(address, &only), Duration::ZERO);
    }
    drop(flood);
    let unplugged = Instant::now();
    lab.unplug("edge-a").unwrap();
    for address in address.both() {
        eventually(PATIENCE, || {
            let silent = eye
                .sightings()
                .longest_silence(address, &only, Instant::now());
            (silent > Duration::from_millis(300)).then_some(())
        });
        let silent = eye
            .sightings()
            .longest_silence(address, &only, Instant::now());
        assert!(silent <= unplugged.elapsed() + Duration::from_millis(300));
        assert!(
            eye.answering(address, Duration::from_millis(100))
                .is_empty()
        );
    }
    eye.check().unwrap();
    eye.reset();
    assert!(eye.sightings().all().is_empty());
}

/// The peer of `edgelb bench failover`: it must do its best there.
#[test]
fn keepalived_keeps_an_address_alive() {
    let (program, version) = keepalived::installed().expect("keepalived, which tests/run installs");
    assert!(version.contains("Keepalived"), "{version}");
    let lab = lab(3);
    let options = KeepalivedOptions {
        program,
        vip: "192.0.2.200".parse().unwrap(),
        advertisement: Duration::from_millis(100),
    };
    let vip = IpAddr::from(options.vip);
    let eye = Eye::open(&lab.clients()[1], &[vip]).unwrap();
    let mut routers: Vec<_> = (0..3)
        .map(|node| Keepalived::start(&lab, node, &options).unwrap())
        .collect();
    let stations: Vec<MacAddress> = lab
        .nodes()
        .iter()
        .map(|node| node.namespace.mac_address("eth0").unwrap())
        .collect();
    let owner = |but: Option<usize>| {
        eventually(PATIENCE, || {
            let answering = eye.answering(vip, Duration::from_millis(100));
            let mac = answering.first().filter(|_| answering.len() == 1)?;
            let node = stations.iter().position(|station| station == mac)?;
            (Some(node) != but).then_some(node)
        })
    };
    // It takes three advertisements to hear of one another; until then several may own it.
    std::thread::sleep(Duration::from_millis(600));
    let first = owner(None);
    routers[first].terminate().unwrap();
    let second = owner(Some(first));
    // Killed, started again, and killed once more.
    for _ in 0..2 {
        lab.unplug(routers[second].node()).unwrap();
        let third = owner(Some(second));
        routers[second].kill().unwrap();
        routers[second].remove_vip().unwrap();
        lab.plug(routers[second].node()).unwrap();
        routers[second] = Keepalived::start(&lab, second, &options).unwrap();
        std::thread::sleep(Duration::from_millis(600));
        routers[third].terminate().unwrap();
        assert_eq!(owner(Some(third)), second, "{}", routers[second].log_tail());
        routers[third] = Keepalived::start(&lab, third, &options).unwrap();
        std::thread::sleep(Duration::from_millis(600));
    }
}
