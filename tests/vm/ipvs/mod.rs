//! The IPVS client against the kernel, with ipvsadm as the independent eye.

mod everything;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use edgelb::apply::ipvs::listing::{self, ListedForwarding, ListedKey};
use edgelb::apply::ipvs::types::*;
use edgelb::apply::ipvs::{Error, Ipvs};
use everything::{EVERYTHING_SAVED, everything, masquerade, real, tcp};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread of its own in a fresh network namespace with `lo` up.
fn in_fresh_namespace(test: impl FnOnce(Ipvs) + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own needs root");
        // Without a local routing table the kernel takes every IPv4 address for a broadcast one.
        run("ip link set lo up");
        test(Ipvs::open().unwrap());
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in this thread's namespace; returns what it printed.
fn run(command: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of `ipvsadm -Sn`.
fn saved() -> BTreeSet<String> {
    run("ipvsadm -Sn")
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

fn apply_all(ipvs: &mut Ipvs, changes: &[Change]) {
    for (change, result) in changes.iter().zip(ipvs.apply(changes).unwrap()) {
        assert_eq!(result, Ok(()), "{change:?}");
    }
}

#[test]
fn ipvsadm_sees_everything_as_it_was_made() {
    in_fresh_namespace(|mut ipvs| {
        apply_all(&mut ipvs, &everything());
        assert_eq!(saved(), lines(EVERYTHING_SAVED));
        // What `ipvsadm -S` leaves out.
        let thresholds = run("ipvsadm -Ln --thresholds");
        let line = thresholds
            .lines()
            .find(|line| line.contains("10.1.0.2:8080"))
            .unwrap();
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        assert_eq!(words, ["->", "10.1.0.2:8080", "100", "50", "0", "0"]);
    });
}

#[test]
fn what_is_observed_is_what_was_made() {
    in_fresh_namespace(|mut ipvs| {
        let changes = everything();
        apply_all(&mut ipvs, &changes);
        let observed = ipvs.virtual_servers().unwrap();
        let mut counted = 0;
        for server in &observed {
            let change = Change::NewVirtualServer(server.key, server.virtual_server.clone());
            assert!(changes.contains(&change), "{change:?}");
            assert_eq!(
                ipvs.virtual_server(&server.key).unwrap().as_ref(),
                Some(server)
            );
            for real_server in ipvs.real_servers(&server.key).unwrap() {
                let (key, settings) = (real_server.key, real_server.real_server);
                let change = Change::NewRealServer(server.key, key, settings);
                assert!(changes.contains(&change), "{change:?}");
                counted += 1;
            }
        }
        assert_eq!(observed.len() + counted, changes.len());

        let listed = listing::read().unwrap();
        assert_eq!(listed.len(), observed.len());
        let real_servers: usize = listed.iter().map(|server| server.real_servers.len()).sum();
        assert_eq!(real_servers, counted);
        let inventory = ipvs.inventory().unwrap();
        assert!(inventory.iter().map(|(server, _)| server).eq(&observed));
        assert_eq!(
            inventory
                .iter()
                .flat_map(|(_, real_servers)| real_servers)
                .count(),
            counted
        );
    });
}

#[test]
fn what_ipvsadm_changed_is_observed_and_edits_change_in_place() {
    in_fresh_namespace(|mut ipvs| {
        run("ipvsadm -A -t 192.0.2.10:80 -s wlc -p 60");
        run("ipvsadm -a -t 192.0.2.10:80 -r 10.1.0.1:8080 -m -w 9");
        let web = tcp("192.0.2.10", 80);
        let granularity = Granularity::host(Family::Ipv4);
        let persistence = Some(Persistence {
            timeout: 60,
            granularity,
        });
        let expected = VirtualServer {
            persistence,
            ..VirtualServer::new("wlc")
        };
        let observed = ipvs.virtual_servers().unwrap().remove(0);
        assert_eq!((observed.key, observed.virtual_server), (web, expected));
        assert_eq!(
            ipvs.real_servers(&web).unwrap()[0].real_server,
            masquerade(9)
        );

        let key = real("10.1.0.1", 8080);
        let changes = [
            Change::SetVirtualServer(web, VirtualServer::new("rr")),
            Change::SetRealServer(web, key, masquerade(0)),
        ];
        apply_all(&mut ipvs, &changes);
        let expected = "-A -t 192.0.2.10:80 -s rr
            -a -t 192.0.2.10:80 -r 10.1.0.1:8080 -m -w 0";
        assert_eq!(saved(), lines(expected));
        assert_eq!(
            ipvs.virtual_server(&web).unwrap().unwrap().virtual_server,
            VirtualServer::new("rr")
        );
        apply_all(&mut ipvs, &[Change::DeleteRealServer(web, key)]);
        assert_eq!(saved(), lines("-A -t 192.0.2.10:80 -s rr"));
        apply_all(&mut ipvs, &[Change::DeleteVirtualServer(web)]);
        assert_eq!(saved(), lines(""));
        assert_eq!(ipvs.virtual_server(&web).unwrap(), None);
        assert_eq!(ipvs.real_servers(&web).unwrap(), []);
    });
}

#[test]
fn each_refusal_comes_back_at_its_index_and_stops_nothing() {
    in_fresh_namespace(|mut ipvs| {
        let web = tcp("192.0.2.10", 80);
        let missing = tcp("192.0.2.99", 80);
        let key = real("10.1.0.1", 8080);
        let rr = || VirtualServer::new("rr");
        let cases = [
            (Change::NewVirtualServer(web, rr()), None),
            (Change::NewVirtualServer(web, rr()), Some(Errno::EEXIST)),
            (
                Change::NewVirtualServer(missing, VirtualServer::new("absent")),
                Some(Errno::ENOENT),
            ),
            (
                Change::NewVirtualServer(missing, VirtualServer::new(&"long".repeat(300))),
                Some(Errno::EINVAL),
            ),
            (Change::SetVirtualServer(missing, rr()), Some(Errno::ESRCH)),
            (Change::DeleteVirtualServer(missing), Some(Errno::ESRCH)),
            (
                Change::NewRealServer(missing, key, masquerade(1)),
                Some(Errno::ESRCH),
            ),
            (
                Change::SetRealServer(web, key, masquerade(1)),
                Some(Errno::ENOENT),
            ),
            (Change::DeleteRealServer(web, key), Some(Errno::ENOENT)),
            (Change::NewRealServer(web, key, masquerade(1)), None),
            (
                Change::NewRealServer(web, key, masquerade(1)),
                Some(Errno::EEXIST),
            ),
            (
                Change::NewRealServer(web, real("224.0.0.1", 1), masquerade(1)),
                Some(Errno::EINVAL),
            ),
            (
                Change::NewRealServer(web, real("2001:db8::1", 1), masquerade(1)),
                Some(Errno::EINVAL),
            ),
            (Change::ZeroStatistics(Some(missing)), Some(Errno::ESRCH)),
            (Change::ZeroStatistics(Some(web)), None),
            (Change::ZeroStatistics(None), None),
            (Change::SetRealServer(web, key, masquerade(4)), None),
        ];
        let (changes, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
        let before = ipvs.counters();
        let results = ipvs.apply(&changes).unwrap();
        assert_eq!(ipvs.counters().sends - before.sends, 1);
        for (index, (result, expected)) in results.into_iter().zip(expected).enumerate() {
            let errno = result.err().map(|error| Errno::from_raw(error.errno));
            assert_eq!(errno, expected, "change {index}");
        }
        let expected = "-A -t 192.0.2.10:80 -s rr
            -a -t 192.0.2.10:80 -r 10.1.0.1:8080 -m -w 4";
        assert_eq!(saved(), lines(expected));
    });
}

#[test]
fn a_thousand_virtual_servers_go_in_few_sends_and_the_bad_one_is_found() {
    in_fresh_namespace(|mut ipvs| {
        let mut changes = Vec::new();
        for index in 0..1000_u32 {
            let address = Ipv4Addr::from(0x0a60_0000 + index).into();
            let key = VirtualServerKey::Address {
                protocol: Protocol::Tcp,
                address,
                port: 80,
            };
            let scheduler = if index == 500 { "absent" } else { "rr" };
            changes.push(Change::NewVirtualServer(key, VirtualServer::new(scheduler)));
            for host in [1, 2] {
                let address = Ipv4Addr::from(0x0ac8_0000 + index * 4 + host).into();
                let real_server = RealServerKey {
                    address,
                    port: 8080,
                };
                changes.push(Change::NewRealServer(key, real_server, masquerade(1)));
            }
        }
        let before = ipvs.counters();
        let start = Instant::now();
        let results = ipvs.apply(&changes).unwrap();
        eprintln!("3,000 changes in {:?}", start.elapsed());
        let counters = ipvs.counters();
        assert_eq!(
            (
                counters.messages - before.messages,
                counters.sends - before.sends
            ),
            (3000, 15)
        );
        let failed: Vec<_> = results
            .iter()
            .enumerate()
            .filter_map(|(index, result)| Some((index, result.as_ref().err()?.errno)))
            .collect();
        let (enoent, esrch) = (Errno::ENOENT as i32, Errno::ESRCH as i32);
        assert_eq!(failed, [(1500, enoent), (1501, esrch), (1502, esrch)]);

        let saved = saved();
        assert_eq!(saved.len(), 999 * 3);
        assert!(saved.contains("-A -t 10.96.1.245:80 -s rr"));
        assert!(saved.contains("-a -t 10.96.1.245:80 -r 10.200.7.213:8080 -m -w 1"));
        assert_eq!(ipvs.virtual_servers().unwrap().len(), 999);
        let start = Instant::now();
        let inventory = ipvs.inventory().unwrap();
        eprintln!("inventory of 999 virtual servers in {:?}", start.elapsed());
        assert_eq!(inventory.len(), 999);
        assert!(
            inventory
                .iter()
                .all(|(_, real_servers)| real_servers.len() == 2)
        );

        let before = ipvs.counters();
        let (_, last_only) = changes.split_at(2999);
        assert_eq!(
            ipvs.apply(last_only).unwrap()[0]
                .as_ref()
                .unwrap_err()
                .errno,
            17
        );
        assert_eq!(ipvs.counters().messages - before.messages, 1);
        let before = ipvs.counters();
        assert_eq!(ipvs.apply(&[]).unwrap(), []);
        assert_eq!(ipvs.counters(), before);
    });
}

#[test]
fn connections_and_statistics_are_counted_and_zeroed() {
    in_fresh_namespace(|mut ipvs| {
        run("ip address add 192.0.2.10/32 dev lo");
        run("ip address add 10.1.0.1/32 dev lo");
        let web = tcp("192.0.2.10", 80);
        let changes = [
            Change::NewVirtualServer(web, VirtualServer::new("rr")),
            Change::NewRealServer(web, real("10.1.0.1", 8080), masquerade(1)),
        ];
        apply_all(&mut ipvs, &changes);
        let listener = TcpListener::bind("10.1.0.1:8080").unwrap();
        let mut client = TcpStream::connect("192.0.2.10:80").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"question").unwrap();
        server.read_exact(&mut [0; 8]).unwrap();

        let connections = ipvs.real_servers(&web).unwrap()[0].connections;
        assert_eq!(
            connections,
            Connections {
                active: 1,
                inactive: 0,
                persistent: 0
            }
        );
        let listed = listing::read().unwrap().remove(0);
        let key = "192.0.2.10".parse().unwrap();
        assert_eq!(
            listed.key,
            ListedKey::Address {
                protocol: Protocol::Tcp,
                address: key,
                port: 80
            }
        );
        assert_eq!(
            listed.real_servers[0].forwarding,
            ListedForwarding::Masquerade
        );
        assert_eq!(listed.real_servers[0].connections.active, 1);

        // The kernel adds up its counters every two seconds.
        let deadline = Instant::now() + Duration::from_secs(20);
        let statistics = loop {
            let statistics = ipvs.virtual_server(&web).unwrap().unwrap().statistics;
            if statistics.connections > 0 {
                break statistics;
            }
            assert!(Instant::now() < deadline, "no statistics: {statistics:?}");
            thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(statistics.connections, 1);
        assert!(
            statistics.packets_in >= 3 && statistics.bytes_in > 100,
            "{statistics:?}"
        );
        assert_eq!(
            ipvs.real_servers(&web).unwrap()[0].statistics.connections,
            1
        );
        apply_all(&mut ipvs, &[Change::ZeroStatistics(Some(web))]);
        assert_eq!(
            ipvs.virtual_server(&web)
                .unwrap()
                .unwrap()
                .statistics
                .connections,
            0
        );

        drop((client, server));
        apply_all(&mut ipvs, &[Change::DeleteVirtualServer(web)]);
    });
}

#[test]
fn timeouts_are_those_of_ipvsadm() {
    in_fresh_namespace(|mut ipvs| {
        let new = Timeouts {
            tcp: 901,
            tcp_fin: 121,
            udp: 301,
        };
        ipvs.set_timeouts(new).unwrap();
        assert_eq!(ipvs.timeouts().unwrap(), new);
        let text = run("ipvsadm -L --timeout");
        assert_eq!(text.trim_end(), "Timeout (tcp tcpfin udp): 901 121 301");
        run("ipvsadm --set 800 0 0");
        assert_eq!(ipvs.timeouts().unwrap(), Timeouts { tcp: 800, ..new });
        let refused = ipvs.set_timeouts(Timeouts {
            tcp: u32::MAX,
            tcp_fin: 1,
            udp: 1,
        });
        assert!(matches!(refused, Err(Error::Netlink(_))), "{refused:?}");
    });
}

#[test]
fn the_version_is_that_of_ipvsadm() {
    in_fresh_namespace(|mut ipvs| {
        let capabilities = ipvs.capabilities().unwrap();
        let (major, minor, patch) = capabilities.version;
        let size = capabilities.connection_table_size;
        let heading = format!("IP Virtual Server version {major}.{minor}.{patch} (size={size})");
        assert_eq!(run("ipvsadm -Ln").lines().next(), Some(heading.as_str()));
    });
}

#[test]
fn each_namespace_has_its_own() {
    in_fresh_namespace(|mut outer| {
        let web = tcp("192.0.2.10", 80);
        apply_all(
            &mut outer,
            &[Change::NewVirtualServer(web, VirtualServer::new("rr"))],
        );
        in_fresh_namespace(move |mut inner| {
            assert_eq!(inner.virtual_servers().unwrap(), []);
            assert_eq!(listing::read().unwrap(), []);
        });
        assert_eq!(outer.virtual_servers().unwrap().len(), 1);
    });
}
