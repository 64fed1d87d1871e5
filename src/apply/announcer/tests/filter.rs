//! Runs the generated programs in a small interpreter, beside the plain question "is it a VIP?".

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{OWN_MAC, announced, interface};
use crate::apply::announcer::arp::{answer, gratuitous};
use crate::apply::announcer::filter::{
    ACCEPTED_LENGTH, Instruction, MAXIMUM_INSTRUCTIONS, PACKET_OTHERHOST, PACKET_OUTGOING,
    PACKET_TYPE_OFFSET, accept_all, accept_all_neighbor_discovery, accept_ipv6_vips, accept_vips,
    code, reject_all,
};
use crate::apply::announcer::ndp;
use crate::apply::announcer::verdict::IgnoreReason;

const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// What the kernel's checker (`bpf_check_classic`) asks for, then what its interpreter does.
fn run(program: &[Instruction], frame: &[u8], packet_type: u32) -> u32 {
    assert!((1..=MAXIMUM_INSTRUCTIONS).contains(&program.len()));
    assert_eq!(program.last().unwrap().code, code::RETURN);
    for (position, instruction) in program.iter().enumerate() {
        let furthest = match instruction.code {
            code::JUMP => instruction.constant as usize,
            _ => usize::from(instruction.jump_true.max(instruction.jump_false)),
        };
        assert!(
            position + 1 + furthest <= program.len(),
            "jumps out at {position}"
        );
    }
    let mut accumulator = 0;
    let mut position = 0;
    loop {
        let Instruction {
            code,
            jump_true,
            jump_false,
            constant,
        } = program[position];
        position += 1;
        let jump = |condition| usize::from(if condition { jump_true } else { jump_false });
        match code {
            code::LOAD_WORD if constant == PACKET_TYPE_OFFSET => accumulator = packet_type,
            code::LOAD_BYTE => {
                let Some(octet) = frame.get(constant as usize) else {
                    return 0;
                };
                accumulator = u32::from(*octet);
            }
            code::LOAD_WORD => {
                let offset = constant as usize;
                let Some(word) = frame.get(offset..offset + 4) else {
                    return 0;
                };
                accumulator = u32::from_be_bytes(word.try_into().unwrap());
            }
            code::JUMP => position += constant as usize,
            code::JUMP_IF_EQUAL => position += jump(accumulator == constant),
            code::JUMP_IF_AT_LEAST => position += jump(accumulator >= constant),
            code::RETURN => return constant,
            other => panic!("unknown operation {other:#x}"),
        }
    }
}

fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = gratuitous(target, CLIENT_MAC)[0].to_vec();
    frame[28..32].copy_from_slice(&sender.octets());
    frame
}

fn accepted(program: &[Instruction], sender: Ipv4Addr, target: Ipv4Addr) -> bool {
    let length = run(program, &request(sender, target), PACKET_BROADCAST);
    assert!(length == 0 || length == ACCEPTED_LENGTH);
    length != 0
}

/// The VIPs, their neighbours and the ends of the address space.
fn interesting(vips: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
    vips.iter()
        .map(|vip| u32::from(*vip))
        .flat_map(|vip| [vip.wrapping_sub(1), vip, vip.wrapping_add(1)])
        .chain([0, 1, u32::MAX - 1, u32::MAX, 0x7fff_ffff, 0x8000_0000])
        .map(Ipv4Addr::from)
        .collect()
}

fn check(vips: &BTreeSet<Ipv4Addr>, program: &[Instruction]) {
    let stranger = Ipv4Addr::new(203, 0, 113, 1);
    assert!(!vips.contains(&stranger));
    let set = announced(&vips.iter().copied().collect::<Vec<_>>());
    for address in interesting(vips) {
        let is_vip = vips.contains(&address);
        assert_eq!(
            accepted(program, stranger, address),
            is_vip,
            "target {address}"
        );
        assert_eq!(
            accepted(program, address, stranger),
            is_vip,
            "sender {address}"
        );
        // Whatever the decision would answer or report must get through.
        let heeded = match answer(&request(stranger, address), &interface(), &set) {
            Ok(_) | Err(IgnoreReason::Conflict { .. }) => true,
            Err(_) => false,
        };
        assert_eq!(heeded, is_vip, "{address}");
    }
    if let Some(vip) = vips.first() {
        let frame = request(stranger, *vip);
        assert_ne!(run(program, &frame, PACKET_HOST), 0);
        assert_eq!(run(program, &frame, PACKET_OUTGOING), 0);
        assert_eq!(run(program, &frame, PACKET_OTHERHOST), 0);
        for length in 0..32 {
            assert_eq!(
                run(program, &frame[..length], PACKET_HOST),
                0,
                "{length} octets"
            );
        }
    }
}

/// Addresses that follow one another by `step` from `first` on.
fn spread(first: u32, step: u32, count: u32) -> BTreeSet<Ipv4Addr> {
    (0..count)
        .map(|number| Ipv4Addr::from(first + number * step))
        .collect()
}

#[test]
fn programs_pass_exactly_what_concerns_the_vips() {
    let first = u32::from(Ipv4Addr::new(192, 0, 2, 7));
    let cases = [
        ("none", BTreeSet::new()),
        ("one", spread(first, 1, 1)),
        ("two neighbours", spread(first, 1, 2)),
        ("two apart", spread(first, 1000, 2)),
        (
            "both ends",
            BTreeSet::from([Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST]),
        ),
        ("300 in a row", spread(first, 1, 300)),
        ("300 apart", spread(first, 2, 300)),
        ("just one block", spread(first, 2, 60)),
        ("just more than a block", spread(first, 2, 61)),
        ("950 apart, over the sign bit", spread(0x7fff_fc00, 3, 950)),
        ("5000 in a row", spread(first, 1, 5000)),
    ];
    for (name, vips) in cases {
        let program =
            accept_vips(vips.iter().copied()).unwrap_or_else(|| panic!("{name}: too long"));
        check(&vips, &program);
    }
}

#[test]
fn too_many_scattered_vips_have_no_program() {
    assert_eq!(accept_vips(spread(1 << 24, 2, 5000)), None);
}

#[test]
fn every_size_up_to_two_blocks_is_right() {
    for count in 1..130 {
        let vips = spread(1 << 24, 5, count);
        check(&vips, &accept_vips(vips.iter().copied()).unwrap());
    }
}

#[test]
fn the_fallback_passes_all_arp_but_own_and_foreign_frames() {
    let frame = request(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    assert_ne!(run(&accept_all(), &frame, PACKET_BROADCAST), 0);
    assert_ne!(run(&accept_all(), &frame, PACKET_HOST), 0);
    assert_eq!(run(&accept_all(), &frame, PACKET_OUTGOING), 0);
    assert_eq!(run(&accept_all(), &frame, PACKET_OTHERHOST), 0);
    assert_eq!(run(&reject_all(), &frame, PACKET_BROADCAST), 0);
    assert_eq!(
        run(
            &reject_all(),
            &gratuitous(Ipv4Addr::LOCALHOST, OWN_MAC)[0],
            PACKET_HOST
        ),
        0
    );
}

#[test]
fn neighbor_discovery_passes_by_target_and_source() {
    let vip = |number: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, number);
    let client = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
    for count in [1, 2, 300, 900] {
        let vips: Vec<Ipv6Addr> = (0..count).map(|number| vip(3 * number)).collect();
        let program = accept_ipv6_vips(vips.iter().copied()).unwrap();
        for number in 0..3 * count + 3 {
            let is_vip = vips.contains(&vip(number));
            for frame in [
                ndp::probe(vip(number), CLIENT_MAC).to_vec(),
                ndp::unsolicited(vip(number), CLIENT_MAC)[0].to_vec(),
                // From the address, for another one.
                {
                    let mut frame = ndp::refresh(client, CLIENT_MAC, client, OWN_MAC).to_vec();
                    frame[22..38].copy_from_slice(&vip(number).octets());
                    frame
                },
            ] {
                let passed = run(&program, &frame, PACKET_HOST);
                assert_eq!(passed != 0, is_vip, "{number} of {count}");
                assert!(passed == 0 || passed as usize >= frame.len(), "whole");
                assert_eq!(run(&program, &frame, PACKET_OTHERHOST), 0);
                assert_eq!(run(&program, &frame, PACKET_OUTGOING), 0);
                assert_eq!(run(&program, &frame[..60], PACKET_HOST), 0);
            }
        }
        let mut ping = ndp::probe(vip(0), CLIENT_MAC).to_vec();
        ping[54] = 128;
        assert_eq!(run(&program, &ping, PACKET_HOST), 0);
        assert_eq!(run(&accept_all_neighbor_discovery(), &ping, PACKET_HOST), 0);
        let mut tcp = ndp::probe(vip(0), CLIENT_MAC).to_vec();
        tcp[20] = 6;
        assert_eq!(run(&program, &tcp, PACKET_HOST), 0);
        assert_eq!(run(&accept_all_neighbor_discovery(), &tcp, PACKET_HOST), 0);
    }
    for program in [
        accept_ipv6_vips([vip(0)]).unwrap(),
        accept_all_neighbor_discovery(),
    ] {
        // Behind extension headers it may be one of a neighbor; fragments are none.
        for (next_header, hop_limit, passes) in [
            (0, 255, true),
            (43, 255, true),
            (60, 255, true),
            (0, 1, false),
            (43, 64, false),
            (60, 254, false),
            (44, 255, false),
            (59, 255, false),
        ] {
            let mut frame = ndp::probe(client, CLIENT_MAC).to_vec();
            frame[20..22].copy_from_slice(&[next_header, hop_limit]);
            let passed = run(&program, &frame, PACKET_HOST);
            assert_eq!(passed != 0, passes, "{next_header} {hop_limit}");
            assert!(!passes || passed as usize >= frame.len(), "whole");
            assert_eq!(run(&program, &frame, PACKET_OUTGOING), 0);
        }
    }
    let far = ndp::probe(client, CLIENT_MAC);
    assert_ne!(run(&accept_all_neighbor_discovery(), &far, PACKET_HOST), 0);
    assert_eq!(accept_ipv6_vips([]), Some(reject_all()));
    let scattered = (0..5000).map(|number| vip(2 * number));
    assert_eq!(accept_ipv6_vips(scattered), None);
}
