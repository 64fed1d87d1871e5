//! Membership on real sockets: three nodes on a LAN, the ways by which they hear each other cut one
//! after the other, and a hostile host beside them.
#![allow(clippy::print_stdout)]

mod members;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgelb::membership::Told;
use edgelb::membership::transport::lan::{Frame, LanSocket};
use edgelb::model::peer::{Heard, Presence, Publication};

use self::members::{Capture, Lan, Member, PORT, address, eventually, lan_interface, name, within};

fn start(lan: &Lan, nodes: usize) -> Vec<Member> {
    let members: Vec<Member> = (0..nodes).map(|host| lan.member(host, nodes)).collect();
    eventually("all see each other by both ways", || {
        others(nodes).all(|(at, of)| {
            members[at].heard(of)
                == Some(Heard {
                    udp: true,
                    lan: true,
                })
        })
    });
    for (at, of) in others(nodes) {
        assert_eq!(members[at].presence(of), Some(Presence::Alive));
        assert!(members[at].view.peers.borrow().settled);
    }
    members
}

/// Who looks at whom.
fn others(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |at| {
        (0..nodes)
            .filter(move |of| *of != at)
            .map(move |of| (at, of))
    })
}

const CUT: &str =
    "table inet cut { chain input { type filter hook input priority 0; udp dport 9751 drop; }; }";

#[test]
fn members_hear_each_other_by_frames_when_udp_is_cut_and_are_down_when_all_is() {
    let lan = Lan::new(3);
    let members = start(&lan, 3);
    let contacts = members[0].view.contacts.borrow().clone();
    let contact = &contacts[&name(1)];
    assert_eq!(contact.udp, Some((address(1), PORT).into()));
    assert!(contact.lan.is_some() && contact.program == "0.0.0-test");

    for host in 0..3 {
        lan.nft(host, CUT);
    }
    eventually("they hear each other by frames only", || {
        others(3).all(|(at, of)| {
            members[at].heard(of)
                == Some(Heard {
                    udp: false,
                    lan: true,
                })
        })
    });
    std::thread::sleep(Duration::from_secs(1));
    for (at, of) in others(3) {
        assert!(!members[at].was_lost(of), "{of} was lost at {at}");
    }
    for host in 0..3 {
        lan.nft(host, "delete table inet cut");
    }
    eventually("they hear each other by both ways again", || {
        others(3).all(|(at, of)| {
            members[at].heard(of)
                == Some(Heard {
                    udp: true,
                    lan: true,
                })
        })
    });

    let cut = Instant::now();
    lan.unplug(2);
    let unplugged = Instant::now();
    let pairs = [(0, 2), (1, 2), (2, 0), (2, 1)];
    eventually("the unplugged one is down", || {
        // Who follows a member notes what changed a moment after it did.
        pairs.iter().all(|(at, of)| {
            members[*at].presence(*of) == Some(Presence::Down)
                && (members[*at].seen_after(cut, *of, Presence::Down)).is_some()
        })
    });
    for (at, of) in pairs {
        let after = members[at].seen_after(cut, of, Presence::Down).unwrap();
        println!(
            "{of} is down at {at} after {after:?} (unplugging took {:?})",
            unplugged - cut
        );
        assert!(
            after < Duration::from_millis(500),
            "{of} is down at {at} after {after:?}"
        );
        assert!(
            after >= Duration::from_millis(200),
            "{of} is down at {at} after {after:?}"
        );
    }
    assert_eq!(members[0].presence(1), Some(Presence::Alive));
    lan.plug(2);
    let plugged = Instant::now();
    eventually("all are there again", || {
        others(3).all(|(at, of)| members[at].presence(of) == Some(Presence::Alive))
    });
    println!("all are there again after {:?}", plugged.elapsed());
}

#[test]
fn a_captured_datagram_does_nothing_later() {
    let lan = Lan::new(3);
    let mut members = start(&lan, 2);
    let capture = Capture::start(&lan, 0);
    std::thread::sleep(Duration::from_millis(500));
    let mut captured = capture.end();
    captured.retain(|(from, _)| from.ip() == address(1));
    assert!(captured.len() > 10, "{}", captured.len());
    let replay = |captured: Vec<(std::net::SocketAddr, Vec<u8>)>| {
        let send = move || {
            let socket = UdpSocket::bind((address(2), 0)).unwrap();
            for (_, octets) in &captured {
                socket.send_to(octets, (address(0), PORT)).unwrap();
            }
            captured.len() as u64
        };
        within(&lan.hosts[2].0, send).join().unwrap()
    };
    let before = members[0].received("replayed");
    let sent = replay(captured.clone());
    eventually("all are counted as replayed", || {
        members[0].received("replayed") >= before + sent
    });
    let udp = members[0].view.contacts.borrow()[&name(1)].udp;
    assert_eq!(
        udp,
        Some((address(1), PORT).into()),
        "the contact stays where it is"
    );

    // Of a node that is gone nothing captured makes a living one.
    members.pop().unwrap().end();
    eventually("it is down", || {
        members[0].presence(1) == Some(Presence::Down)
    });
    replay(captured.clone());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(members[0].presence(1), Some(Presence::Down));

    // Nor does it in the ears of another run.
    let epoch = members[0].view.peers.borrow().members[&name(1)].epoch;
    members.pop().unwrap().end();
    let again = lan.member(0, 2);
    let before = again.received("other_run");
    let sent = replay(captured);
    eventually("all are counted as of another run", || {
        again.received("other_run") >= before + sent / 2
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        again.presence(1),
        None,
        "nobody is there; the other run began at {epoch}"
    );
}

#[test]
fn a_flood_of_garbage_declares_nobody_down() {
    let lan = Lan::new(4);
    let members = start(&lan, 3);
    let capture = Capture::start(&lan, 0);
    std::thread::sleep(Duration::from_millis(200));
    // A hostile host may know what is in the clear: magic, version and key id.
    let clear: Vec<u8> = capture.end()[0].1[..7].to_vec();
    let rate = 20_000_u32;
    let flood = within(&lan.hosts[3].0, move || {
        let socket = UdpSocket::bind((address(3), 0)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _context = runtime.enter();
        let frames = LanSocket::open(&lan_interface(3)).unwrap();
        let mut frame = Vec::new();
        let mut forged = vec![0x5a; 200];
        forged[..7].copy_from_slice(&clear);
        let mut unknown = forged.clone();
        unknown[3] ^= 0xff;
        let garbage = vec![0xa5; 200];
        let start = Instant::now();
        let mut sent = 0_u32;
        while start.elapsed() < Duration::from_secs(3) {
            let due = start.elapsed().as_secs_f64() * f64::from(rate);
            while f64::from(sent) < due {
                let octets = [&forged, &unknown, &garbage][sent as usize % 3];
                // The queue may be full: the next one is sent all the same.
                if sent % 10 == 9 {
                    let _ = frames.send(Frame::Experimental(None), octets, &mut frame);
                }
                let _ = socket.send_to(octets, (address(sent as usize / 3 % 3), PORT));
                sent += 1;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        f64::from(sent) / start.elapsed().as_secs_f64()
    });
    let per_second = flood.join().unwrap();
    println!("{per_second:.0} datagrams/s");
    for (at, of) in others(3) {
        assert_eq!(members[at].presence(of), Some(Presence::Alive));
        assert!(!members[at].was_lost(of), "{of} was lost at {at}");
    }
    for member in &members {
        for result in ["foreign", "unknown_key", "forged"] {
            println!("{result} {}", member.received(result));
            assert!(member.received(result) > 1000, "{result}");
        }
    }
}

#[test]
fn who_announces_its_restart_is_waited_for() {
    let lan = Lan::new(3);
    let mut members = start(&lan, 3);
    let leaving = members.pop().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = Instant::now();
    let told = runtime.block_on(leaving.view.announce_restart(Duration::from_millis(200)));
    assert_eq!(told, Some(Told::Others));
    println!("announced within {:?}", asked.elapsed());
    leaving.end();
    eventually("it is known to restart", || {
        members
            .iter()
            .all(|member| member.presence(2) == Some(Presence::Restarting))
    });
    std::thread::sleep(Duration::from_millis(600));
    assert!(
        members
            .iter()
            .all(|member| member.presence(2) == Some(Presence::Restarting))
    );
    let again = lan.member(2, 3);
    eventually("it is there again", || {
        members
            .iter()
            .all(|member| member.presence(2) == Some(Presence::Alive))
    });
    for member in &members {
        assert!(
            member.seen_after(asked, 2, Presence::Down).is_none(),
            "it was never down"
        );
    }
    again.end();
}

#[test]
fn tables_of_ten_thousand_claims_reach_all_and_a_joiner() {
    let lan = Lan::new(3);
    let mut members = start(&lan, 3);
    let joiner = members.pop().unwrap();
    joiner.end();
    let vip = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
    let mut publication = Publication::clone(&members[0].publication.borrow());
    publication.claims = (0..10_000)
        .map(|number| (vip(number), 1_700_000_000_000_u64))
        .collect();
    let held = |member: &Member| {
        let peers = member.view.peers.borrow();
        peers.members.get(&name(0)).map(|peer| peer.claims.clone())
    };
    let from = Instant::now();
    members[0]
        .publication
        .send_replace(Arc::new(publication.clone()));
    eventually("they are told", || {
        held(&members[1]).as_ref() == Some(&publication.claims)
    });
    println!("10,000 changes were told within {:?}", from.elapsed());

    let from = Instant::now();
    let joiner = lan.member(2, 3);
    eventually("they are fetched", || {
        held(&joiner).as_ref() == Some(&publication.claims)
    });
    println!("10,000 claims were fetched within {:?}", from.elapsed());
    assert!(from.elapsed() < Duration::from_secs(2));

    publication.claims.insert(vip(3), 1_700_000_000_001);
    let from = Instant::now();
    members[0]
        .publication
        .send_replace(Arc::new(publication.clone()));
    eventually("one change is told", || {
        held(&joiner).as_ref() == Some(&publication.claims)
    });
    println!("one change was told within {:?}", from.elapsed());
    assert!(
        !joiner.was_lost(0) && !members[1].was_lost(0),
        "a table makes nobody silent"
    );
}

#[test]
fn five_members_at_rest_cost_little() {
    let lan = Lan::new(5);
    let members = start(&lan, 5);
    let before: Vec<(u64, u64)> = members
        .iter()
        .map(|member| {
            (
                member.view.counters.sent(),
                member.view.counters.sent_octets(),
            )
        })
        .collect();
    std::thread::sleep(Duration::from_secs(5));
    for (member, (sent, octets)) in members.into_iter().zip(before) {
        let counters = member.view.counters.clone();
        let sent = (counters.sent() - sent) / 5;
        let octets = (counters.sent_octets() - octets) / 5;
        let used = member.end();
        println!(
            "{sent} datagrams/s and {octets} octets/s by each way, {used:?} of processor time in some 6 s"
        );
        assert!(sent < 400 && octets < 100_000);
    }
}
