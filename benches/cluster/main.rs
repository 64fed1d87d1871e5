//! What a large cluster costs a node: `edgelb run` as a process, against an API server in this one
//! that streams 10,000 Services with 10 endpoints each. Prints its memory, how long after the last
//! byte of the lists the plan is made and the kernel programmed, and what it costs when nothing
//! happens. Needs root; changes nothing outside of a network namespace of its own.
//!
//! `cargo bench --bench cluster [-- SERVICES [ENDPOINTS [NODES]]]`; with `EDGELB_BENCH_LOG=1` the
//! daemon's log goes to standard error. It uses nftables, which every kernel has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod objects;
mod process;
mod server;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use objects::Size;
use process::{Daemon, Memory};
use server::Server;

/// A machine that is busy with something else is slow, and not for ever.
const LIMIT: Duration = Duration::from_secs(180);
/// Until what follows a first pass is over, such as the record on the disk.
const SETTLE: Duration = Duration::from_secs(15);
/// Longer than the interval at which the kernel is compared with the plan, and twice as long as
/// that of the record on the disk.
const IDLE: Duration = Duration::from_secs(65);

fn main() {
    let size = size();
    // The namespace ends with this program and the daemon.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this needs root");
    ip(&["link", "set", "lo", "up"]);
    ip(&[
        "link", "add", "lan0", "type", "veth", "peer", "name", "lan1",
    ]);
    ip(&["link", "set", "lan0", "up"]);
    ip(&["link", "set", "lan1", "up"]);
    ip(&["address", "add", "198.18.255.1/16", "dev", "lan0"]);

    let server = Server::start(size);
    let directory = tempfile::tempdir().expect("a directory");
    let config = configure(directory.path(), &server);
    println!(
        "{} Services ({} of type LoadBalancer), {} endpoints on {} nodes",
        size.services,
        size.load_balancers(),
        size.services * size.endpoints,
        size.nodes
    );
    let daemon = start(&config, &server);
    thread::sleep(SETTLE);
    println!("{} s later: {}", SETTLE.as_secs(), memory(daemon.memory()));
    for unready in [Some(0), None] {
        daemon.forget();
        let changed = Instant::now();
        server.change(size.services / 2, unready);
        let applied = daemon.until("pass finished", LIMIT) - changed;
        println!(
            "one endpoint {}: in the kernel after {:.1} ms",
            if unready.is_some() { "goes" } else { "comes" },
            applied.as_secs_f64() * 1000.0
        );
    }
    let before = daemon.processor_time();
    thread::sleep(IDLE);
    let used = daemon.processor_time().saturating_sub(before);
    println!(
        "{} s idle: {:.2} % of one processor; {}",
        IDLE.as_secs(),
        used.as_secs_f64() / IDLE.as_secs_f64() * 100.0,
        memory(daemon.memory())
    );

    println!("again, with the cluster on the disk:");
    drop(daemon);
    let daemon = start(&config, &server);
    thread::sleep(SETTLE);
    println!("{} s later: {}", SETTLE.as_secs(), memory(daemon.memory()));
}

/// Starts a daemon and tells of it until its first pass is over.
fn start(config: &Path, server: &Server) -> Daemon {
    let started = Instant::now();
    let daemon = Daemon::start(config);
    let lists: Vec<_> = (0..3)
        .map(|_| server.lists.recv_timeout(LIMIT).expect("three lists"))
        .collect();
    let last_byte = lists.iter().map(|list| list.at).max().expect("three");
    println!(
        "lists: {} objects, {:.1} MB, last byte {:.2} s after the start; {}",
        lists.iter().map(|list| list.objects).sum::<usize>(),
        megabytes(lists.iter().map(|list| list.bytes as u64).sum::<u64>() / 1024),
        (last_byte - started).as_secs_f64(),
        memory(daemon.memory())
    );
    let since = |at: Instant| at.saturating_duration_since(last_byte).as_secs_f64();
    let planned = daemon.until("plan made", LIMIT);
    println!(
        "plan made: {:.2} s after the last byte; {}",
        since(planned),
        memory(daemon.memory())
    );
    let finished = daemon.until("pass finished", LIMIT);
    println!(
        "kernel programmed: {:.2} s after the last byte; {}",
        since(finished),
        memory(daemon.memory())
    );
    daemon
}

fn size() -> Size {
    // Cargo adds an option of its own.
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .map(|argument| argument.parse().expect("a number"))
        .collect();
    let number = |at: usize, default: u32| numbers.get(at).copied().unwrap_or(default);
    Size {
        services: number(0, 10_000),
        endpoints: number(1, 10),
        nodes: number(2, 20),
    }
}

fn megabytes(kibibytes: u64) -> f64 {
    let bytes = u32::try_from(kibibytes).map_or(f64::INFINITY, f64::from) * 1024.0;
    bytes / 1e6
}

fn memory(memory: Memory) -> String {
    format!(
        "RSS {:.1} MB ({:.1} anonymous), highest {:.1} MB",
        megabytes(memory.resident),
        megabytes(memory.anonymous),
        megabytes(memory.highest)
    )
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(status.expect("ip").success(), "ip {}", arguments.join(" "));
}

fn configure(directory: &Path, server: &Server) -> std::path::PathBuf {
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(path("ca.pem"), &server.certificate).expect("writes");
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: edge\nclusters:\n- name: edge\n  cluster: {{server: \"https://{}\", certificate-authority: \"{}\"}}\nusers:\n- name: edge\n  user: {{token: edge}}\ncontexts:\n- name: edge\n  context: {{cluster: edge, user: edge}}\n",
        server.address,
        path("ca.pem")
    );
    fs::write(path("kubeconfig"), kubeconfig).expect("writes");
    let config = format!(
        "[node]\nname = \"{}\"\nstate_dir = \"{}\"\nruntime_dir = \"{}\"\n\n[source]\nkind = \"kubernetes\"\n\n[source.kubernetes]\nkubeconfig = \"{}\"\n\n[proxy]\ndatapath = \"nftables\"\nservice_cidrs = [\"10.96.0.0/16\"]\n\n[[pool]]\nname = \"lan\"\naddresses = [\"198.18.0.1-198.18.250.255\"]\n",
        objects::node_name(0),
        path("state"),
        path("run"),
        path("kubeconfig")
    );
    let file = directory.join("edgelb.toml");
    fs::write(&file, config).expect("writes");
    file
}
