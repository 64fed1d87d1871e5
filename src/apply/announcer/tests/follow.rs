//! The announcer's life and its counters, as far as they need no kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::announced;
use crate::apply::announcer::burst::BurstSettings;
use crate::apply::announcer::counters::{ANSWERED, AnnouncerCounters};
use crate::apply::announcer::socket::Protocol;
use crate::apply::announcer::{Announcer, AnnouncerEnded};
use crate::model::announcement::AnnouncedSet;

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

#[tokio::test]
async fn a_set_is_in_force_even_where_its_interface_is_missing() {
    let mut set = announced(&[VIP]);
    let mut interface = set.interfaces.pop_first().unwrap().1;
    "no-such-link".clone_into(&mut interface.name);
    set.interfaces.insert(u32::MAX, interface);
    set.generation = 5;
    let (publisher, sets) = watch::channel(Arc::new(set));
    let (follower, view) = Announcer::new(BurstSettings::default(), sets);
    assert_eq!(view.in_force(), None);
    let running = tokio::spawn(follower.run());
    view.wait_in_force(5).await.unwrap();
    let errors = view.errors();
    assert!(
        errors[&u32::MAX]
            .error
            .contains("no-such-link does not exist")
    );

    let empty = AnnouncedSet {
        generation: 6,
        ..AnnouncedSet::default()
    };
    publisher.send(Arc::new(empty)).unwrap();
    view.wait_in_force(6).await.unwrap();
    assert_eq!(view.in_force(), Some(6));
    assert!(view.errors().is_empty());

    drop(publisher);
    running.await.unwrap().unwrap();
    assert_eq!(view.wait_in_force(7).await, Err(AnnouncerEnded));
}

#[test]
fn metrics_have_the_names_of_the_contract() {
    let counters = AnnouncerCounters::default();
    let mut registry = Registry::with_prefix("edgelb");
    counters.register(&mut registry);
    let mut on = counters.on("eth0");
    let vip = IpAddr::V4(VIP);
    for protocol in [Protocol::Arp, Protocol::NeighborDiscovery] {
        on.count_request(protocol, ANSWERED);
        on.count_reply(protocol);
    }
    on.count_gratuitous(vip);
    on.count_refresh(vip);
    on.count_claim(vip, false);
    on.count_claim(vip, true);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        r#"edgelb_arp_requests_total{interface="eth0",result="answered"} 1"#,
        r#"edgelb_arp_replies_total{interface="eth0"} 1"#,
        r#"edgelb_gratuitous_total{interface="eth0",family="ipv4"} 1"#,
        r#"edgelb_ndp_requests_total{interface="eth0",result="answered"} 1"#,
        r#"edgelb_ndp_replies_total{interface="eth0"} 1"#,
        r#"edgelb_neighbour_refreshes_total{interface="eth0",family="ipv4"} 1"#,
        r#"edgelb_address_conflicts_total{vip="192.0.2.10"} 1"#,
        r#"edgelb_rival_claims_total{vip="192.0.2.10"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
