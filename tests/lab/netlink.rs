//! The netlink transport against the real kernel: batches, errors at their request, dumps,
//! transactions.

use std::thread;

use edgelb::apply::netlink::{Error, NetlinkSocket, TransactionError};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const CREATE_EXCLUSIVE: u16 = 0x600;

/// Runs `test` on a thread of its own in a fresh network namespace.
fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own needs root");
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn message(message_type: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[4..6].copy_from_slice(&message_type.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// `ip link set lo up`.
fn loopback_up() -> Vec<u8> {
    let mut payload = vec![0; 16];
    payload[4..8].copy_from_slice(&1_u32.to_ne_bytes());
    payload[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    payload[12..16].copy_from_slice(&1_u32.to_ne_bytes());
    message(NEW_LINK, 0, &payload)
}

/// `ip route add local 10.X.Y.Z/32 dev INTERFACE table local`.
fn route(host: u32, interface: u32) -> Vec<u8> {
    let (table, protocol, scope, kind) = (255, 4, 254, 2);
    let mut payload = vec![2, 32, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0];
    payload.extend([8, 0, 1, 0]);
    payload.extend((0x0a00_0000 + host).to_be_bytes());
    payload.extend([8, 0, 4, 0]);
    payload.extend(interface.to_ne_bytes());
    message(NEW_ROUTE, CREATE_EXCLUSIVE, &payload)
}

fn count_routes(socket: &mut NetlinkSocket) -> usize {
    let mut payload = vec![0; 12];
    payload[0] = 2;
    let replies = socket.dump(&message(GET_ROUTE, 0, &payload)).unwrap();
    // Ours have 10.0.0.0/8 as their first attribute but one (table, then destination).
    replies
        .iter()
        .filter(|reply| reply.payload.get(1) == Some(&32))
        .filter(|reply| {
            reply
                .payload
                .windows(5)
                .any(|bytes| bytes == [8, 0, 1, 0, 10])
        })
        .count()
}

#[test]
fn one_failure_in_a_batch_of_300_comes_back_at_its_index() {
    in_fresh_namespace(|| {
        let mut socket = NetlinkSocket::open(NETLINK_ROUTE).unwrap();
        socket
            .batch(&[loopback_up()])
            .unwrap()
            .pop()
            .unwrap()
            .unwrap();
        let before = socket.counters();
        let requests: Vec<_> = (0..300)
            .map(|host| route(host + 1, if host == 150 { 999 } else { 1 }))
            .collect();
        let results = socket.batch(&requests).unwrap();
        assert_eq!(results.len(), 300);
        for (index, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), index == 150, "{index}: {result:?}");
        }
        assert_eq!(
            results[150].as_ref().unwrap_err().errno,
            Errno::ENODEV as i32
        );
        assert_eq!(socket.counters().sends - before.sends, 2);
        assert_eq!(socket.counters().messages - before.messages, 300);
        assert_eq!(count_routes(&mut socket), 299);

        let results = socket.batch(&requests[..3]).unwrap();
        assert!(
            results
                .iter()
                .all(|result| result.as_ref().unwrap_err().errno == 17)
        );
    });
}

#[test]
fn the_kernel_s_own_words_come_with_the_error() {
    in_fresh_namespace(|| {
        let mut socket = NetlinkSocket::open(NETLINK_ROUTE).unwrap();
        let mut bad = route(1, 1);
        bad[17] = 33; // prefix length
        let error = socket.batch(&[bad]).unwrap().pop().unwrap().unwrap_err();
        assert_eq!(
            (error.errno, error.message.as_deref()),
            (22, Some("Invalid prefix length"))
        );
    });
}

#[test]
fn requests_that_cannot_be_sent_do_not_stop_the_others() {
    in_fresh_namespace(|| {
        let mut socket = NetlinkSocket::open(NETLINK_ROUTE).unwrap();
        let huge = vec![0; socket.send_limit() + 1];
        let results = socket
            .batch(&[loopback_up(), huge, vec![0; 3], route(1, 1)])
            .unwrap();
        let errors: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().err().map(|error| error.errno))
            .collect();
        assert_eq!(errors, [None, Some(Errno::EMSGSIZE as i32), Some(22), None]);
        assert_eq!(count_routes(&mut socket), 1);
    });
}

#[test]
fn a_request_returns_its_reply_and_a_refusal_its_errno() {
    in_fresh_namespace(|| {
        let mut socket = NetlinkSocket::open(NETLINK_ROUTE).unwrap();
        let mut payload = vec![0; 16];
        payload[4..8].copy_from_slice(&1_i32.to_ne_bytes());
        let replies = socket.request(&message(GET_LINK, 0, &payload)).unwrap();
        assert_eq!(replies.len(), 1);
        assert!(replies[0].payload.windows(3).any(|bytes| bytes == b"lo\0"));
        payload[4..8].copy_from_slice(&77_i32.to_ne_bytes());
        match socket.request(&message(GET_LINK, 0, &payload)) {
            Err(Error::Refused(error)) => assert_eq!(error.errno, Errno::ENODEV as i32),
            other => panic!("{other:?}"),
        }
    });
}

fn nft(message_type: u16, flags: u16, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 0];
    payload.extend(resource.to_be_bytes());
    if resource == 0 {
        payload[0] = 1;
    }
    payload.extend(attributes);
    message(message_type, flags, &payload)
}

/// `add table inet NAME`, failing if it exists; the name has three characters.
fn new_table(name: &str) -> Vec<u8> {
    let mut attribute = vec![8, 0, 1, 0];
    attribute.extend(name.as_bytes());
    attribute.push(0);
    nft(10 << 8, CREATE_EXCLUSIVE, 0, &attribute)
}

fn get_table(name: &str) -> Vec<u8> {
    let mut bytes = new_table(name);
    bytes[4] = 1;
    bytes[6..8].fill(0);
    bytes
}

#[test]
fn a_transaction_takes_place_whole_or_not_at_all() {
    in_fresh_namespace(|| {
        let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).unwrap();
        let (begin, end) = (nft(16, 0, 10, &[]), nft(17, 0, 10, &[]));
        socket
            .transaction(&begin, &[new_table("aaa"), new_table("bbb")], &end)
            .unwrap();
        assert_eq!(socket.counters().sends, 1);
        assert_eq!(socket.counters().messages, 4);
        socket.request(&get_table("bbb")).unwrap();

        let requests = [
            new_table("ccc"),
            new_table("aaa"),
            new_table("ddd"),
            new_table("bbb"),
        ];
        match socket.transaction(&begin, &requests, &end) {
            Err(TransactionError::Refused {
                failures,
                complete: true,
            }) => {
                let failures: Vec<_> = failures
                    .iter()
                    .map(|failure| (failure.request, failure.error.errno))
                    .collect();
                assert_eq!(failures, [(Some(1), 17), (Some(3), 17)]);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            socket.request(&get_table("ccc")),
            Err(Error::Refused(_))
        ));
        socket.request(&get_table("aaa")).unwrap();
    });
}

#[test]
fn a_transaction_of_thousands_of_errors_is_refused_and_the_socket_stays_usable() {
    in_fresh_namespace(|| {
        let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).unwrap();
        let (begin, end) = (nft(16, 0, 10, &[]), nft(17, 0, 10, &[]));
        let requests = vec![delete_absent_table(); 50_000];
        match socket.transaction(&begin, &requests, &end) {
            Err(TransactionError::Refused { failures, complete }) => {
                assert!(!complete, "{} errors fit the buffer", failures.len());
                assert_eq!(failures[0].request, Some(0));
            }
            other => panic!("{other:?}"),
        }
        socket
            .transaction(&begin, &[new_table("aaa")], &end)
            .unwrap();
        socket.request(&get_table("aaa")).unwrap();
    });
}

/// Deletes a table that is not there.
fn delete_absent_table() -> Vec<u8> {
    let mut bytes = new_table("zzz");
    bytes[4] = 2;
    bytes[6..8].fill(0);
    bytes
}
