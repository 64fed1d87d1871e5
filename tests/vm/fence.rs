//! The fence on interfaces that only this kernel has: VLANs and bonds.

use std::net::IpAddr;

use crate::lan::{Held, Lan, VIP4, VIP6, run, tagged};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

#[test]
fn vlans_and_bonds_are_fenced_and_share_the_lease() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    for command in [
        "ip link add eth0.10 link eth0 type vlan id 10",
        "ip link add port0 type veth peer name port1",
        "ip link add bond0 type bond mode active-backup",
        "ip link set port0 down",
        "ip link set port0 master bond0",
        "ip link set port1 up",
        "ip link set bond0 up",
        "ip link set eth0.10 up",
    ] {
        run(&node.namespace, command);
    }
    let mut fenced = node.fenced(&[]);
    for interface in ["eth0.10", "bond0", "port0"] {
        let index = node.index(interface);
        fenced.interfaces.insert(index, interface.to_owned());
    }
    let mut fence = node.fence(&fenced);
    let frames: Vec<Vec<u8>> = (VIPS.iter())
        .flat_map(|vip| node.announcements(*vip))
        .collect();
    let leave = |fence: &mut Held, interface: &str, expected: bool| {
        for frame in &frames {
            for frame in [frame.clone(), tagged(frame, 0)] {
                let left = node.sends_leased(fence, interface, &frame);
                assert_eq!(left, expected, "{interface}: {frame:02x?}");
            }
        }
    };
    for interface in ["eth0.10", "bond0", "eth0"] {
        leave(&mut fence, interface, false);
    }
    // The parent lets frames of another VLAN pass: that is another LAN, judged at its own interface.
    assert!(node.sends("eth0", 3, &tagged(&frames[0], 10)));
    fenced.owned = VIPS.into_iter().collect();
    node.within(|| fence.set(&fenced)).unwrap();
    for interface in ["eth0.10", "bond0", "eth0"] {
        leave(&mut fence, interface, true);
    }
}
