//! Which frames are answered, with what, and why not.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::{INDEX, OWN_MAC, announced, interface};
use crate::apply::announcer::arp::{answer, claim, gratuitous, probe, refresh};
use crate::apply::announcer::verdict::{Claim, IgnoreReason, Neighbour};
use crate::model::foreign::MacAddress;

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const BROADCAST: [u8; 6] = [0xff; 6];

/// A frame field by field, so that each test can spoil one of them.
#[derive(Clone)]
struct Fields {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: u16,
    hardware_type: u16,
    protocol_type: u16,
    lengths: [u8; 2],
    operation: u16,
    sender_mac: [u8; 6],
    sender: Ipv4Addr,
    target_mac: [u8; 6],
    target: Ipv4Addr,
}

impl Fields {
    /// A client's broadcast request for the VIP.
    fn request() -> Self {
        Self {
            destination: BROADCAST,
            source: CLIENT_MAC,
            ethertype: 0x0806,
            hardware_type: 1,
            protocol_type: 0x0800,
            lengths: [6, 4],
            operation: 1,
            sender_mac: CLIENT_MAC,
            sender: CLIENT,
            target_mac: [0; 6],
            target: VIP,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination);
        frame.extend(self.source);
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend(self.hardware_type.to_be_bytes());
        frame.extend(self.protocol_type.to_be_bytes());
        frame.extend(self.lengths);
        frame.extend(self.operation.to_be_bytes());
        frame.extend(self.sender_mac);
        frame.extend(self.sender.octets());
        frame.extend(self.target_mac);
        frame.extend(self.target.octets());
        frame
    }

    fn with(change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut fields = Self::request();
        change(&mut fields);
        fields.bytes()
    }
}

fn reply_to(client: Ipv4Addr) -> Vec<u8> {
    Fields {
        destination: CLIENT_MAC,
        source: OWN_MAC,
        operation: 2,
        sender_mac: OWN_MAC,
        sender: VIP,
        target_mac: CLIENT_MAC,
        target: client,
        ..Fields::request()
    }
    .bytes()
}

#[test]
fn answers_requests_for_a_vip_by_unicast() {
    let cases = [
        ("broadcast request", Fields::request().bytes(), CLIENT),
        (
            "request to our hardware address, as a neighbour revalidates",
            Fields::with(|fields| fields.destination = OWN_MAC),
            CLIENT,
        ),
        (
            "probe of RFC 5227",
            Fields::with(|fields| fields.sender = Ipv4Addr::UNSPECIFIED),
            Ipv4Addr::UNSPECIFIED,
        ),
        (
            "padding behind the packet",
            [Fields::request().bytes(), vec![0xaa; 18]].concat(),
            CLIENT,
        ),
        (
            "sent through another hardware address, as bonds do",
            Fields::with(|fields| fields.source = [0x02, 0, 0, 0, 0, 0x77]),
            CLIENT,
        ),
    ];
    for (name, frame, client) in cases {
        let answer = answer(&frame, &interface(), &announced(&[OTHER_VIP, VIP]))
            .unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!(answer.vip, VIP, "{name}");
        assert_eq!(answer.frame.to_vec(), reply_to(client), "{name}");
    }
}

#[test]
fn ignores_everything_else_with_its_reason() {
    let cases = [
        (IgnoreReason::Truncated, Vec::new()),
        (
            IgnoreReason::Truncated,
            Fields::request().bytes()[..13].to_vec(),
        ),
        (
            IgnoreReason::Truncated,
            Fields::request().bytes()[..14].to_vec(),
        ),
        (
            IgnoreReason::Truncated,
            Fields::request().bytes()[..41].to_vec(),
        ),
        (
            IgnoreReason::Truncated,
            Fields::with(|fields| fields.lengths = [255, 255]),
        ),
        (
            IgnoreReason::NotArp,
            Fields::with(|fields| fields.ethertype = 0x0800),
        ),
        (
            IgnoreReason::ForeignProtocol,
            Fields::with(|fields| fields.hardware_type = 6),
        ),
        (
            IgnoreReason::ForeignProtocol,
            Fields::with(|fields| fields.protocol_type = 0x86dd),
        ),
        (
            IgnoreReason::Malformed,
            Fields::with(|fields| fields.lengths = [4, 6]),
        ),
        (
            IgnoreReason::Malformed,
            Fields::with(|fields| fields.lengths = [0, 0]),
        ),
        (
            IgnoreReason::ForeignDestination,
            Fields::with(|fields| fields.destination = [0x02, 0, 0, 0, 0, 0x55]),
        ),
        (
            IgnoreReason::ForeignDestination,
            Fields::with(|fields| fields.destination = [0x01, 0, 0x5e, 0, 0, 1]),
        ),
        (
            IgnoreReason::OwnFrame,
            Fields::with(|fields| fields.sender_mac = OWN_MAC),
        ),
        (
            IgnoreReason::OwnFrame,
            Fields::with(|fields| fields.source = OWN_MAC),
        ),
        (IgnoreReason::OwnFrame, gratuitous(VIP, OWN_MAC)[0].to_vec()),
        (IgnoreReason::OwnFrame, gratuitous(VIP, OWN_MAC)[1].to_vec()),
        (
            IgnoreReason::InvalidSender,
            Fields::with(|fields| fields.sender_mac = [0; 6]),
        ),
        (
            IgnoreReason::InvalidSender,
            Fields::with(|fields| fields.sender_mac = BROADCAST),
        ),
        (
            IgnoreReason::InvalidSender,
            Fields::with(|fields| fields.sender_mac = [0x01, 0, 0x5e, 0, 0, 1]),
        ),
        (
            IgnoreReason::Reply,
            Fields::with(|fields| fields.operation = 2),
        ),
        (
            IgnoreReason::UnknownOperation,
            Fields::with(|fields| fields.operation = 3),
        ),
        (
            IgnoreReason::Gratuitous,
            Fields::with(|fields| fields.target = CLIENT),
        ),
        (
            IgnoreReason::NotAnnounced,
            Fields::with(|fields| fields.target = Ipv4Addr::new(192, 0, 2, 12)),
        ),
    ];
    for (reason, frame) in cases {
        let result = answer(&frame, &interface(), &announced(&[VIP, OTHER_VIP]));
        assert_eq!(result, Err(reason), "{frame:02x?}");
    }
}

#[test]
fn a_claim_of_another_host_is_a_conflict_in_every_form() {
    let conflict = IgnoreReason::Conflict {
        vip: IpAddr::V4(VIP),
        mac: CLIENT_MAC,
    };
    let claims = [
        gratuitous(VIP, CLIENT_MAC)[0].to_vec(),
        gratuitous(VIP, CLIENT_MAC)[1].to_vec(),
        Fields::with(|fields| {
            fields.sender = VIP;
            fields.target = OTHER_VIP;
        }),
        Fields::with(|fields| {
            fields.sender = VIP;
            fields.operation = 2;
            fields.target = CLIENT;
        }),
    ];
    for frame in claims {
        let result = answer(&frame, &interface(), &announced(&[VIP, OTHER_VIP]));
        assert_eq!(result, Err(conflict), "{frame:02x?}");
    }
}

#[test]
fn a_vip_of_another_interface_is_not_answered() {
    let mut other = interface();
    other.index += 1;
    let result = answer(&Fields::request().bytes(), &other, &announced(&[VIP]));
    assert_eq!(result, Err(IgnoreReason::NotAnnounced));
}

#[test]
fn gratuitous_frames_are_request_then_reply() {
    let frame = |operation, target_mac| {
        Fields {
            source: OWN_MAC,
            operation,
            sender_mac: OWN_MAC,
            sender: VIP,
            target_mac,
            target: VIP,
            ..Fields::request()
        }
        .bytes()
    };
    let [request, reply] = gratuitous(VIP, OWN_MAC);
    assert_eq!(request.to_vec(), frame(1, [0; 6]));
    assert_eq!(reply.to_vec(), frame(2, OWN_MAC));
}

fn octets<const LENGTH: usize>() -> impl Strategy<Value = [u8; LENGTH]> {
    prop::array::uniform::<_, LENGTH>(any::<u8>())
}

/// Frames that look like ARP often enough to get far into the decision.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let address = prop_oneof![
        Just(VIP),
        Just(OTHER_VIP),
        Just(CLIENT),
        any::<[u8; 4]>().prop_map(Ipv4Addr::from)
    ];
    let mac = prop_oneof![
        Just(OWN_MAC),
        Just(CLIENT_MAC),
        Just(BROADCAST),
        Just([0; 6]),
        octets::<6>()
    ];
    let near = (
        (mac.clone(), mac.clone(), mac.clone(), mac),
        (address.clone(), address),
        0_u16..4,
        prop_oneof![4 => Just([6, 4]), 1 => octets::<2>()],
        0_usize..70,
    )
        .prop_map(|(macs, (sender, target), operation, lengths, length)| {
            let mut bytes = Fields {
                destination: macs.0,
                source: macs.1,
                sender_mac: macs.2,
                target_mac: macs.3,
                sender,
                target,
                operation,
                lengths,
                ..Fields::request()
            }
            .bytes();
            bytes.resize(length.max(28), 0);
            bytes
        });
    prop_oneof![3 => near, 1 => prop::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn never_panics_and_never_answers_for_a_foreign_address(frame in frames()) {
        let set = announced(&[VIP]);
        if let Ok(answer) = answer(&frame, &interface(), &set) {
            prop_assert!(set.contains(INDEX, answer.vip));
            let [target, sender, destination] = [&frame[38..42], &frame[22..28], &frame[0..6]];
            prop_assert_eq!(IpAddr::V4(Ipv4Addr::new(target[0], target[1], target[2], target[3])), answer.vip);
            prop_assert_eq!(&answer.frame[28..32], target, "speaks for what was asked");
            prop_assert_eq!(&answer.frame[0..6], sender, "goes to who asked");
            prop_assert_eq!(&answer.frame[22..28], &OWN_MAC[..], "tells the own address");
            prop_assert!(sender[0] & 1 == 0 && sender != OWN_MAC, "a unicast, foreign sender");
            prop_assert!(destination == BROADCAST || destination == OWN_MAC);
            prop_assert_eq!(&frame[20..22], &[0, 1][..], "a request");
        }
        prop_assert!(answer(&frame, &interface(), &announced(&[])).is_err());
    }
}

#[test]
fn a_probe_asks_for_an_address_and_claims_none() {
    let frame = probe(VIP, OWN_MAC);
    let fields = Fields {
        source: OWN_MAC,
        sender_mac: OWN_MAC,
        sender: Ipv4Addr::UNSPECIFIED,
        ..Fields::request()
    };
    assert_eq!(frame.to_vec(), fields.bytes());
    assert_eq!(claim(&frame, CLIENT_MAC), Err(IgnoreReason::NoClaim));
    assert_eq!(claim(&frame, OWN_MAC), Err(IgnoreReason::OwnFrame));
}

#[test]
fn whatever_a_host_sends_claims_its_sender_address() {
    let request = Fields::request();
    let reply = Fields {
        destination: OWN_MAC,
        operation: 2,
        sender: VIP,
        target_mac: OWN_MAC,
        target: Ipv4Addr::UNSPECIFIED,
        ..request.clone()
    };
    let unknown = Fields {
        operation: 9,
        ..reply.clone()
    };
    for (fields, address) in [(&request, CLIENT), (&reply, VIP), (&unknown, VIP)] {
        let claimed = Claim {
            address: IpAddr::V4(address),
            mac: CLIENT_MAC,
        };
        assert_eq!(claim(&fields.bytes(), OWN_MAC), Ok(claimed));
    }
    let elsewhere = Fields {
        destination: [0x02, 0, 0, 0, 0, 0x55],
        ..reply.clone()
    };
    assert_eq!(
        claim(&elsewhere.bytes(), OWN_MAC),
        Err(IgnoreReason::ForeignDestination)
    );
    let nobody = Fields {
        sender_mac: [0; 6],
        ..reply
    };
    assert_eq!(
        claim(&nobody.bytes(), OWN_MAC),
        Err(IgnoreReason::InvalidSender)
    );
}

proptest! {
    #[test]
    fn no_octets_make_a_claim_of_nobody(
        octets in prop::collection::vec(any::<u8>(), 0..80),
        spoiled in prop::option::of((0_usize..42, any::<u8>())),
    ) {
        let mut frame = if spoiled.is_some() { Fields::request().bytes() } else { octets };
        if let Some((at, octet)) = spoiled {
            frame[at] = octet;
        }
        if let Ok(claim) = claim(&frame, OWN_MAC) {
            prop_assert!(!claim.address.is_unspecified());
            prop_assert!(claim.mac[0] & 1 == 0 && claim.mac != [0; 6] && claim.mac != OWN_MAC);
        }
    }
}

#[test]
fn tells_who_asked_whether_it_is_answered_or_not() {
    let asker = Some(Neighbour {
        address: IpAddr::V4(CLIENT),
        mac: CLIENT_MAC,
    });
    let mut set = announced(&[VIP]);
    let on = set.interfaces.get_mut(&INDEX).unwrap();
    on.watched = [VIP, OTHER_VIP].map(IpAddr::V4).into_iter().collect();
    let ask = |frame: &[u8]| answer(frame, &interface(), &set);
    assert_eq!(ask(&Fields::request().bytes()).unwrap().asker, asker);
    let probe = Fields::with(|fields| fields.sender = Ipv4Addr::UNSPECIFIED);
    assert_eq!(ask(&probe).unwrap().asker, None);
    let other = Fields::with(|fields| fields.target = OTHER_VIP);
    let vip = IpAddr::V4(OTHER_VIP);
    assert_eq!(ask(&other), Err(IgnoreReason::NotOwned { vip, asker }));
}

#[test]
fn tells_hosts_nodes_and_itself_apart_by_their_claims() {
    let mut set = announced(&[VIP]);
    let mut second = set.interfaces[&INDEX].clone();
    second.mac = [0x02, 0, 0, 0, 0, 0x02];
    set.interfaces.insert(8, second);
    set.peers = [MacAddress([0x02, 0, 0, 0, 0, 0x03])].into_iter().collect();
    let vip = IpAddr::V4(VIP);
    let claim_of = |last: u8| {
        let mac = [0x02, 0, 0, 0, 0, last];
        let [frame, _] = gratuitous(VIP, mac);
        (mac, answer(&frame, &interface(), &set).unwrap_err())
    };
    assert_eq!(claim_of(2).1, IgnoreReason::OwnFrame);
    let (mac, reason) = claim_of(3);
    assert_eq!(reason, IgnoreReason::Rival { vip, mac });
    let (mac, reason) = claim_of(4);
    assert_eq!(reason, IgnoreReason::Conflict { vip, mac });
}

#[test]
fn a_neighbour_is_told_by_a_request_of_its_own() {
    let [request, _] = gratuitous(VIP, OWN_MAC);
    let frame = refresh(VIP, OWN_MAC, CLIENT_MAC);
    assert_eq!(frame[..6], CLIENT_MAC);
    assert_eq!(frame[6..], request[6..]);
}
