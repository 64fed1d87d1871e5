//! How fast the announcer answers: real frames over a veth pair, asker and announcer on the same
//! processors. Needs root. Run: `cargo bench --bench announcer [SECONDS]`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod load;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use edgelb::apply::announcer::Announcer;
use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::thread::AnnouncerThread;
use edgelb::lab::Namespace;
use edgelb::model::announcement::{AnnouncedInterface, AnnouncedSet};
use load::{Load, ask};
use tokio::sync::watch;

const VIPS: [(&str, IpAddr); 2] = [
    ("arp", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10))),
    (
        "ndp",
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)),
    ),
];
const CLIENT: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const FLOODER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let duration = Duration::from_secs(seconds.unwrap_or(5));
    let node = Namespace::create("node").unwrap();
    let client = Namespace::create("client").unwrap();
    node.create_veth("lan0", &client, "eth0").unwrap();
    node.set_up("lan0").unwrap();
    client.set_up("eth0").unwrap();
    let index = node.link_index("lan0").unwrap();
    let interface = AnnouncedInterface {
        name: "lan0".to_owned(),
        mac: node.mac_address("lan0").unwrap().0,
        addresses: VIPS.map(|(_, vip)| vip).into(),
        watched: VIPS.map(|(_, vip)| vip).into_iter().collect(),
    };
    let set = AnnouncedSet {
        generation: 1,
        interfaces: BTreeMap::from([(index, interface)]),
        ..AnnouncedSet::default()
    };
    let (publisher, sets) = watch::channel(Arc::new(set));
    let (announcer, view) = Announcer::new(
        BurstSettings {
            burst: Vec::new(),
            refresh: None,
        },
        sets,
    );
    let thread = node.try_run(|| AnnouncerThread::start(announcer)).unwrap();
    while view.in_force().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    for (protocol, vip) in VIPS {
        let load = |rate, mac| Load {
            rate,
            duration,
            mac,
            vip,
        };
        for rate in [1_000, 10_000] {
            let measured = ask(&client, load(rate, CLIENT));
            println!("{protocol}, one asker              {}", measured.line());
        }
        let (flood, other) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| ask(&client, load(100_000, FLOODER)));
            let other = ask(&client, load(1_000, CLIENT));
            (flood.join().unwrap(), other)
        });
        println!("{protocol}, flood                  {}", flood.line());
        println!("{protocol}, another in the flood   {}", other.line());
    }
    drop(publisher);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(thread.ended()).unwrap();
}
