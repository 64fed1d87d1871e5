//! Builds the classic BPF programs that let only the ARP and neighbor discovery frames that concern
//! the VIPs out of the kernel, so that a busy LAN costs this process nothing. Pure. They only save
//! work: each frame that passes is judged again by [`super::arp::answer`] or [`super::ndp::answer`].

use std::net::{Ipv4Addr, Ipv6Addr};

/// The kernel's longest program (`BPF_MAXINSNS`, `linux/bpf_common.h`).
pub const MAXIMUM_INSTRUCTIONS: usize = 4096;

/// Octets of a passing ARP frame that are kept: it is 42 long, what follows is padding.
pub const ACCEPTED_LENGTH: u32 = 128;

/// Passes a frame whole: the checksum of neighbor discovery is over all of it.
const WHOLE_FRAME: u32 = 0xffff;

/// One instruction, in the layout of `struct sock_filter` (`linux/filter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the condition holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Constant operand.
    pub constant: u32,
}

/// Operations used here, from `linux/bpf_common.h`.
pub mod code {
    /// `BPF_LD | BPF_W | BPF_ABS`: the accumulator takes 32 bits of the frame.
    pub const LOAD_WORD: u16 = 0x20;
    /// `BPF_LD | BPF_B | BPF_ABS`: the accumulator takes 8 bits of the frame.
    pub const LOAD_BYTE: u16 = 0x30;
    /// `BPF_JMP | BPF_JA`: skips `constant` instructions.
    pub const JUMP: u16 = 0x05;
    /// `BPF_JMP | BPF_JEQ | BPF_K`.
    pub const JUMP_IF_EQUAL: u16 = 0x15;
    /// `BPF_JMP | BPF_JGE | BPF_K`, unsigned.
    pub const JUMP_IF_AT_LEAST: u16 = 0x35;
    /// `BPF_RET | BPF_K`: accepts that many octets of the frame; zero drops it.
    pub const RETURN: u16 = 0x06;
}

/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: loads who the frame is addressed to instead of its octets.
pub const PACKET_TYPE_OFFSET: u32 = 0xffff_f000 + 4;
/// `PACKET_OTHERHOST`: not for this host, among them frames of a VLAN that has no interface here,
/// whose tag is already taken off and which must not be answered on the untagged network.
pub const PACKET_OTHERHOST: u32 = 3;
/// `PACKET_OUTGOING`: sent by this host.
pub const PACKET_OUTGOING: u32 = 4;

const SENDER_ADDRESS_OFFSET: u32 = 28;
const TARGET_ADDRESS_OFFSET: u32 = 38;

/// `next header` of IPv6, and the type of the `ICMPv6` message directly behind that header.
const NEXT_HEADER_OFFSET: u32 = 20;
const MESSAGE_TYPE_OFFSET: u32 = 54;
const HOP_LIMIT_OFFSET: u32 = 21;
const ICMPV6: u32 = 58;
/// Extension headers that may stand in front of it: hop-by-hop options, routing, destination options. A
/// fragment is none (RFC 6980).
const EXTENSIONS: [u32; 3] = [0, 43, 60];
/// What a neighbor of this LAN sends (RFC 4861, section 7.1), and nearly nothing else has behind such a
/// header: neither multicast listener reports (1) nor what comes from afar.
const NEIGHBOR_HOP_LIMIT: u32 = 255;
const NEIGHBOR_SOLICITATION: u32 = 135;
const NEIGHBOR_ADVERTISEMENT: u32 = 136;
/// The last 32 bits of the source, and of the target of both messages.
const SOURCE_END_OFFSET: u32 = 34;
const TARGET_END_OFFSET: u32 = 74;

/// Boundaries per block: a block's two exits must be in reach of its first conditional jump (255).
const BLOCK_BOUNDARIES: usize = 120;

/// Drops everything.
pub fn reject_all() -> Vec<Instruction> {
    vec![ret(0)]
}

/// Passes all ARP frames of other hosts that are addressed to this host or broadcast. For the case
/// that the VIPs do not fit into a program.
pub fn accept_all() -> Vec<Instruction> {
    let mut program = packet_type_check();
    program.push(ret(ACCEPTED_LENGTH));
    program
}

/// Passes the ARP frames of other hosts whose target or sender protocol address is one of `vips`;
/// none, where there are too many scattered VIPs for one program.
///
/// Runs of neighbouring addresses count as one: some 950 runs fit.
pub fn accept_vips(vips: impl IntoIterator<Item = Ipv4Addr>) -> Option<Vec<Instruction>> {
    let boundaries = boundaries(vips.into_iter().map(u32::from));
    let words = [TARGET_ADDRESS_OFFSET, SENDER_ADDRESS_OFFSET];
    accept_words(packet_type_check(), words, &boundaries, ACCEPTED_LENGTH)
}

/// Passes the neighbor solicitations and advertisements of other hosts whatever their target is. For
/// the case that the VIPs do not fit into a program.
pub fn accept_all_neighbor_discovery() -> Vec<Instruction> {
    let mut program = neighbor_discovery_check();
    program.push(ret(WHOLE_FRAME));
    program
}

/// Passes the neighbor solicitations and advertisements of other hosts whose target or source is one
/// of `vips` by its last 32 bits, in which the addresses of a pool differ; none, where there are too
/// many scattered VIPs for one program.
pub fn accept_ipv6_vips(vips: impl IntoIterator<Item = Ipv6Addr>) -> Option<Vec<Instruction>> {
    let boundaries = boundaries(vips.into_iter().map(|vip| {
        let [.., high, low] = vip.segments();
        u32::from(high) << 16 | u32::from(low)
    }));
    let words = [TARGET_END_OFFSET, SOURCE_END_OFFSET];
    accept_words(neighbor_discovery_check(), words, &boundaries, WHOLE_FRAME)
}

/// Passes what `program` lets through where one of the two words is within the boundaries.
fn accept_words(
    mut program: Vec<Instruction>,
    words: [u32; 2],
    boundaries: &[u32],
    accepted: u32,
) -> Option<Vec<Instruction>> {
    if boundaries.is_empty() {
        return Some(reject_all());
    }
    for offset in words {
        program.push(load(code::LOAD_WORD, offset));
        program.extend(search(boundaries, accepted)?);
    }
    program.push(ret(0));
    (program.len() <= MAXIMUM_INSTRUCTIONS).then_some(program)
}

/// Where membership changes, ascending: an address is a VIP when an odd number of boundaries is at
/// most as large as it is.
fn boundaries(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut boundaries: Vec<u32> = Vec::new();
    for number in numbers {
        if boundaries.last() == Some(&number) {
            boundaries.pop();
        } else {
            boundaries.push(number);
        }
        // Above the largest there is no number left, so that run needs no end.
        if let Some(end) = number.checked_add(1) {
            boundaries.push(end);
        }
    }
    boundaries
}

/// Returns acceptance when the accumulator is a VIP, else goes on behind the last instruction.
fn search(boundaries: &[u32], accepted: u32) -> Option<Vec<Instruction>> {
    let mut search = Search {
        accepted,
        code: Vec::new(),
        misses: Vec::new(),
    };
    search.tree(boundaries, false)?;
    search.finish()
}

/// A binary search under construction.
struct Search {
    /// Octets of a passing frame.
    accepted: u32,
    code: Vec<Instruction>,
    /// Positions of jumps that must lead behind the last instruction.
    misses: Vec<usize>,
}

impl Search {
    /// A subtree over `boundaries`; `inside` says whether an address below them all is a VIP.
    fn tree(&mut self, boundaries: &[u32], inside: bool) -> Option<()> {
        if boundaries.len() <= BLOCK_BOUNDARIES {
            return self.block(boundaries, inside);
        }
        let (below, above) = boundaries.split_at(boundaries.len() / 2);
        self.code.push(at_least(*above.first()?, 0, 1));
        let far = self.code.len();
        self.code.push(jump(0));
        self.tree(below, inside)?;
        let distance = self.code.len().checked_sub(far + 1)?;
        *self.code.get_mut(far)? = jump(u32::try_from(distance).ok()?);
        self.tree(above.get(1..)?, inside ^ below.len().is_multiple_of(2))
    }

    /// The conditional jumps of one block, then its two exits.
    fn block(&mut self, boundaries: &[u32], inside: bool) -> Option<()> {
        let exit = boundaries.len();
        emit_block(&mut self.code, boundaries, inside, 0, exit)?;
        self.code.push(ret(self.accepted));
        self.misses.push(self.code.len());
        self.code.push(jump(0));
        Some(())
    }

    fn finish(mut self) -> Option<Vec<Instruction>> {
        let end = self.code.len();
        for miss in self.misses {
            let distance = u32::try_from(end.checked_sub(miss + 1)?).ok()?;
            *self.code.get_mut(miss)? = jump(distance);
        }
        Some(self.code)
    }
}

/// Emits a balanced tree at `position` of a block whose accepting exit stands at `exit` and whose
/// other exit follows it. A boundary is one instruction, so that positions are known beforehand: the
/// root, then the boundaries below it, then those above.
fn emit_block(
    code: &mut Vec<Instruction>,
    boundaries: &[u32],
    inside: bool,
    position: usize,
    exit: usize,
) -> Option<()> {
    let middle = boundaries.len() / 2;
    let (below, rest) = boundaries.split_at(middle);
    let Some((root, above)) = rest.split_first() else {
        // An empty tree is only reached as a whole block: nothing was emitted, so choose the exit.
        if !inside {
            code.push(jump(1));
        }
        return Some(());
    };
    let inside_above = inside ^ middle.is_multiple_of(2);
    let next = position + 1;
    let leaf = |inside: bool| if inside { exit } else { exit + 1 };
    let to_below = if below.is_empty() { leaf(inside) } else { next };
    let to_above = if above.is_empty() {
        leaf(inside_above)
    } else {
        next + below.len()
    };
    code.push(at_least(
        *root,
        u8::try_from(to_above - next).ok()?,
        u8::try_from(to_below - next).ok()?,
    ));
    if !below.is_empty() {
        emit_block(code, below, inside, next, exit)?;
    }
    if !above.is_empty() {
        emit_block(code, above, inside_above, next + below.len(), exit)?;
    }
    Some(())
}

fn packet_type_check() -> Vec<Instruction> {
    vec![
        load(code::LOAD_WORD, PACKET_TYPE_OFFSET),
        is(PACKET_OUTGOING, 1, 0),
        is(PACKET_OTHERHOST, 0, 1),
        ret(0),
    ]
}

/// Goes on with a message that can be judged where it stands; passes one that may stand behind extension
/// headers, as hosts take that for one too.
fn neighbor_discovery_check() -> Vec<Instruction> {
    let mut program = packet_type_check();
    let [hop_by_hop, routing, destination] = EXTENSIONS;
    program.extend([
        load(code::LOAD_BYTE, NEXT_HEADER_OFFSET),
        is(ICMPV6, 7, 0),
        is(hop_by_hop, 2, 0),
        is(routing, 1, 0),
        is(destination, 0, 3),
        load(code::LOAD_BYTE, HOP_LIMIT_OFFSET),
        is(NEIGHBOR_HOP_LIMIT, 0, 1),
        ret(WHOLE_FRAME),
        ret(0),
        load(code::LOAD_BYTE, MESSAGE_TYPE_OFFSET),
        is(NEIGHBOR_SOLICITATION, 2, 0),
        is(NEIGHBOR_ADVERTISEMENT, 1, 0),
        ret(0),
    ]);
    program
}

const fn load(code: u16, offset: u32) -> Instruction {
    Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        constant: offset,
    }
}

const fn is(constant: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code: code::JUMP_IF_EQUAL,
        jump_true,
        jump_false,
        constant,
    }
}

const fn ret(constant: u32) -> Instruction {
    Instruction {
        code: code::RETURN,
        jump_true: 0,
        jump_false: 0,
        constant,
    }
}

const fn jump(constant: u32) -> Instruction {
    Instruction {
        code: code::JUMP,
        jump_true: 0,
        jump_false: 0,
        constant,
    }
}

const fn at_least(constant: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code: code::JUMP_IF_AT_LEAST,
        jump_true,
        jump_false,
        constant,
    }
}
