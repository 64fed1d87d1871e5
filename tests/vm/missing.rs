//! What the kernel lacks is told once, with the command that helps, and nothing else waits for it.

use std::path::PathBuf;
use std::process::Command;

use edgelb::lab::client::Protocol;
use serde_json::Value;

use super::rig::{PATIENCE, Rig, eventually, socket, web};

/// A kernel module, out of the kernel and out of its loader's sight until this is dropped.
struct Hidden {
    file: PathBuf,
    elsewhere: PathBuf,
}

impl Hidden {
    fn new(module: &str) -> Self {
        let output = Command::new("modinfo").args(["-n", module]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let file = PathBuf::from(text.trim());
        // Absent where it was never loaded.
        let _ = Command::new("modprobe").args(["-r", module]).output();
        let elsewhere = std::env::temp_dir().join(format!("{module}-{}", std::process::id()));
        std::fs::copy(&file, &elsewhere).unwrap();
        std::fs::remove_file(&file).unwrap();
        Self { file, elsewhere }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = std::fs::copy(&self.elsewhere, &self.file);
        let _ = std::fs::remove_file(&self.elsewhere);
    }
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
    let failures = || -> Vec<Value> {
        let status = rig.ask(0, "status");
        status["last_pass"]["failures"].as_array().unwrap().clone()
    };
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
