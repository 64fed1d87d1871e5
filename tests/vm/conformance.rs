//! The part of conformance case 4 that needs a kernel with SCTP sockets, which every machine with
//! this one has: on both datapaths.

mod ipvs {
    #[test]
    fn case_4b_sctp_reaches_its_own_target() {
        super::sctp("ipvs");
    }
}

mod nftables {
    #[test]
    fn case_4b_sctp_reaches_its_own_target() {
        super::sctp("nftables");
    }
}

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use edgelb::lab::client::Protocol;
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::{Namespace, Workload};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::rig::{PATIENCE, Rig, START, cluster_ips, eventually, request, socket};

/// IANA's number of SCTP.
const SCTP: i32 = 132;
/// Of the Service by every protocol.
const PORT: u16 = 53;
const NODE_PORT: u16 = 30_053;

fn open(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(socket2::Protocol::from(SCTP)),
    )
}

/// Tells each client by SCTP whom it sees, until the process ends.
fn serve(workload: &Workload) {
    for any in [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ] {
        let address = SocketAddr::new(any, PORT);
        let listener = workload
            .namespace
            .try_run(|| {
                let listener = open(address)?;
                if address.is_ipv6() {
                    listener.set_only_v6(true)?;
                }
                listener.bind(&address.into())?;
                listener.listen(8)?;
                Ok(listener)
            })
            .unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let peer = peer.as_socket().unwrap().ip();
                // A client that has gone learns nothing.
                let _ = stream.write_all(peer.to_string().as_bytes());
            }
        });
    }
}

/// Whom the server saw.
fn ask(from: &Namespace, to: SocketAddr) -> io::Result<IpAddr> {
    from.try_run(|| {
        let mut stream = open(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.connect_timeout(&to.into(), Duration::from_secs(5))?;
        let mut buffer = [0; 64];
        let length = stream.read(&mut buffer)?;
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        text.parse().map_err(io::Error::other)
    })
}

fn objects(rig: &Rig) -> Value {
    let addresses = cluster_ips(4);
    let workload = rig.workload("web-1");
    let ports = [("TCP", 9090), ("UDP", 8080), ("SCTP", PORT)];
    let service_ports = ports.map(|(protocol, target)| {
        let name = protocol.to_lowercase();
        json!({"name": name, "protocol": protocol, "port": PORT, "targetPort": target, "nodePort": NODE_PORT})
    });
    let slice_ports = ports.map(|(protocol, port)| {
        json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port})
    });
    let slice = |family: &str, address: IpAddr| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("dns-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "dns"},
            },
            "addressType": family,
            "endpoints": [{"addresses": [address], "nodeName": rig.lab.node(0).unwrap().name}],
            "ports": slice_ports,
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"},
            "spec": {
                "type": "NodePort",
                "clusterIP": addresses.ipv4, "clusterIPs": addresses.both(),
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "ports": service_ports,
            },
        },
        slice("IPv4", workload.address.ipv4.into()),
        slice("IPv6", workload.address.ipv6.into()),
    ]})
}

fn sctp(datapath: &str) {
    let mut rig = Rig::new(1, 2);
    if datapath != super::rig::datapath() {
        rig.daemons[0].terminate(Duration::from_secs(10)).unwrap();
        let options = DaemonOptions {
            datapath: datapath.to_owned(),
            ..rig.options(toml::Table::new())
        };
        rig.daemons[0] = Daemon::start(&rig.lab, 0, &options).unwrap();
        rig.daemons[0].wait_ready(START).unwrap();
    }
    serve(rig.workload("web-1"));
    let objects = objects(&rig).to_string();
    rig.manifests.write("dns.json", &objects).unwrap();
    let client = rig.workload("web-2");
    let node = rig.lab.node(0).unwrap().address;
    for (index, address) in cluster_ips(4).both().into_iter().enumerate() {
        let to = socket(address, PORT);
        eventually(PATIENCE, || {
            request(&client.namespace, to, Protocol::Tcp).ok()
        });
        request(&client.namespace, to, Protocol::Udp).unwrap();
        let seen = ask(&client.namespace, to).unwrap();
        assert_eq!(seen, client.address.both()[index], "{to}");
        let to = socket(node.both()[index], NODE_PORT);
        let seen = ask(rig.client(), to).unwrap();
        assert!(
            !rig.lab.client().unwrap().address.both().contains(&seen),
            "{seen}"
        );
    }
}
