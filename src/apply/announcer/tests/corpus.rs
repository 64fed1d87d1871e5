//! The frames that are kept (`tests/fixtures/frames`): each as it is, cut anywhere, and with any one
//! octet spoilt, through both parsers. What chance finds (see the property tests) is added there.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{OWN_MAC, announced_addresses, interface};
use crate::apply::announcer::{arp, ndp};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const IPV6_VIP: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456));

/// What both responders say of a frame, by their metric labels.
fn said(frame: &[u8]) -> [&'static str; 2] {
    let set = announced_addresses(&[VIP, IPV6_VIP]);
    let arp_says = match arp::answer(frame, &interface(), &set) {
        Ok(answer) => {
            assert_eq!(answer.vip, VIP);
            "answered"
        }
        Err(reason) => reason.as_str(),
    };
    let ndp_says = match ndp::answer(frame, &interface(), &set) {
        Ok(answer) => {
            assert_eq!(answer.vip, IPV6_VIP);
            "answered"
        }
        Err(reason) => reason.as_str(),
    };
    for claim in [arp::claim(frame, OWN_MAC), ndp::claim(frame, OWN_MAC)] {
        assert!(claim.is_err() || frame.len() >= 42);
    }
    [arp_says, ndp_says]
}

fn corpus() -> BTreeMap<String, Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/frames");
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let octets = text.trim().as_bytes().chunks(2).map(|digits| {
                u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            });
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, octets.collect())
        })
        .collect()
}

#[test]
fn the_kept_frames_are_judged_as_before() {
    let judged: Vec<String> = corpus()
        .iter()
        .map(|(name, frame)| {
            let [arp, ndp] = said(frame);
            format!("{name}: {}", if name.starts_with("nd") { ndp } else { arp })
        })
        .collect();
    let expected = "\
arp-cut-in-target: truncated
arp-gratuitous-reply-broadcast-target: conflict
arp-gratuitous-request: conflict
arp-infiniband: truncated
arp-lengths-0: malformed
arp-lengths-255: truncated
arp-multicast-sender: invalid_sender
arp-only-header: truncated
arp-padded-to-60: answered
arp-probe: answered
arp-rarp-operation: unknown_operation
arp-request: answered
arp-vlan-tag-in-frame: not_arp
empty: truncated
nd-advertisement-override: conflict
nd-advertisement-router: conflict
nd-advertisement-solicited-multicast: malformed
nd-behind-hop-by-hop: not_neighbor_discovery
nd-checksum-0: invalid_checksum
nd-code-1: malformed
nd-cut-in-ip-header: truncated
nd-duplicate-address-detection: answered
nd-duplicate-address-detection-nonce: answered
nd-duplicate-address-detection-with-address: malformed
nd-hop-limit-64: invalid_hop_limit
nd-only-ethernet: truncated
nd-option-infiniband: malformed
nd-option-length-0: malformed
nd-option-length-255: malformed
nd-options-many: answered
nd-payload-length-0: truncated
nd-payload-length-65535: truncated
nd-payload-length-8: truncated
nd-redirect: truncated
nd-router-advertisement-short: truncated
nd-solicitation: answered
nd-solicitation-nonce: answered
nd-source-multicast: invalid_sender
nd-target-multicast: malformed
nd-unicast-without-option: answered";
    assert_eq!(judged.join("\n"), expected);
}

#[test]
fn no_cut_and_no_spoilt_octet_of_them_does_harm() {
    for frame in corpus().into_values() {
        for length in 0..frame.len() {
            said(&frame[..length]);
        }
        for place in 0..frame.len().min(140) {
            for octet in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut spoilt = frame.clone();
                spoilt[place] = octet;
                said(&spoilt);
            }
        }
    }
}
