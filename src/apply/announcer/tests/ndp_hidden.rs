//! Neighbor discovery that is hidden from simple eyes: behind extension headers, in repeated options.

use std::net::IpAddr;

use super::ndp::{CLIENT_MAC, Fields, VIP, option, set};
use super::{OWN_MAC, interface};
use crate::apply::announcer::ndp::{answer, claim};
use crate::apply::announcer::verdict::IgnoreReason;

/// Hosts take what stands behind extension headers for neighbor discovery: a claim made so is a claim.
#[test]
fn extension_headers_hide_nothing() {
    use IgnoreReason::{Conflict, Fragmented, Malformed, NotNeighborDiscovery, Truncated};
    let conflict = Conflict {
        vip: IpAddr::V6(VIP),
        mac: CLIENT_MAC,
    };
    // Hop-by-hop options, routing to its end, destination options: padding.
    let (hop, route, options) = (0, 43, 60);
    for kinds in [&[][..], &[hop], &[options], &[hop, options, route, options]] {
        let frame = behind(&Fields::advertisement(), kinds, 0);
        assert_eq!(
            answer(&frame, &interface(), &set()),
            Err(conflict),
            "{kinds:?}"
        );
        let claimed = claim(&frame, OWN_MAC).unwrap();
        assert_eq!(claimed.mac, CLIENT_MAC);
        let asked = behind(&Fields::request(), kinds, 0);
        assert!(answer(&asked, &interface(), &set()).is_ok(), "{kinds:?}");
        for length in 54..frame.len() {
            let cut = answer(&frame[..length], &interface(), &set());
            assert_eq!(cut, Err(Truncated), "{kinds:?} cut at {length}");
        }
    }
    for (kinds, byte, reason) in [
        // Fragments are none, not even a single one that is the whole (RFC 6980).
        (&[44][..], 0, Fragmented),
        (&[hop, 44], 0, Fragmented),
        (&[options, 44, options], 0, Fragmented),
        // Not at the end of its way.
        (&[route], 1, NotNeighborDiscovery),
        // Encrypted, authenticated, or no header at all.
        (&[50], 0, NotNeighborDiscovery),
        (&[51], 0, NotNeighborDiscovery),
        (&[59], 0, NotNeighborDiscovery),
        (&[options; 5], 0, Malformed),
    ] {
        let frame = behind(&Fields::advertisement(), kinds, byte);
        let result = answer(&frame, &interface(), &set());
        assert_eq!(result, Err(reason), "{kinds:?}");
    }
}

/// The frame with these extension headers of 8 octets, `byte` the fourth of each.
fn behind(fields: &Fields, kinds: &[u8], byte: u8) -> Vec<u8> {
    let mut frame = fields.bytes();
    let mut next = 58;
    for kind in kinds.iter().rev() {
        // Followed by padding of four octets.
        frame.splice(54..54, [next, 0, 0, byte, 1, 2, 0, 0]);
        next = *kind;
    }
    frame[20] = next;
    let length = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Of several options of one kind the first one counts, as for Linux neighbours.
#[test]
fn the_first_of_several_hardware_addresses_counts() {
    const SECOND: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
    let both = |kind| [option(kind, CLIENT_MAC), option(kind, SECOND)].concat();
    let unknown = [14, 1, 1, 2, 3, 4, 5, 6];
    for options in [
        both(2),
        [&unknown[..], &both(2)].concat(),
        [option(1, SECOND), both(2)].concat(),
    ] {
        let frame = Fields {
            options,
            ..Fields::advertisement()
        }
        .bytes();
        assert_eq!(claim(&frame, OWN_MAC).unwrap().mac, CLIENT_MAC);
    }
    let frame = Fields::with(|it| it.options = both(1));
    let answered = answer(&frame, &interface(), &set()).unwrap();
    assert_eq!(answered.asker.unwrap().mac, CLIENT_MAC);
    // One of another length is no Ethernet address, whatever follows it.
    let long = [&[2, 2][..], &[0; 14], &option(2, CLIENT_MAC)].concat();
    let frame = Fields {
        options: long,
        ..Fields::advertisement()
    }
    .bytes();
    assert_eq!(claim(&frame, OWN_MAC), Err(IgnoreReason::Malformed));
}
