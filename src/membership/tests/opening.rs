//! When membership is on, and what keeps it from starting.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, PeerAddress};
use crate::membership::{Inputs, Membership, MembershipError, MembershipView, Settings};

fn open(node: &str, peers: usize, keys: &[&str]) -> Result<MembershipView, MembershipError> {
    let mut configuration = Config::defaults("edge-1").membership;
    configuration.peers = (0..peers)
        .map(|peer| PeerAddress {
            host: format!("192.0.2.{peer}"),
            port: configuration.listen.port,
        })
        .collect();
    configuration.key_files = keys.iter().map(Into::into).collect();
    let settings = Settings {
        node: node.to_owned(),
        configuration,
        program: "0.0.0".to_owned(),
    };
    let inputs = Inputs {
        publication: watch::channel(Arc::default()).1,
        node_addresses: watch::channel(Arc::default()).1,
        interfaces: watch::channel(Arc::default()).1,
    };
    let (membership, view) = Membership::open(settings, inputs)?;
    drop(membership);
    Ok(view)
}

#[test]
fn without_key_and_peers_nothing_is_opened() {
    let view = open("edge-1", 0, &[]).unwrap();
    let peers = view.peers.borrow();
    assert!(!peers.enabled && peers.settled && peers.members.is_empty());
}

#[test]
fn a_peer_without_a_key_is_an_error() {
    let error = open("edge-1", 2, &[]).unwrap_err();
    assert!(matches!(error, MembershipError::NoKey { peers: 2 }));
    assert!(
        error.to_string().contains("membership.key_files"),
        "{error}"
    );
    let error = open("edge-1", 0, &["/nonexistent/key"]).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/key"), "{error}");
    let error = open("edge 1", 0, &["/nonexistent/key"]).unwrap_err();
    assert!(matches!(error, MembershipError::NodeName { .. }));
}
