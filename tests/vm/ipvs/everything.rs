//! One of everything that IPVS can hold, and how `ipvsadm -Sn` says it.

use std::net::Ipv4Addr;

use edgelb::apply::ipvs::types::*;

pub fn address_key(protocol: Protocol, address: &str, port: u16) -> VirtualServerKey {
    VirtualServerKey::Address {
        protocol,
        address: address.parse().unwrap(),
        port,
    }
}

pub fn tcp(address: &str, port: u16) -> VirtualServerKey {
    address_key(Protocol::Tcp, address, port)
}

pub fn real(address: &str, port: u16) -> RealServerKey {
    RealServerKey {
        address: address.parse().unwrap(),
        port,
    }
}

pub fn masquerade(weight: u32) -> RealServer {
    RealServer::new(ForwardingMethod::Masquerade, weight)
}

pub fn tunnel(kind: TunnelKind, port: u16, flags: u16) -> RealServer {
    RealServer::new(ForwardingMethod::Tunnel(Tunnel { kind, port, flags }), 2)
}

/// One of each kind.
pub fn everything() -> Vec<Change> {
    use Change::{NewRealServer, NewVirtualServer};
    let plain = VirtualServer::new;
    let persistent = |scheduler: &str, timeout, granularity| VirtualServer {
        persistence: Some(Persistence {
            timeout,
            granularity,
        }),
        ..plain(scheduler)
    };
    let hashed = |scheduler: &str, scheduler_flags| VirtualServer {
        scheduler_flags,
        ..plain(scheduler)
    };
    let mask = Granularity::Ipv4(Ipv4Addr::new(255, 255, 255, 0));
    let (web, web6) = (tcp("192.0.2.10", 80), tcp("2001:db8::10", 443));
    let maglev = tcp("192.0.2.13", 80);
    let mark4 = VirtualServerKey::FirewallMark {
        mark: 7,
        family: Family::Ipv4,
    };
    let mark6 = VirtualServerKey::FirewallMark {
        mark: 8,
        family: Family::Ipv6,
    };
    let name4 = address_key(Protocol::Udp, "192.0.2.10", 53);
    let sctp = address_key(Protocol::Sctp, "192.0.2.10", 3868);
    let sctp6 = address_key(Protocol::Sctp, "2001:db8::10", 3868);
    let source_hash = hashed("sh", SCHEDULER_FLAG_PORT);
    let both = hashed("mh", SCHEDULER_FLAG_FALLBACK | SCHEDULER_FLAG_PORT);
    let one_packet = VirtualServer {
        one_packet: true,
        ..plain("rr")
    };
    let direct = RealServer::new(ForwardingMethod::DirectRouting, 1);
    let thresholds = RealServer {
        upper_threshold: 100,
        lower_threshold: 50,
        ..masquerade(0)
    };
    vec![
        NewVirtualServer(web, plain("rr")),
        NewVirtualServer(name4, persistent("wlc", 600, mask)),
        NewVirtualServer(address_key(Protocol::Udp, "192.0.2.11", 53), one_packet),
        NewVirtualServer(sctp, plain("lc")),
        NewVirtualServer(sctp6, plain("lc")),
        NewVirtualServer(web6, plain("wrr")),
        NewVirtualServer(
            tcp("2001:db8::11", 443),
            persistent("rr", 300, Granularity::Ipv6(64)),
        ),
        NewVirtualServer(mark4, plain("rr")),
        NewVirtualServer(
            mark6,
            persistent("wlc", 50, Granularity::host(Family::Ipv6)),
        ),
        NewVirtualServer(tcp("192.0.2.12", 80), source_hash),
        NewVirtualServer(maglev, both),
        NewRealServer(web, real("10.1.0.1", 8080), masquerade(3)),
        NewRealServer(web, real("10.1.0.2", 8080), thresholds),
        NewRealServer(web, real("127.0.0.1", 8080), masquerade(1)),
        NewRealServer(mark4, real("10.1.0.3", 0), direct),
        NewRealServer(mark6, real("2001:db8:1::3", 0), direct),
        NewRealServer(maglev, real("10.1.0.4", 80), tunnel(TunnelKind::Ipip, 0, 0)),
        NewRealServer(
            maglev,
            real("10.1.0.5", 80),
            tunnel(TunnelKind::Gue, 6080, TUNNEL_REMOTE_CHECKSUM),
        ),
        NewRealServer(
            maglev,
            real("10.1.0.6", 80),
            tunnel(TunnelKind::Gre, 0, TUNNEL_CHECKSUM),
        ),
        NewRealServer(
            maglev,
            real("2001:db8:1::2", 80),
            tunnel(TunnelKind::Ipip, 0, 0),
        ),
        NewRealServer(web6, real("2001:db8:1::1", 8443), masquerade(5)),
        NewRealServer(sctp, real("10.1.0.7", 3868), masquerade(1)),
    ]
}

pub const EVERYTHING_SAVED: &str = "
    -A -t 192.0.2.10:80 -s rr
    -A -u 192.0.2.10:53 -s wlc -p 600 -M 255.255.255.0
    -A -u 192.0.2.11:53 -s rr -o
    -A --sctp-service 192.0.2.10:3868 -s lc
    -A --sctp-service [2001:db8::10]:3868 -s lc
    -A -t [2001:db8::10]:443 -s wrr
    -A -t [2001:db8::11]:443 -s rr -p 300 -M 64
    -A -f 7 -s rr
    -A -f 8 -6 -s wlc -p 50
    -A -t 192.0.2.12:80 -s sh -b sh-port
    -A -t 192.0.2.13:80 -s mh -b mh-fallback,mh-port
    -a -t 192.0.2.10:80 -r 10.1.0.1:8080 -m -w 3
    -a -t 192.0.2.10:80 -r 10.1.0.2:8080 -m -w 0
    -a -t 192.0.2.10:80 -r 127.0.0.1:8080 -m -w 1
    -a -f 7 -r 10.1.0.3:0 -g -w 1
    -a -f 8 -6 -r [2001:db8:1::3]:0 -g -w 1
    -a -t 192.0.2.13:80 -r 10.1.0.4:80 -i -w 2 --tun-type ipip
    -a -t 192.0.2.13:80 -r 10.1.0.5:80 -i -w 2 --tun-type gue --tun-port 6080 --tun-remcsum
    -a -t 192.0.2.13:80 -r 10.1.0.6:80 -i -w 2 --tun-type gre --tun-csum
    -a -t 192.0.2.13:80 -r [2001:db8:1::2]:80 -i -w 2 --tun-type ipip
    -a -t [2001:db8::10]:443 -r [2001:db8:1::1]:8443 -m -w 5
    -a --sctp-service 192.0.2.10:3868 -r 10.1.0.7:3868 -m -w 1
";
