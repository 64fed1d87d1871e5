//! Cases 17, 18, 77 and 83: what an API server tells, and when it tells nothing.

use std::time::{Duration, Instant};

use edgelb::lab::client::open_stream;
use serde_json::json;

use super::bench::{Bench, CLUSTER_IP, NODE_PORT, Setup, bar};
use super::objects::{cluster_ip, node_port, single, slices};
use super::observe::{TCP, UDP, answered, http, reaches, refused, silent};
use crate::rig::{eventually, ipvs, request, socket};

fn bench(configuration: &'static str) -> Bench {
    Bench::with(&Setup {
        configuration,
        api_server: true,
        ..Setup::default()
    })
}

#[test]
fn case_17_another_proxys_service_is_left_alone() {
    let bench = bench("");
    let service = cluster_ip();
    let mut foreign = service.clone();
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": ""});
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    for _ in ["once", "again"] {
        answered(p, to, TCP);
        bench.put(&foreign);
        bench.settle();
        silent(p, to, TCP);
        bench.put(&service);
        bench.settle();
    }
    // As the server tells it to a watch that selects by the label: it is gone, and comes anew.
    bench.delete(&service);
    bench.settle();
    silent(p, to, TCP);
    bench.put(&service);
    bench.settle();
    answered(p, to, TCP);
}

#[test]
fn case_18_a_headless_slice_is_invisible() {
    let bench = bench("");
    let service = cluster_ip();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    answered(p, to, TCP);
    let [slice, _] = slices(&service, &[bench.endpoint(bench.a())]);
    let mut headless = slice.clone();
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    bench.put(&headless);
    bench.settle();
    refused(p, to, TCP);
    bench.put(&slice);
    bench.settle();
    answered(p, to, TCP);
}

#[test]
fn case_77_a_restart_without_the_server_keeps_forwarding() {
    let mut bench = bench("");
    bench.serve(&node_port(), &[bench.endpoint(bench.a())]);
    let to = socket(bench.node().address.ipv4, NODE_PORT);
    let mut stream = open_stream(bench.c(), to).unwrap();
    stream.send("before").unwrap();
    bench.script(|script| script.down = true);
    for kill in [false, true] {
        if kill {
            bench.daemons[0].kill().unwrap();
        } else {
            bench.daemons[0].terminate(Duration::from_secs(10)).unwrap();
        }
        answered(bench.c(), to, TCP);
        bench.start_again();
        for _ in 0..10 {
            answered(bench.c(), to, TCP);
            answered(&bench.p().namespace, socket(CLUSTER_IP.ipv6, 80), UDP);
            stream.send("meanwhile").unwrap();
        }
    }
    bench.script(|script| script.down = false);
    bench.heard();
    bench.serve(&node_port(), &[bench.endpoint(bench.r())]);
    reaches(bench.c(), to, TCP, &[bench.r()]);
    assert_eq!(stream.send("after").unwrap().workload, bench.a().name);
}

/// The same after a crash at once when a change is in force: the record of the cluster is then an
/// older one, and nothing of the newer state in the kernel is taken back.
#[test]
fn case_77c_nor_does_a_crash_right_after_a_change() {
    let mut bench = bench("");
    bench.serve(&node_port(), &[bench.endpoint(bench.a())]);
    let to = socket(bench.node().address.ipv4, NODE_PORT);
    reaches(bench.c(), to, TCP, &[bench.a()]);
    let [slice, _] = slices(&node_port(), &[bench.endpoint(bench.r())]);
    bench.put(&slice);
    eventually(bar(), || {
        let answer = request(bench.c(), to, TCP).ok()?;
        (answer.workload == bench.r().name).then_some(())
    });
    bench.script(|script| script.down = true);
    bench.daemons[0].kill().unwrap();
    reaches(bench.c(), to, TCP, &[bench.r()]);
    bench.start_again();
    for _ in 0..10 {
        reaches(bench.c(), to, TCP, &[bench.r()]);
    }
}

/// RUN-1: before the lists are complete nothing is written, and what the kernel holds stays.
#[test]
fn case_77b_without_a_record_nothing_is_taken_away() {
    let mut bench = bench("");
    bench.serve(&node_port(), &[bench.endpoint(bench.a())]);
    let to = socket(bench.node().address.ipv4, NODE_PORT);
    answered(bench.c(), to, TCP);
    bench.daemons[0].terminate(Duration::from_secs(10)).unwrap();
    let before = super::observe::datapath_text(bench.n1());
    bench.script(|script| script.down = true);
    // All that an earlier run wrote down of the cluster, and of nothing else.
    let state = bench.daemons[0].state_directory();
    let mut removed = 0;
    for entry in std::fs::read_dir(&state).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains("cluster") || name.contains("snapshot") {
            std::fs::remove_file(entry.path()).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0, "no record in {}", state.display());
    bench.start_unready();
    for _ in 0..10 {
        answered(bench.c(), to, TCP);
        answered(bench.c(), to, UDP);
    }
    assert_eq!(super::observe::datapath_text(bench.n1()), before);
    bench.script(|script| script.down = false);
    bench.heard();
    bench.serve(&node_port(), &[bench.endpoint(bench.r())]);
    reaches(bench.c(), to, TCP, &[bench.r()]);
}

/// How many passes the daemon has made, by its metrics.
fn passes(bench: &Bench) -> u64 {
    let to = socket([127, 0, 0, 1], 9750);
    let text = http(bench.n1(), to, "GET /metrics").unwrap().body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("edgelb_pass_duration_seconds_count "));
    line.unwrap().parse().unwrap()
}

#[test]
fn case_83_a_flood_of_changes_is_one_pass() {
    let pause = Duration::from_secs(1);
    let bench = bench("[proxy]\nmin_sync_interval = \"1s\"");
    let service = cluster_ip();
    let a = [bench.endpoint(bench.a())];
    let r = [bench.endpoint(bench.r())];
    bench.serve(&service, &a);
    // No pass is due any more: none came for as long as two could have.
    let mut last = (passes(&bench), Instant::now());
    eventually(Duration::from_secs(60), || {
        let now = passes(&bench);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > pause * 2 + pause / 2).then_some(())
    });
    let before = passes(&bench);
    let start = Instant::now();
    for number in 0..250_u8 {
        let endpoints = if number % 2 == 0 { &r } else { &a };
        let [slice, _] = slices(&service, endpoints);
        bench.put(&slice);
        bench.put(&single(
            &format!("flood-{}", number % 50),
            [10, 96, 7, number].into(),
        ));
    }
    let [slice, _] = slices(&service, &r);
    bench.put(&slice);
    let fed = start.elapsed();
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    let patience = Duration::from_secs(if ipvs() { 100 } else { 20 });
    // Everything is in force: the endpoint, the last of each Service and none of the older ones.
    eventually(patience, || {
        let services = bench.ask("services")["services"].as_array().unwrap().len();
        let refused = |number| {
            let result = request(p, socket([10, 96, 7, number], 80), TCP);
            super::observe::is_refusal(&result)
        };
        (services >= 51 && refused(249) && refused(200)).then_some(())
    });
    let made = passes(&bench) - before;
    // A pass a pause, and one before and after; an emulated machine may take longer for the flood.
    let longest = u64::try_from(start.elapsed().as_millis() / pause.as_millis()).unwrap() + 2;
    let most = if fed < pause { 3 } else { longest };
    assert!(
        (1..=most).contains(&made),
        "{made} passes, fed for {fed:?}, in force after {:?}",
        start.elapsed()
    );
    reaches(p, to, TCP, &[bench.r()]);
    silent(p, socket([10, 96, 7, 199], 80), TCP);
}
