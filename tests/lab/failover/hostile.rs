//! Hosts on the LAN that lie, or that already have what we want to have.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use edgelb::lab::client::Protocol;
use edgelb::lab::wire::{Eye, Flood, frame};
use edgelb::lab::{DualStack, Host, MacAddress};

use super::field::{Field, Setup, VIP, bound, service, vip};
use crate::rig::{PATIENCE, eventually, request, socket};

fn stranger(field: &Field) -> Host {
    let address = DualStack {
        ipv4: Ipv4Addr::new(192, 0, 2, 66),
        ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x66),
    };
    field.lab.add_host("mallory", address).unwrap()
}

fn lies(station: MacAddress, mac: MacAddress) -> Vec<Vec<u8>> {
    vec![
        frame::gratuitous(station, mac, VIP.ipv4),
        frame::unsolicited(station, mac, VIP.ipv6),
    ]
}

fn metric(field: &Field, node: usize, name: &str) -> f64 {
    let namespace = field.node(node);
    let text = edgelb::lab::tool(
        namespace,
        "curl",
        &["-s", "-m", "5", "http://127.0.0.1:9750/metrics"],
    )
    .unwrap();
    text.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Whatever it says, the owner goes on answering: nobody falls silent for a frame that anybody can
/// send.
#[test]
fn a_host_that_claims_the_vip_for_itself() {
    let field = Field::new();
    let owner = field.owner();
    let mallory = stranger(&field);
    let own = mallory.namespace.mac_address("eth0").unwrap();
    field.eye.reset();
    let flood = Flood::start(&mallory, lies(own, own), Duration::from_millis(5)).unwrap();
    let start = Instant::now();
    eventually(PATIENCE, || {
        (metric(&field, owner, "edgelb_address_conflicts_total") > 0.0).then_some(())
    });
    std::thread::sleep(Duration::from_secs(3).saturating_sub(start.elapsed()));
    assert!(flood.sent() > 200, "{}", flood.sent());
    goes_on_answering(&field, owner);
    drop(flood);
    // The neighbors that were lied to are told the truth again, without asking.
    let over = Instant::now();
    for address in VIP.both() {
        eventually(bound(12_000), || {
            request(field.client(), socket(address, 80), Protocol::Tcp).ok()
        });
    }
    eprintln!("believed again after {:?}", over.elapsed());
}

/// As a member that died, whose claim nobody can check any more.
#[test]
fn a_host_that_speaks_for_a_dead_node() {
    let mut field = Field::new();
    let first = field.owner();
    let mac = field.stations()[first];
    let failure = {
        let daemon = field.daemons[first].as_mut();
        field.lab.power_off(first, daemon).unwrap()
    };
    let owner = field.other_owner(first);
    let mallory = stranger(&field);
    field.eye.reset();
    // Once under its own Ethernet address, once under the dead node's.
    let mut frames = lies(mallory.namespace.mac_address("eth0").unwrap(), mac);
    frames.extend(lies(mac, mac));
    let flood = Flood::start(&mallory, frames, Duration::from_millis(5)).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(flood.sent() > 200, "{}", flood.sent());
    goes_on_answering(&field, owner);
    drop((flood, failure));
}

/// As a member that is alive: the owner hears from that member itself that this is a lie.
#[test]
fn a_host_that_speaks_for_a_living_node() {
    let field = Field::new();
    let owner = field.owner();
    let mac = field.stations()[(owner + 1) % 5];
    let mallory = stranger(&field);
    field.eye.reset();
    let own = mallory.namespace.mac_address("eth0").unwrap();
    let flood = Flood::start(&mallory, lies(own, mac), Duration::from_millis(5)).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(flood.sent() > 200, "{}", flood.sent());
    goes_on_answering(&field, owner);
}

#[track_caller]
fn goes_on_answering(field: &Field, owner: usize) {
    let seen = field.eye.sightings();
    let station = BTreeSet::from([field.stations()[owner]]);
    for address in VIP.both() {
        assert!(seen.answering(address, None).is_superset(&station));
        let silence = seen.longest_silence(address, &station, Instant::now());
        assert!(
            silence < bound(200),
            "{address}: the owner was silent for {silence:?}"
        );
    }
}

/// Case 64: an address that a host of the LAN already has is not announced, and whoever looks is
/// told of it.
#[test]
fn an_address_that_somebody_has() {
    let field = Field::with(&Setup {
        without_service: true,
        ..Setup::default()
    });
    let taken = vip(7);
    let mallory = stranger(&field);
    for address in taken.in_lan() {
        mallory.namespace.add_address("eth0", address).unwrap();
    }
    let own = mallory.namespace.mac_address("eth0").unwrap();
    let eye = Eye::open(&field.lab.clients()[2], &taken.both()).unwrap();
    field.serve(&service("taken", 7), &field.workloads());
    field.serve(&service("web", 0), &field.workloads());
    field.owner();
    // Every node tells who has it: one after the other asks for it, as none of the better ones may have it.
    for node in 0..field.size() {
        eventually(PATIENCE, || {
            let told =
                field.ask(node, "vips").to_string() + &field.ask(node, "services").to_string();
            told.contains(&own.to_string()).then_some(())
        });
    }
    std::thread::sleep(bound(500));
    for address in taken.both() {
        let voices: BTreeSet<_> = eye
            .sightings()
            .all()
            .iter()
            .filter(|sighting| sighting.address == address)
            .map(|sighting| sighting.mac)
            .collect();
        assert_eq!(voices, BTreeSet::from([own]), "{address}");
    }
    // It gives the address up, and the Service is reached there.
    for address in taken.in_lan() {
        mallory.namespace.remove_address("eth0", address).unwrap();
    }
    for address in taken.both() {
        eventually(Duration::from_secs(30), || {
            request(field.client(), socket(address, 80), Protocol::Tcp).ok()
        });
    }
}
