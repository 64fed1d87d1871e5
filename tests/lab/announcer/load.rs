//! Many questions at a time. How fast they are answered, `cargo bench --bench announcer` measures on a
//! machine that does nothing else; here nothing may be lost.

#[path = "../../../benches/announcer/load.rs"]
mod measure;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edgelb::apply::announcer::socket::Protocol;
use edgelb::apply::announcer::thread::AnnouncerThread;
use edgelb::apply::announcer::{Announcer, AnnouncerView};
use edgelb::lab::Namespace;
use edgelb::model::announcement::{AnnouncedInterface, AnnouncedSet};
use tokio::sync::watch;

use super::ipv6::VIP as IPV6_VIP;
use super::lan::runtime;
use super::{VIP, silent};
use measure::{Load, ask};

const CLIENT: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const FLOODER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];

/// An announcer and somebody who asks it.
struct Asked {
    client: Namespace,
    publisher: Option<watch::Sender<Arc<AnnouncedSet>>>,
    view: AnnouncerView,
    thread: Option<AnnouncerThread>,
}

impl Asked {
    fn new() -> Self {
        let node = Namespace::create("node").unwrap();
        let client = Namespace::create("client").unwrap();
        node.create_veth("lan0", &client, "eth0").unwrap();
        node.set_up("lan0").unwrap();
        client.set_up("eth0").unwrap();
        let interface = AnnouncedInterface {
            name: "lan0".to_owned(),
            mac: node.mac_address("lan0").unwrap().0,
            addresses: [VIP.into(), IpAddr::V6(IPV6_VIP)].into(),
            watched: imbl::OrdSet::new(),
        };
        let set = AnnouncedSet {
            generation: 1,
            interfaces: BTreeMap::from([(node.link_index("lan0").unwrap(), interface)]),
            ..AnnouncedSet::default()
        };
        let (publisher, sets) = watch::channel(Arc::new(set));
        let (announcer, view) = Announcer::new(silent(), sets);
        let thread = node.try_run(|| AnnouncerThread::start(announcer)).unwrap();
        runtime().block_on(view.wait_in_force(1)).unwrap();
        Self {
            client,
            publisher: Some(publisher),
            view,
            thread: Some(thread),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.publisher = None;
        let ended = self
            .thread
            .take()
            .map(|thread| runtime().block_on(thread.ended()));
        if !std::thread::panicking() {
            ended.unwrap().expect("the announcer ended well");
        }
    }
}

fn load(rate: u32, mac: [u8; 6], vip: impl Into<IpAddr>) -> Load {
    Load {
        rate,
        duration: Duration::from_secs(2),
        mac,
        vip: vip.into(),
    }
}

#[test]
fn ten_thousand_requests_in_a_second_are_all_answered() {
    let asked = Asked::new();
    for vip in [IpAddr::from(VIP), IPV6_VIP.into()] {
        let measured = ask(&asked.client, load(10_000, CLIENT, vip));
        assert_eq!(
            (measured.lost(), measured.sent),
            (0, 20_000),
            "{}",
            measured.line()
        );
    }
}

#[test]
fn a_flood_from_one_source_is_cut_and_others_are_answered() {
    let asked = Asked::new();
    let (flood, other) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| ask(&asked.client, load(100_000, FLOODER, VIP)));
        let other = ask(&asked.client, load(1_000, CLIENT, VIP));
        (flood.join().unwrap(), other)
    });
    let limited = asked
        .view
        .counters()
        .requests(Protocol::Arp, "lan0", "rate_limited");
    // An emulated machine cannot ask faster than is answered.
    let faster = flood.rate > 30_000.0;
    assert!(faster || crate::rig::ipvs(), "{}", flood.line());
    assert!(limited > 0 || !faster, "{}", flood.line());
    // Twenty thousand at once, and as many in each second; the flood takes longer on a busy machine.
    let seconds = f64::from(u32::try_from(flood.sent).unwrap()) / flood.rate;
    let answered = f64::from(u32::try_from(flood.answered).unwrap());
    let most = 20_000.0 * (1.5 + seconds);
    assert!(answered <= most, "{}", flood.line());
    // The kernel's queue holds 50 ms of the flood: a busy machine may stop this process for longer.
    assert!(other.lost() * 10 <= other.sent, "{}", other.line());
}
