//! Packets that fit no connection: they must not end one that goes on.

use std::net::{IpAddr, SocketAddr};

use edgelb::lab::client::{Protocol, RequestError, open_stream, request};

use crate::packets::{ACK, FIN, LONG, SYN, Segment, Wire};
use crate::rig::{PATIENCE, Rig, ipvs, socket, web};

/// From here on ports of the client that nothing uses.
const UNUSED: u16 = 20_000;

/// Out of the order of a connection, as a middlebox or an attacker sends it: to be translated it would have
/// to fit, and refused as if no port were there it would end the connection at the client.
#[test]
fn what_fits_no_connection_resets_none() {
    let rig = Rig::new(1, 1);
    let mut service = web("web", 7);
    let vips = ["192.0.2.207", "fd00:2::207"];
    let wanted = ("edgelb.io/ips".to_owned(), vips.join(","));
    service.annotations.extend([wanted]);
    rig.serve(&service, &rig.workloads());
    let wire = Wire::open(rig.client());
    let node = rig.node(0).mac_address("eth0").unwrap();
    let own = rig.lab.client().unwrap().address.both();
    for (vip, own) in vips.into_iter().zip(own) {
        let vip: IpAddr = vip.parse().unwrap();
        let to = socket(vip, 80);
        rig.wait_served(rig.client(), to, Protocol::Tcp);
        let mut stream = open_stream(rig.client(), to).unwrap();
        stream.send("before").unwrap();
        let segment = |port: u16, to: SocketAddr, flags: u8| {
            let from = SocketAddr::new(own, port);
            let segment = Segment {
                from,
                to,
                flags,
                hops: LONG,
            };
            segment.packet()
        };
        let port = stream.local_address().port();
        // IPVS forwards by its own table what conntrack cannot place: there the endpoint judges it.
        if !ipvs() {
            wire.send(node, &segment(port, to, SYN | ACK));
        }
        // The end of a connection that nobody has, which conntrack cannot place either.
        wire.send(node, &segment(UNUSED, to, FIN | ACK));
        // Neither is answered: what opens a connection to another port is, and would be later.
        let closed = socket(vip, 81);
        wire.send(node, &segment(UNUSED + 1, closed, SYN));
        let first = wire.reset_by(vip, PATIENCE);
        assert_eq!(first, Some((81, UNUSED + 1)), "{vip}");
        assert_eq!(stream.send("after").unwrap().text, "after", "{vip}");
        // In the middle of a connection that nobody has: its client is told.
        wire.send(node, &segment(UNUSED + 2, to, ACK));
        let next = wire.reset_by(vip, PATIENCE);
        assert_eq!(next, Some((80, UNUSED + 2)), "{vip}");
        let refused = request(rig.client(), closed, Protocol::Tcp);
        assert!(matches!(refused, Err(RequestError::Refused)), "{refused:?}");
    }
}
