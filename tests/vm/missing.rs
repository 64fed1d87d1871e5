//! What the kernel lacks is told once, with the command that helps, and nothing else waits for it.

use std::process::Command;

use edgelb::lab::client::Protocol;
use serde_json::Value;

use super::rig::{PATIENCE, Rig, eventually, socket, web};

/// A kernel module, out of the kernel and out of its loader's sight until this is dropped.
struct Hidden(String);

impl Hidden {
    fn new(module: &str) -> Self {
        let output = Command::new("modinfo").args(["-n", module]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let file = text.trim().to_owned();
        // Namespaces of earlier tests may still be on their way out.
        eventually(PATIENCE, || unload(module).then_some(()));
        // An empty file is no module; the real one is not touched.
        run("mount", &["--bind", "/dev/null", &file]);
        Self(file)
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Takes a module and all that need it out of the kernel; whether it is gone.
fn unload(module: &str) -> bool {
    let modules = std::fs::read_to_string("/proc/modules").unwrap();
    // Name, size, uses, users with a comma after each.
    let line = modules
        .lines()
        .find(|line| line.split(' ').next() == Some(module));
    let Some(line) = line else { return true };
    let users = line.split(' ').nth(3).unwrap();
    for user in users.split(',').filter(|user| !["", "-"].contains(user)) {
        unload(user);
    }
    let remove = Command::new("rmmod").arg(module).output().unwrap();
    remove.status.success()
}

impl Drop for Hidden {
    fn drop(&mut self) {
        run("umount", &[&self.0]);
    }
}

/// What the last pass could not do.
fn failures(rig: &Rig) -> Vec<Value> {
    let status = rig.ask(0, "status");
    status["last_pass"]["failures"].as_array().unwrap().clone()
}

/// Three Services ask for a scheduler that is not there: one failure for all their virtual servers,
/// with the module to load; a Service with another one is served; with the module all are.
#[test]
fn a_missing_scheduler_is_told_once() {
    const SCHEDULER: &str = "lblcr";
    let hidden = Hidden::new("ip_vs_lblcr");
    let rig = Rig::new(1, 2);
    for number in 51..54 {
        let mut service = web(&format!("odd-{number}"), number);
        let annotation = ("edgelb.io/scheduler".to_owned(), SCHEDULER.to_owned());
        service.annotations.extend([annotation]);
        rig.serve(&service, &rig.workloads());
    }
    rig.serve(&web("even", 54), &rig.workloads());
    let (vip, _) = rig.vip("even");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    let failures = || failures(&rig);
    // A pass that compares all sees all of them at once.
    let told = eventually(PATIENCE, || {
        let told = failures();
        let object = told.first()?["object"].as_str()?;
        object.ends_with(" more").then_some(told)
    });
    assert_eq!(told.len(), 1, "{told:?}");
    let message = told[0]["message"].as_str().unwrap();
    assert!(
        message.contains("no IPVS scheduler lblcr") && message.contains("modprobe ip_vs_lblcr"),
        "{message}"
    );
    // ClusterIPs, VIPs and node ports of both families, of three Services.
    let object = told[0]["object"].as_str().unwrap();
    assert!(object.contains(SCHEDULER), "{object}");
    drop(hidden);
    eventually(std::time::Duration::from_secs(60), || {
        failures().is_empty().then_some(())
    });
    let (vip, _) = rig.vip("odd-52");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
}

/// Without netlink access to connection tracking everything is forwarded, and one failure says what
/// is not done; with the module it is.
#[test]
fn missing_access_to_connection_tracking_stops_nothing() {
    let hidden = Hidden::new("nf_conntrack_netlink");
    let rig = Rig::new(1, 2);
    let mut service = web("web", 55);
    service.ports[0].protocol = Protocol::Udp;
    rig.serve(&service, &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Udp);
    let failures = || failures(&rig);
    let told = eventually(PATIENCE, || {
        Some(failures()).filter(|told| !told.is_empty())
    });
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["kind"], "conntrack");
    let message = told[0]["message"].as_str().unwrap();
    assert!(
        message.contains("modprobe nf_conntrack_netlink"),
        "{message}"
    );
    drop(hidden);
    eventually(std::time::Duration::from_secs(60), || {
        failures().is_empty().then_some(())
    });
}

/// Without `nf_tables` nothing is forwarded, since no address may be held without its filter; one
/// failure says why, and with the module all comes right.
#[test]
fn missing_nf_tables_is_told_once() {
    let hidden = Hidden::new("nf_tables");
    let rig = Rig::new(1, 2);
    rig.serve(&web("web", 56), &rig.workloads());
    let told = eventually(PATIENCE, || {
        Some(failures(&rig)).filter(|told| !told.is_empty())
    });
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["kind"], "table");
    let message = told[0]["message"].as_str().unwrap();
    assert!(message.contains("modprobe nf_tables"), "{message}");
    drop(hidden);
    eventually(std::time::Duration::from_secs(60), || {
        failures(&rig).is_empty().then_some(())
    });
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
}
