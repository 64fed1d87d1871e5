//! Whether IPVS is there is told rightly, on a kernel with it and on one without, with the right
//! to use it and without.

use std::path::Path;
use std::process::Command;

use edgelb::apply::ipvs::{Error, Ipvs};

/// The mapping of the initial user namespace: every number to itself.
fn in_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[test]
fn ipvs_is_found_exactly_where_the_kernel_has_it() {
    let opened = Ipvs::open();
    // Asked for after opening, which loads the module where there is one.
    let there = Path::new("/proc/net/ip_vs").exists();
    match opened {
        Ok(_) => assert!(there && in_initial_user_namespace()),
        Err(error @ Error::NotAvailable) => {
            assert!(!there, "IPVS was not found on a kernel with it");
            assert!(error.to_string().contains("modprobe ip_vs"), "{error}");
        }
        Err(Error::NotPermitted) => assert!(there && !in_initial_user_namespace()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_user_namespace_is_told_from_a_kernel_without_ipvs() {
    let name = "ipvs::ipvs_is_found_exactly_where_the_kernel_has_it";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
