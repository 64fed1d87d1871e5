//! Who owns what some nodes could not program.

use super::*;
use crate::model::peer::MOST_EXCEPTIONS;

/// Who could not program a VIP does not own it while another can; where nobody can, one of them does.
#[test]
fn what_is_not_served_whole_is_owned_by_another_or_as_a_last_resort() {
    let mut lan = three();
    let first = lan.owner(VIP);
    lan.member(first).exceptions = vec![ip(VIP)];
    lan.settle();
    let second = lan.owner(VIP);
    assert_ne!(second, first);
    for name in lan.members.keys().copied().collect::<Vec<_>>() {
        lan.member(name).exceptions = vec![ip(VIP)];
    }
    lan.pass(Duration::from_secs(10));
    assert_eq!(lan.owner(VIP), second, "as good as any other");
    lan.member(second).presence = Presence::Down;
    lan.pass(Duration::from_secs(3));
    let third = lan.owner(VIP);
    assert_ne!(third, second);
    // Whoever serves it again takes it over.
    let again = another(&lan, &[second, third]);
    lan.member(again).exceptions.clear();
    lan.pass(Duration::from_secs(3));
    assert_eq!(lan.owner(VIP), again);
}

/// A LAN of three with so many VIPs, by name.
fn crowded(vips: usize) -> (Lan, Vec<String>) {
    let names: Vec<String> = (0..vips)
        .map(|number| format!("192.0.2.{}", 100 + number))
        .collect();
    let mut lan = Lan::new(&["a", "b", "c"], &[]);
    lan.config.pools[0] = Pool::new("lan", vec!["192.0.2.100-192.0.2.250".parse().unwrap()]);
    for name in &names {
        lan.serve(&[name]);
    }
    lan.settle();
    (lan, names)
}

/// However many fail: what a node thinks of itself is what the others hear, so that each VIP has one owner.
#[test]
fn many_exceptions_leave_no_vip_without_an_owner() {
    for number in [17, MOST_EXCEPTIONS, MOST_EXCEPTIONS + 1, 120] {
        let (mut lan, names) = crowded(120);
        let first = lan.owner(&names[0]);
        lan.member(first).exceptions = names[..number].iter().map(|name| ip(name)).collect();
        lan.settle();
        lan.pass(Duration::from_secs(10));
        for (place, name) in names.iter().enumerate() {
            let owner = lan.owner(name);
            assert!(
                place >= number || owner != first,
                "{name} of {number} is left where it is not served"
            );
        }
        // Served by nobody, they are owned all the same, and the rest is not lost.
        for name in ["a", "b", "c"] {
            lan.member(name).exceptions = names[..number].iter().map(|name| ip(name)).collect();
        }
        lan.pass(Duration::from_secs(10));
        lan.member(first).presence = Presence::Down;
        lan.pass(Duration::from_secs(10));
        for name in &names {
            assert_ne!(lan.owner(name), first);
        }
    }
}

#[test]
fn what_the_kernel_lacks_is_told_before_what_is_not_planned() {
    let vip = |number: usize| -> IpAddr { format!("2001:db8::{number:x}").parse().unwrap() };
    let lowest = (0..MOST_EXCEPTIONS).map(vip);
    let failed = [vip(500), vip(501)];
    let told = Exceptions::of(failed, lowest.clone());
    assert_eq!(told.vips.len(), MOST_EXCEPTIONS);
    assert!(failed.iter().all(|vip| told.vips.contains(vip)));
    assert!(!told.more);
    assert!(Exceptions::of(lowest.clone(), []).vips.len() == MOST_EXCEPTIONS);
    assert!(!Exceptions::of(lowest.clone(), [vip(500)]).more);
    let told = Exceptions::of(lowest.chain([vip(500)]), []);
    assert_eq!(told.vips.len(), MOST_EXCEPTIONS);
    assert!(told.more);
    let told = Exceptions::of([], (0..500).map(vip));
    assert!(!told.more, "somebody else claims those");
    assert_eq!(told.vips.len(), MOST_EXCEPTIONS);
}
