//! A planned move of VIPs whose endpoints answer clients themselves: the nodes see one side of such
//! connections, and must not take what they do not know for the other node's.

use std::net::IpAddr;

use edgelb::lab::client::{RequestError, Stream, open_stream};
use edgelb::lab::tool;

use super::methods::{VIPS, endpoints, lan, service, take_vips};
use super::rig::{PATIENCE, Rig, eventually, request, socket};

/// Lines on one connection, each of which a node would pass on that took it for another's.
const LINES: usize = 20;

/// The node that has both VIPs in the eyes of both.
fn owner(rig: &Rig) -> usize {
    let owner = rig.vip("bare").1;
    let name = &rig.lab.nodes()[owner].name;
    eventually(PATIENCE, || {
        let agree = |daemon| {
            let vips = rig.ask(daemon, "vips");
            let vips = vips["vips"].as_array().unwrap();
            vips.len() == VIPS.len() && vips.iter().all(|vip| vip["owner"] == name.as_str())
        };
        (0..rig.daemons.len()).all(agree).then_some(owner)
    })
}

/// Moves the VIPs from this node to the other one.
fn drain(rig: &Rig, node: usize) -> usize {
    // On an emulated machine it may take longer than the command waits for it.
    rig.daemons[node].ask(&["drain"]).unwrap();
    let other = eventually(PATIENCE * 3, || Some(owner(rig)).filter(|it| *it != node));
    rig.daemons[node].ask(&["undrain"]).unwrap();
    other
}

/// A new connection to each VIP.
fn streams(rig: &Rig) -> Vec<Stream> {
    let client = &rig.lab.clients()[0].namespace;
    let open = |vip: &&str| {
        let to = socket(vip.parse::<IpAddr>().unwrap(), 80);
        eventually(PATIENCE, || {
            request(client, to, edgelb::lab::client::Protocol::Tcp).ok()
        });
        open_stream(client, to).unwrap()
    };
    VIPS.iter().map(open).collect()
}

fn go_on(streams: &mut [Stream], when: &str) {
    for stream in streams {
        for line in 0..LINES {
            let answer = stream.send("still");
            assert!(answer.is_ok(), "{when}, line {line}: {answer:?}");
        }
    }
}

fn moved(method: &str) {
    let rig = lan(2);
    let hosts = &rig.lab.clients()[1..2];
    let _server = take_vips(&hosts[0], method);
    endpoints(&rig, &[&hosts[0]]);
    rig.manifests.write_service(&service(method)).unwrap();
    let first = owner(&rig);
    let mut of_first = streams(&rig);
    go_on(&mut of_first, "at the first");

    let second = drain(&rig, first);
    // What the second one cannot know ends at once; what begins there goes on.
    for stream in &mut of_first {
        let result = stream.send("still");
        let told = matches!(result, Ok(_) | Err(RequestError::Reset));
        assert!(told, "after the move: {result:?}");
    }
    let mut of_second = streams(&rig);
    go_on(&mut of_second, "after the move");
    drain(&rig, second);
    let mut at_last = streams(&rig);
    go_on(&mut at_last, "after the move back");
    for node in rig.lab.nodes() {
        let tables = tool(&node.namespace, "nft", &["list", "tables"]).unwrap();
        assert!(!tables.contains("table ip edgelb"), "{tables}");
        assert!(!tables.contains("table ip6 edgelb"), "{tables}");
    }
}

#[test]
fn what_is_routed_directly_is_not_passed_on() {
    moved("direct-routing");
}

#[test]
fn what_goes_by_a_tunnel_is_not_passed_on() {
    moved("tunnel");
}
