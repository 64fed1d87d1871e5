//! `edgelb plan` beside a kernel: it says exactly what a start would change, changes nothing, and what it
//! says can be done by hand.

use std::collections::BTreeSet;
use std::process::Command;

use edgelb::lab::client::Protocol;
use edgelb::lab::tool;
use serde_json::Value;

use super::rig::{PATIENCE, Rig, START, ipvs, socket, web};
use edgelb::lab::daemon::Daemon;

/// Exit code and commands, with the sign of each.
fn plan(rig: &Rig) -> (Option<i32>, Vec<String>) {
    let output = rig.daemons[0].ask(&["plan", "-o", "json"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(
        report["failures"].as_array().unwrap().len(),
        0,
        "{report:#}"
    );
    let changes = report["changes"].as_array().unwrap().iter();
    let lines = changes.map(|change| {
        let sign = match change["operation"].as_str().unwrap() {
            "add" => '+',
            "change" => '~',
            _ => '-',
        };
        format!("{sign} {}", change["command"].as_str().unwrap())
    });
    (output.status.code(), lines.collect())
}

#[track_caller]
fn nothing_to_change(rig: &Rig) {
    assert_eq!(plan(rig), (Some(0), Vec::new()));
}

fn stop(rig: &mut Rig) {
    rig.daemons[0].terminate(PATIENCE).unwrap();
}

fn start(rig: &mut Rig) {
    rig.daemons.clear();
    let options = rig.options(toml::Table::new());
    let mut daemon = Daemon::start(&rig.lab, 0, &options).unwrap();
    daemon.wait_ready(START).unwrap();
    rig.daemons.push(daemon);
}

fn rig() -> Rig {
    let rig = Rig::new(1, 2);
    let mut sticky = web("sticky", 71);
    "  sessionAffinity: ClientIP\n".clone_into(&mut sticky.more);
    rig.serve(&web("web", 70), &rig.workloads());
    rig.serve(&sticky, &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    let (vip, _) = rig.vip("sticky");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    rig
}

fn routes(rig: &Rig) -> String {
    let show = ["route", "show", "table", "local", "proto", "225"];
    let four = tool(rig.node(0), "ip", &show).unwrap();
    let six = tool(rig.node(0), "ip", &[&["-6"][..], &show].concat()).unwrap();
    four + &six
}

fn virtual_servers(rig: &Rig) -> BTreeSet<String> {
    if !ipvs() {
        return BTreeSet::new();
    }
    let saved = tool(rig.node(0), "ipvsadm", &["--save", "--numeric"]).unwrap();
    saved.lines().map(str::to_owned).collect()
}

/// A rule or a route deleted by hand is named, and nothing else; nor are interfaces without an address.
#[test]
fn a_plan_names_exactly_what_is_missing_and_changes_nothing() {
    let mut rig = rig();
    let (vip, _) = rig.vip("web");
    let pair = [
        "link", "add", "idle0", "type", "veth", "peer", "name", "idle1",
    ];
    tool(rig.node(0), "ip", &pair).unwrap();
    for end in ["idle0", "idle1"] {
        tool(rig.node(0), "ip", &["link", "set", end, "up"]).unwrap();
    }
    nothing_to_change(&rig);
    stop(&mut rig);
    nothing_to_change(&rig);

    let route = format!("local {vip} dev lo table local proto 225");
    let route: Vec<&str> = ["route", "del"]
        .into_iter()
        .chain(route.split(' '))
        .collect();
    tool(rig.node(0), "ip", &route).unwrap();
    let (code, lines) = plan(&rig);
    assert_eq!((code, lines.len()), (Some(1), 1), "{lines:#?}");
    let wanted = format!("+ ip route add local {vip} dev lo ");
    assert!(lines[0].starts_with(&wanted), "{lines:?}");

    let element = format!("delete element inet edgelb held4 {{ {vip} }}");
    tool(rig.node(0), "nft", &[&element]).unwrap();
    let chain = tool(rig.node(0), "nft", &["-a", "list chain inet edgelb input"]).unwrap();
    let rule = chain
        .lines()
        .find(|line| line.contains("unused addresses of service ranges"));
    let handle = rule.unwrap().rsplit(' ').next().unwrap().to_owned();
    let delete = format!("delete rule inet edgelb input handle {handle}");
    tool(rig.node(0), "nft", &[&delete]).unwrap();
    tool(
        rig.node(0),
        "nft",
        &["add rule inet edgelb input drop comment \"mine\""],
    )
    .unwrap();
    rig.node(0).set_sysctl("net/ipv4/ip_forward", "0").unwrap();
    let mut named = vec![
        "+ nft add rule inet edgelb input '".to_owned(),
        "- nft delete rule inet edgelb input comment \"mine\"".to_owned(),
        format!("+ nft add element inet edgelb held4 '{{ {vip} }}'"),
        "~ sysctl -w net.ipv4.ip_forward=1".to_owned(),
    ];
    if ipvs() {
        let server = format!("{vip}:80");
        tool(rig.node(0), "ipvsadm", &["-D", "-t", &server]).unwrap();
        named.push(format!("+ ipvsadm -A -t {server} -s rr"));
        named.push(format!("+ ipvsadm -a -t {server} -r "));
        named.push(format!("+ ipvsadm -a -t {server} -r "));
    }
    named.push(wanted);
    for _ in 0..2 {
        let (code, lines) = plan(&rig);
        assert_eq!((code, lines.len()), (Some(1), named.len()), "{lines:#?}");
        for (line, begin) in lines.iter().zip(&named) {
            assert!(line.starts_with(begin), "{begin:?}: {lines:#?}");
        }
    }

    start(&mut rig);
    nothing_to_change(&rig);
    assert!(routes(&rig).contains(&vip.to_string()));
}

/// What the plan says is done by a shell in the place of the daemon. A few rules are more than the nft
/// program has words for; all else is then as the daemon makes it.
#[test]
fn what_a_plan_says_can_be_done_by_hand() {
    let mut rig = rig();
    let made = (routes(&rig), virtual_servers(&rig));
    assert!(
        !made.0.is_empty() && made.1.is_empty() != ipvs(),
        "{made:?}"
    );
    stop(&mut rig);
    let cleaned = rig.daemons[0].ask(&["cleanup"]).unwrap();
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert_eq!((routes(&rig), virtual_servers(&rig)), Default::default());

    let (code, lines) = plan(&rig);
    assert_eq!(code, Some(1));
    let mut unsaid = Vec::new();
    for line in &lines {
        let (_, command) = line.split_at(2);
        // The fence's rules have no words; its tables are the daemon's alone.
        if ["netdev edgelb", "arp edgelb"]
            .iter()
            .any(|table| command.contains(table))
        {
            continue;
        }
        let done = rig
            .node(0)
            .try_run(|| Command::new("sh").args(["-c", command]).output())
            .unwrap();
        if !done.status.success() {
            let rule = command.strip_prefix("nft add rule inet edgelb ");
            let chain = rule
                .and_then(|rule| rule.split(' ').next())
                .unwrap_or_default();
            assert!(
                // Beside IPVS on an older kernel nft may say less; there it is IPVS that counts.
                ipvs() && rule.is_some() || chain == "postrouting" || chain.starts_with("pick"),
                "{command}: {done:?}"
            );
            unsaid.push(command.to_owned());
        }
    }
    assert_eq!((routes(&rig), virtual_servers(&rig)), made);
    if !ipvs() {
        let (_, lines) = plan(&rig);
        let left: Vec<&String> = lines
            .iter()
            .filter(|line| !line.contains(" netdev edgelb") && !line.contains(" arp edgelb"))
            .filter(|line| {
                !unsaid
                    .iter()
                    .any(|command| line.ends_with(command.as_str()))
            })
            // That it is edgelb that makes this node a router nobody has written down.
            .filter(|line| !line.contains("forward") || !line.starts_with('-'))
            .collect();
        assert!(left.is_empty(), "{left:#?}");
    }
}
