//! Who claims what when groups, addresses and nodes change.

use super::*;

#[test]
fn what_has_a_service_in_common_moves_together() {
    let mut lan = Lan::new(&["a", "b", "c"], &[&[VIP, VIP6], &[OTHER]]);
    lan.settle();
    for name in ["a", "b", "c"] {
        assert_eq!(lan.owner(VIP), lan.owner(VIP6));
        lan.member(name).presence = Presence::Down;
        lan.settle();
        assert_eq!(lan.owner(VIP), lan.owner(VIP6));
        lan.member(name).presence = Presence::Alive;
        lan.settle();
    }
    // Two groups become one: one of the two owners has all of it.
    lan.table.groups.remove(&ip(OTHER));
    lan.serve(&[VIP, OTHER, VIP6]);
    lan.settle();
    assert_eq!(lan.owner(VIP), lan.owner(OTHER));
    assert_eq!(lan.owner(VIP), lan.owner(VIP6));
}

#[test]
fn nothing_is_claimed_before_the_others_were_heard() {
    let mut lan = Lan::new(&["a"], &[&[VIP]]);
    lan.member("a").settled = false;
    lan.settle();
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.member("a").settled = true;
    lan.settle();
    assert_eq!(lan.owner(VIP), "a");
}

#[test]
fn an_address_that_another_host_uses_is_not_claimed() {
    let mut lan = Lan::new(&["a"], &[&[VIP]]);
    lan.step("a");
    assert_eq!(lan.member("a").asked, [ip(VIP)]);
    assert_eq!(lan.announcers(VIP), [""; 0]);
    let mac = MacAddress([2, 0, 0, 0, 9, 9]);
    let now = lan.now;
    let used = BTreeMap::from([(ip(VIP), mac)]);
    lan.member("a")
        .engine
        .probed(&[ip(VIP)], &used, &BTreeSet::new(), now);
    lan.member("a").asked.clear();
    lan.step("a");
    assert_eq!(lan.announcers(VIP), [""; 0]);
    let told: Vec<_> = lan.member("a").engine.used_by_others().collect();
    assert_eq!(told, [(ip(VIP), mac)]);
    // It is asked for again, and free by then.
    lan.pass(Duration::from_secs(6));
    assert_eq!(lan.owner(VIP), "a");
    // From then on it is defended: nobody asks again before it is taken over.
    lan.join("b");
    lan.settle();
    lan.member("a").presence = Presence::Down;
    lan.step("b");
    assert_eq!(lan.owner(VIP), "b");
    assert!(lan.member("b").asked.is_empty());
}

#[test]
fn preemption_waits_and_is_damped() {
    let mut lan = three();
    let best = lan.owner(VIP);
    lan.config.membership.preempt = true;
    let mut moves = 0;
    for _ in 0..6 {
        lan.member(best).presence = Presence::Down;
        lan.settle();
        lan.member(best).presence = Presence::Alive;
        lan.settle();
        assert_ne!(lan.owner(VIP), best, "not at once");
        lan.pass(Duration::from_secs(9));
        assert_ne!(lan.owner(VIP), best);
        lan.pass(Duration::from_secs(2));
        if lan.owner(VIP) != best {
            break;
        }
        moves += 1;
    }
    assert!((1..=3).contains(&moves), "{moves}");
    lan.pass(Duration::from_secs(200));
    lan.pass(Duration::from_secs(11));
    assert_eq!(lan.owner(VIP), best);
}

#[test]
fn a_node_that_was_stopped_says_nothing_until_it_has_heard() {
    let mut lan = three();
    let owner = lan.owner(VIP);
    let other = another(&lan, &[owner]);
    // Its lease is over, so that the set of what it announces stays as it is and says nothing.
    lan.member(owner).suspended = true;
    lan.edit(VIP, |group| {
        group.local = Some(BTreeSet::from([other.to_owned()]));
    });
    lan.step(owner);
    assert_eq!(lan.announcers(VIP), [owner]);
    // Then it is asked who is there, and until that is known nothing is announced.
    lan.member(owner).suspended = false;
    lan.member(owner).settled = false;
    lan.step(owner);
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.member(owner).settled = true;
    lan.edit(VIP, |group| group.local = None);
    lan.settle();
    assert_eq!(lan.owner(VIP), owner);
}

#[test]
fn vips_spread_over_the_nodes() {
    let names: Vec<String> = (200..219).map(|last| format!("192.0.2.{last}")).collect();
    let names: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
    let groups: Vec<&[&str]> = names.iter().map(|name| &name[..]).collect();
    let mut lan = Lan::new(&["a", "b", "c"], &groups);
    lan.settle();
    let owners: Vec<&str> = names.iter().map(|name| lan.owner(name[0])).collect();
    for name in ["a", "b", "c"] {
        let share = owners.iter().filter(|owner| **owner == name).count();
        assert!((2..=12).contains(&share), "{name} has {share} of 19");
    }
}

#[test]
fn node_objects_have_a_say() {
    let mut lan = three();
    let owner = lan.owner(VIP);
    let nodes = BTreeMap::from([(
        owner.to_owned(),
        crate::plan::ownership::table::NodeStanding {
            excluded: Some(crate::plan::reason::Reason::ExcludedByLabel),
            preferences: vec![0],
        },
    )]);
    lan.table.nodes = Arc::new(NodeTable {
        known: false,
        nodes,
    });
    lan.settle();
    assert_ne!(lan.owner(VIP), owner);
}

#[test]
fn a_node_that_was_cut_off_hears_the_others_first() {
    let mut lan = three();
    let first = lan.owner(VIP);
    let others: Vec<&'static str> = (lan.members.keys().copied())
        .filter(|name| *name != first)
        .collect();
    for other in &others {
        lan.member(other).deaf_to.insert(first);
        lan.member(first).deaf_to.insert(other);
    }
    let cable = |lan: &mut Lan, running| {
        for interface in lan.member(first).host.interfaces.values_mut() {
            interface.running = running;
        }
    };
    cable(&mut lan, false);
    lan.settle();
    let second = lan.owner(VIP);
    assert_ne!(second, first);
    // The cable is back, and nobody was heard yet.
    cable(&mut lan, true);
    lan.pass(Duration::from_millis(900));
    assert_eq!(lan.owner(VIP), second);
    for member in lan.members.values_mut() {
        member.deaf_to.clear();
    }
    lan.pass(Duration::from_secs(10));
    assert_eq!(lan.owner(VIP), second);
    // Who hears nobody for longer is alone.
    for other in &others {
        lan.member(other).presence = Presence::Down;
    }
    cable(&mut lan, false);
    lan.settle();
    cable(&mut lan, true);
    lan.settle();
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.pass(Duration::from_millis(1001));
    assert_eq!(lan.owner(VIP), first);
}

#[test]
fn who_was_alone_takes_nothing_from_those_who_went_on_together() {
    let groups: [&[&str]; 3] = [&[VIP], &[OTHER], &["192.0.2.202"]];
    let mut lan = Lan::new(&["a", "b", "c"], &groups);
    lan.settle();
    lan.pass(Duration::from_secs(10));
    let before = groups.map(|group| lan.owner(group[0]));
    let alone = before[0];
    let others: Vec<&'static str> = (lan.members.keys().copied())
        .filter(|name| *name != alone)
        .collect();
    for other in &others {
        lan.member(other).deaf_to.insert(alone);
        lan.member(alone).deaf_to.insert(other);
    }
    // First the others, then the one that is alone: its numbers are the later ones.
    for other in &others {
        lan.step(other);
    }
    lan.pass(Duration::from_secs(30));
    for member in lan.members.values_mut() {
        member.deaf_to.clear();
    }
    lan.settle();
    for (group, before) in groups.iter().zip(before) {
        let after = lan.owner(group[0]);
        assert_ne!(after, alone, "{group:?}");
        assert!(before == alone || after == before, "{group:?}");
    }
}

#[test]
fn who_reaches_all_of_a_group_relieves_who_does_not() {
    let mut lan = Lan::new(&["a", "b", "c"], &[&[VIP, VIP6]]);
    lan.settle();
    let first = lan.owner(VIP);
    for interface in lan.member(first).host.interfaces.values_mut() {
        interface.addresses.truncate(1);
    }
    lan.settle();
    assert_ne!(lan.owner(VIP), first);
    assert_eq!(lan.owner(VIP), lan.owner(VIP6));
}

#[test]
fn nodes_that_start_together_share_the_vips() {
    let mut lan = Lan::new(&["a", "b", "c"], &[&[VIP], &[OTHER], &["192.0.2.202"]]);
    lan.settle();
    let best = lan.owner(VIP);
    // The same start, with the best node the last one to be ready.
    let mut lan = Lan::new(&["a", "b", "c"], &[&[VIP], &[OTHER], &["192.0.2.202"]]);
    lan.member(best).ready = false;
    lan.settle();
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.now += Duration::from_millis(100);
    lan.member(best).ready = true;
    lan.settle();
    assert_eq!(lan.owner(VIP), best);
    // One that never gets ready is not waited for.
    let mut lan = Lan::new(&["a", "b", "c"], &[&[VIP]]);
    lan.member(best).ready = false;
    lan.settle();
    lan.pass(Duration::from_millis(1500));
    assert_ne!(lan.owner(VIP), best);
}
