//! Which neighbor discovery frames are answered, with what, and why not.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::{INDEX, OWN_MAC, announced_addresses, interface};
use crate::apply::announcer::ndp::{answer, claim, probe, refresh, solicited_node, unsolicited};
use crate::apply::announcer::verdict::{Claim, IgnoreReason, Neighbour};
use crate::model::announcement::AnnouncedSet;
use crate::model::foreign::MacAddress;

pub(super) const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
const OTHER_VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
pub(super) const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456);
const GROUP_MAC: [u8; 6] = [0x33, 0x33, 0xff, 0x12, 0x34, 0x56];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A frame field by field, built without the code under test.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub(super) destination_mac: [u8; 6],
    pub(super) source_mac: [u8; 6],
    pub(super) ethertype: u16,
    pub(super) version: u8,
    pub(super) next_header: u8,
    pub(super) hop_limit: u8,
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) flags: u8,
    pub(super) target: Ipv6Addr,
    pub(super) options: Vec<u8>,
    pub(super) checksum: Option<u16>,
}

impl Fields {
    /// A client asks for the VIP as Linux does.
    pub(super) fn request() -> Self {
        Self {
            destination_mac: GROUP_MAC,
            source_mac: CLIENT_MAC,
            ethertype: 0x86dd,
            version: 6,
            next_header: 58,
            hop_limit: 255,
            source: CLIENT,
            destination: GROUP,
            kind: 135,
            code: 0,
            flags: 0,
            target: VIP,
            options: option(1, CLIENT_MAC),
            checksum: None,
        }
    }

    fn probe() -> Self {
        Self {
            source: Ipv6Addr::UNSPECIFIED,
            options: Vec::new(),
            ..Self::request()
        }
    }

    /// Another host's unsolicited advertisement.
    pub(super) fn advertisement() -> Self {
        Self {
            destination_mac: [0x33, 0x33, 0, 0, 0, 1],
            destination: ALL_NODES,
            source: VIP,
            kind: 136,
            flags: 0x20,
            options: option(2, CLIENT_MAC),
            ..Self::request()
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0, self.flags, 0, 0, 0];
        message.extend(self.target.octets());
        message.extend(&self.options);
        let length = u16::try_from(message.len()).unwrap();
        let checksum = self.checksum.unwrap_or_else(|| {
            let pseudo = [
                &self.source.octets()[..],
                &self.destination.octets(),
                &u32::from(length).to_be_bytes(),
                &[0, 0, 0, 58],
                &message,
            ]
            .concat();
            let sum: u32 = pseudo
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
                .sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            !u16::try_from(folded).unwrap()
        });
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = [self.destination_mac, self.source_mac].concat();
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend([self.version << 4, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([self.next_header, self.hop_limit]);
        frame.extend(self.source.octets());
        frame.extend(self.destination.octets());
        frame.extend(message);
        frame
    }

    pub(super) fn with(change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut fields = Self::request();
        change(&mut fields);
        fields.bytes()
    }
}

pub(super) fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1], &mac[..]].concat()
}

pub(super) fn set() -> AnnouncedSet {
    announced_addresses(&[IpAddr::V6(VIP)])
}

/// What this node says of the VIP.
fn said(destination: Ipv6Addr, destination_mac: [u8; 6], flags: u8) -> Vec<u8> {
    Fields {
        destination_mac,
        source_mac: OWN_MAC,
        source: VIP,
        destination,
        kind: 136,
        flags,
        options: option(2, OWN_MAC),
        ..Fields::request()
    }
    .bytes()
}

#[test]
fn answers_solicitations_for_a_vip_by_unicast() {
    let nonce = [&[14, 1][..], &[7; 6]].concat();
    let cases = [
        ("multicast", Fields::request().bytes(), CLIENT_MAC),
        (
            "to our hardware address, as a neighbour revalidates",
            Fields::with(|fields| {
                fields.destination_mac = OWN_MAC;
                fields.destination = VIP;
                fields.options = Vec::new();
            }),
            CLIENT_MAC,
        ),
        (
            "with options that this node does not know",
            Fields::with(|fields| fields.options.extend(nonce)),
            CLIENT_MAC,
        ),
        (
            "padding behind the packet",
            [Fields::request().bytes(), vec![0xaa; 18]].concat(),
            CLIENT_MAC,
        ),
        (
            "sent through another hardware address, as bonds do",
            Fields::with(|fields| fields.source_mac = [0x02, 0, 0, 0, 0, 0x77]),
            CLIENT_MAC,
        ),
    ];
    for (name, frame, mac) in cases {
        let answer = answer(&frame, &interface(), &set())
            .unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert_eq!(answer.vip, IpAddr::V6(VIP), "{name}");
        let asker = Neighbour {
            address: IpAddr::V6(CLIENT),
            mac,
        };
        assert_eq!(answer.asker, Some(asker), "{name}");
        // Solicited and override, but no router.
        assert_eq!(answer.frame.to_vec(), said(CLIENT, mac, 0x60), "{name}");
    }
}

#[test]
fn defends_a_vip_against_duplicate_address_detection() {
    let answer = answer(&Fields::probe().bytes(), &interface(), &set()).unwrap();
    assert_eq!(answer.asker, None);
    let expected = said(ALL_NODES, [0x33, 0x33, 0, 0, 0, 1], 0x20);
    assert_eq!(answer.frame.to_vec(), expected);
}

#[test]
fn announces_to_all_nodes_and_all_routers_with_override() {
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let expected = [
        said(ALL_NODES, [0x33, 0x33, 0, 0, 0, 1], 0x20),
        said(routers, [0x33, 0x33, 0, 0, 0, 2], 0x20),
    ];
    assert_eq!(
        unsolicited(VIP, OWN_MAC).map(|frame| frame.to_vec()),
        expected
    );
    let one = refresh(VIP, OWN_MAC, CLIENT, CLIENT_MAC).to_vec();
    assert_eq!(one, said(CLIENT, CLIENT_MAC, 0x20));
}

#[test]
fn ignores_everything_else_with_its_reason() {
    use IgnoreReason::{
        ForeignDestination, InvalidChecksum, InvalidHopLimit, InvalidSender, Malformed,
        NotAnnounced, NotNeighborDiscovery, OwnFrame, Reply, Truncated,
    };
    let request = Fields::request().bytes();
    let advertisement = |change: fn(&mut Fields)| {
        let mut fields = Fields::advertisement();
        change(&mut fields);
        fields.bytes()
    };
    let cases = [
        (Truncated, Vec::new()),
        (Truncated, request[..13].to_vec()),
        (Truncated, request[..53].to_vec()),
        (Truncated, request[..85].to_vec()),
        (
            NotNeighborDiscovery,
            Fields::with(|it| it.ethertype = 0x800),
        ),
        (NotNeighborDiscovery, Fields::with(|it| it.version = 4)),
        // Extension headers do not belong in front of neighbor discovery.
        (NotNeighborDiscovery, Fields::with(|it| it.next_header = 0)),
        (NotNeighborDiscovery, Fields::with(|it| it.kind = 128)),
        (InvalidHopLimit, Fields::with(|it| it.hop_limit = 254)),
        (InvalidChecksum, Fields::with(|it| it.checksum = Some(7))),
        (Malformed, Fields::with(|it| it.code = 1)),
        (Malformed, Fields::with(|it| it.target = GROUP)),
        (Malformed, Fields::with(|it| it.options[1] = 0)),
        (Malformed, Fields::with(|it| it.options[1] = 2)),
        // A probe that names a hardware address, or is sent to one host.
        (
            Malformed,
            Fields::with(|it| it.source = Ipv6Addr::UNSPECIFIED),
        ),
        (
            Malformed,
            Fields {
                destination: VIP,
                ..Fields::probe()
            }
            .bytes(),
        ),
        (InvalidSender, Fields::with(|it| it.source = ALL_NODES)),
        (InvalidSender, Fields::with(|it| it.options[2] = 1)),
        (
            ForeignDestination,
            Fields::with(|it| it.destination_mac = [2, 0, 0, 0, 0, 0x55]),
        ),
        (OwnFrame, Fields::with(|it| it.source_mac = OWN_MAC)),
        (NotAnnounced, Fields::with(|it| it.target = OTHER_VIP)),
        (Reply, advertisement(|it| it.target = OTHER_VIP)),
        // To many, and yet an answer to one.
        (Malformed, advertisement(|it| it.flags = 0x60)),
        (Malformed, advertisement(|it| it.target = ALL_NODES)),
        (
            InvalidSender,
            advertisement(|it| it.source = Ipv6Addr::UNSPECIFIED),
        ),
        // A switch that answers in this node's place.
        (
            OwnFrame,
            advertisement(|it| it.options = option(2, OWN_MAC)),
        ),
    ];
    for (number, (reason, frame)) in cases.into_iter().enumerate() {
        let result = answer(&frame, &interface(), &set());
        assert_eq!(result, Err(reason), "case {number}");
    }
}

#[test]
fn tells_hosts_nodes_and_askers_apart() {
    let mut set = set();
    let on = set.interfaces.get_mut(&INDEX).unwrap();
    on.watched = [VIP, OTHER_VIP].map(IpAddr::V6).into_iter().collect();
    let vip = IpAddr::V6(VIP);
    let conflict = Err(IgnoreReason::Conflict {
        vip,
        mac: CLIENT_MAC,
    });
    let heard = |fields: &Fields, set: &AnnouncedSet| answer(&fields.bytes(), &interface(), set);
    let advertisement = Fields::advertisement();
    assert_eq!(heard(&advertisement, &set), conflict);
    let speaks_as_vip = Fields {
        source: VIP,
        target: OTHER_VIP,
        ..Fields::request()
    };
    assert_eq!(heard(&speaks_as_vip, &set), conflict);
    let asks_another = Fields {
        target: OTHER_VIP,
        ..Fields::request()
    };
    let asker = Some(Neighbour {
        address: IpAddr::V6(CLIENT),
        mac: CLIENT_MAC,
    });
    let not_owned = IgnoreReason::NotOwned {
        vip: IpAddr::V6(OTHER_VIP),
        asker,
    };
    assert_eq!(heard(&asks_another, &set), Err(not_owned));
    set.peers = [MacAddress(CLIENT_MAC)].into_iter().collect();
    let rival = IgnoreReason::Rival {
        vip,
        mac: CLIENT_MAC,
    };
    assert_eq!(heard(&advertisement, &set), Err(rival));
}

#[test]
fn a_probe_asks_for_an_address_and_claims_none() {
    let frame = probe(VIP, CLIENT_MAC);
    assert_eq!(frame.to_vec(), Fields::probe().bytes());
    assert_eq!(claim(&frame, OWN_MAC), Err(IgnoreReason::NoClaim));
    assert_eq!(claim(&frame, CLIENT_MAC), Err(IgnoreReason::OwnFrame));
    assert_eq!(solicited_node(VIP), GROUP);
}

#[test]
fn an_advertisement_claims_its_target_and_a_solicitation_its_source() {
    let claimed = |address| {
        Ok(Claim {
            address: IpAddr::V6(address),
            mac: CLIENT_MAC,
        })
    };
    let heard = |fields: Fields| claim(&fields.bytes(), OWN_MAC);
    assert_eq!(heard(Fields::advertisement()), claimed(VIP));
    assert_eq!(heard(Fields::request()), claimed(CLIENT));
    let without_option = Fields {
        options: Vec::new(),
        ..Fields::advertisement()
    };
    assert_eq!(heard(without_option), claimed(VIP));
}

/// Valid frames with a few octets spoilt, the checksum set right again half of the time, and chance.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop_oneof![
        Just(Fields::request()),
        Just(Fields::probe()),
        Just(Fields::advertisement())
    ];
    let options = prop::collection::vec(any::<u8>(), 0..40);
    let spoilt = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let near = (
        fields,
        prop::option::of(options),
        any::<u8>(),
        spoilt,
        0_usize..120,
    )
        .prop_map(|(mut fields, options, flags, spoilt, cut)| {
            if let Some(options) = options {
                fields.options = options;
            }
            fields.flags ^= flags & 0x60;
            let mut bytes = fields.bytes();
            for (at, octet) in spoilt {
                let at = at.index(bytes.len());
                bytes[at] = octet;
            }
            if cut < bytes.len() && cut > 60 {
                bytes.truncate(cut);
            }
            bytes
        });
    prop_oneof![4 => near, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn never_panics_and_never_answers_for_a_foreign_address(frame in frames()) {
        let set = set();
        if let Ok(answer) = answer(&frame, &interface(), &set) {
            prop_assert_eq!(answer.vip, IpAddr::V6(VIP));
            prop_assert_eq!(&frame[62..78], &VIP.octets()[..]);
            prop_assert_eq!((frame[20], frame[21], frame[54], frame[55]), (58, 255, 135, 0));
            prop_assert_eq!(&answer.frame[22..38], &VIP.octets()[..], "speaks as the VIP");
            prop_assert_eq!(&answer.frame[6..12], &OWN_MAC[..]);
            prop_assert_eq!(answer.frame[58] & 0x40 != 0, answer.asker.is_some());
            // Whatever is sent keeps the rules itself, as another node's code sees it.
            let heard = claim(&answer.frame, [2; 6]);
            let multicast = answer.frame[0] & 1 == 1;
            prop_assert!(heard.is_ok() || !multicast);
        }
        prop_assert!(answer(&frame, &interface(), &announced_addresses(&[])).is_err());
        if let Ok(claim) = claim(&frame, OWN_MAC) {
            prop_assert!(!claim.address.is_unspecified() && !claim.address.is_multicast());
            prop_assert!(claim.mac[0] & 1 == 0 && claim.mac != [0; 6] && claim.mac != OWN_MAC);
        }
    }
}
