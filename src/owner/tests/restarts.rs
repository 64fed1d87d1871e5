//! Who owns what while a node restarts: it is waited for, and speaks without waiting.

use imbl::OrdSet;

use super::*;

/// Starts this node again, which the others wait for with these VIPs.
fn resume(lan: &mut Lan, node: &'static str, until: Instant, vips: &[&str]) {
    let member = lan.member(node);
    let claims = member.engine.claims().clone();
    member.settled = false;
    member.ready = false;
    member.engine = Engine::new(node.to_owned(), &claims);
    let vips = vips.iter().map(|vip| ip(vip)).collect();
    member.engine.resume(until, vips);
}

#[test]
fn a_node_that_restarts_keeps_what_it_owns() {
    let mut lan = three();
    let owner = lan.owner(VIP);
    lan.member(owner).presence = Presence::Restarting;
    lan.pass(Duration::from_secs(2));
    assert_eq!(
        lan.announcers(VIP),
        [""; 0],
        "nobody follows while it restarts"
    );
    // It comes back with its recorded claims, and is not ready at first.
    let claims = lan.member(owner).engine.claims().clone();
    let member = lan.member(owner);
    member.presence = Presence::Alive;
    member.ready = false;
    member.engine = Engine::new(owner.to_owned(), &claims);
    lan.pass(Duration::from_secs(1));
    assert_eq!(lan.owner(VIP), owner);
    lan.member(owner).ready = true;
    lan.pass(Duration::from_secs(10));
    assert_eq!(lan.owner(VIP), owner);
}

/// Who said that it restarts is waited for, and need not hear the others before it speaks; a greater
/// claim that it does hear silences it all the same, and so does the end of its time.
#[test]
fn who_is_awaited_speaks_before_it_heard_the_others() {
    for awaited in [false, true] {
        let mut lan = three();
        let owner = lan.owner(VIP);
        let claims = lan.member(owner).engine.claims().clone();
        let until = lan.now + Duration::from_secs(2);
        let restart = |lan: &mut Lan| {
            let member = lan.member(owner);
            member.settled = false;
            member.ready = false;
            member.engine = Engine::new(owner.to_owned(), &claims);
            if awaited {
                member.engine.resume(until, OrdSet::from_iter([ip(VIP)]));
            }
        };
        restart(&mut lan);
        lan.settle();
        let announcers = lan.announcers(VIP);
        assert_eq!(announcers.contains(&owner), awaited, "{announcers:?}");
        lan.pass(Duration::from_millis(2500));
        assert_eq!(lan.announcers(VIP), [""; 0]);

        restart(&mut lan);
        let other = another(&lan, &[owner]);
        let greater = lan.member(owner).engine.claims()[&ip(VIP)] | IN_COMPANY;
        let taken = Claims::from_iter([(ip(VIP), greater + 1)]);
        lan.member(other).engine = Engine::new(other.to_owned(), &Claims::new());
        lan.member(other).engine.claims = taken;
        lan.settle();
        assert_eq!(lan.owner(VIP), other);
    }
}

#[test]
fn an_owner_that_never_gets_ready_is_followed_after_its_grace() {
    let mut lan = three();
    let first = lan.owner(VIP);
    lan.member(first).ready = false;
    let grace = lan.config.membership.restart_grace;
    lan.pass(grace / 2);
    assert_eq!(lan.owner(VIP), first);
    lan.pass(grace);
    assert_ne!(lan.owner(VIP), first);
}

/// What is waited for is what was owned together with those who wait: for the rest they are heard first.
#[test]
fn what_was_claimed_alone_is_not_resumed() {
    let mut lan = Lan::new(&["a", "b"], &[&[VIP], &[OTHER]]);
    lan.member("b").draining = true;
    lan.settle();
    assert_eq!((lan.owner(VIP), lan.owner(OTHER)), ("a", "a"));
    let until = lan.now + Duration::from_secs(2);
    resume(&mut lan, "a", until, &[VIP]);
    lan.settle();
    assert_eq!(lan.announcers(VIP), ["a"]);
    assert_eq!(lan.announcers(OTHER), [""; 0]);
    // Two Services that share their VIPs are one group: it is whole or silent.
    lan.table.groups.clear();
    lan.serve(&[VIP, OTHER]);
    lan.settle();
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.member("a").settled = true;
    lan.settle();
    assert_eq!((lan.owner(VIP), lan.owner(OTHER)), ("a", "a"));
}

/// The others waited until this node heard them, not for the second time that it loses them.
#[test]
fn a_resumption_ends_when_the_others_were_heard_or_may_have_gone_on() {
    for ends in ["heard", "stopped", "cut off"] {
        let mut lan = three();
        let owner = lan.owner(VIP);
        let until = lan.now + Duration::from_secs(2);
        resume(&mut lan, owner, until, &[VIP]);
        lan.settle();
        assert_eq!(lan.announcers(VIP), [owner]);
        match ends {
            "heard" => {
                lan.member(owner).settled = true;
                lan.settle();
                assert_eq!(lan.owner(VIP), owner);
                // It waited in company, and need not prove itself again.
                let number = lan.member(owner).engine.claims()[&ip(VIP)];
                assert_ne!(number & IN_COMPANY, 0);
                lan.member(owner).settled = false;
            }
            "stopped" => {
                lan.member(owner).suspended = true;
                lan.settle();
                lan.member(owner).suspended = false;
            }
            _ => {
                let others: Vec<_> = (lan.members.keys().copied())
                    .filter(|name| *name != owner)
                    .collect();
                lan.member(owner).deaf_to.extend(others);
                lan.member(owner).interface(false);
                lan.step(owner);
                lan.member(owner).interface(true);
            }
        }
        lan.step(owner);
        assert!(!lan.announcers(VIP).contains(&owner), "{ends}");
    }
}
