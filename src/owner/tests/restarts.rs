//! Who owns what while a node restarts: it is waited for, and speaks without waiting.

use super::*;

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
                member.engine.resume(until);
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
