//! The frames of the last way: a datagram inside an ARP frame of an operation for experiments, which
//! every host passes over (RFC 5494 section 2; RFC 826: what is no request is not answered). It
//! arrives wherever nodes can announce anything. Only builds and reads them.
//!
//! Behind the Ethernet header and the 28 octets of ARP stand the length of the datagram (2 octets, big
//! endian) and the datagram, as in the frames of [`super::lan`].

use std::ops::Range;

use socket2::SockFilter;

use super::lan::HEADER;
use crate::model::foreign::MacAddress;

/// The ethertype of ARP.
pub const ETHERTYPE: u16 = 0x0806;
/// `OP_EXP1` (RFC 5494).
const OPERATION: u8 = 24;
/// Where the operation stands in a frame.
const OPERATION_OFFSET: u32 = 20;
/// Ethernet and IPv4, addresses of 6 and 4 octets, the operation.
const FIXED: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, OPERATION];
/// All octets of ARP.
const ARP: usize = 28;

/// Lets only frames of the operation out of the kernel, so that the ARP of the LAN costs nothing.
/// Operations of `linux/bpf_common.h`.
pub fn filter() -> [SockFilter; 4] {
    const LOAD_HALF: u16 = 0x28;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HALF, 0, 0, OPERATION_OFFSET),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(OPERATION)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Writes what stands between the Ethernet header and the length.
pub fn write(own: MacAddress, frame: &mut Vec<u8>) {
    frame.extend_from_slice(&FIXED);
    frame.extend_from_slice(&own.0);
    frame.extend_from_slice(&[0; ARP - FIXED.len() - 6]);
}

/// Where the length begins in a frame; none where it is another ARP frame.
pub fn payload(frame: &[u8]) -> Option<usize> {
    let arp: Range<usize> = HEADER..HEADER + ARP;
    frame
        .get(arp.clone())?
        .starts_with(&FIXED)
        .then_some(arp.end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut frame = vec![0xff; HEADER];
        write(MacAddress([2, 0, 0, 0, 0, 1]), &mut frame);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[20..28], [0, 24, 2, 0, 0, 0, 0, 1]);
        assert!(frame[28..].iter().all(|octet| *octet == 0));
        assert_eq!(payload(&frame), Some(42));
        for length in 0..frame.len() {
            assert_eq!(payload(&frame[..length]), None);
        }
        for operation in (0..=255).filter(|operation| *operation != 24) {
            frame[21] = operation;
            assert_eq!(payload(&frame), None);
        }
    }
}
