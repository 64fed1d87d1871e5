//! Services that cannot be reached by their own fault: each of them stands beside others that work.

use edgelb::lab::client::Protocol;
use edgelb::lab::manifests::ServiceManifest;

use super::super::rig::{Rig, request, socket, web};
use super::names;

/// A Service whose `EndpointSlice` is written by hand.
fn slice(name: &str, address: &str, ready: bool, port: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: default\n  \
         labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\nendpoints:\n- addresses:\n  - {address}\n  \
         conditions:\n    ready: {ready}\n    serving: {ready}\n  nodeName: edge-a\nports:\n- name: {port}\n  \
         protocol: TCP\n  port: 8080\n"
    )
}

fn with(name: &str, number: u8, more: &str) -> ServiceManifest {
    let mut service = web(name, number);
    more.clone_into(&mut service.more);
    service
}

#[test]
fn endpoints_that_are_not_there_are_the_cause() {
    let rig = Rig::new(1, 2);
    let write = |name: &str, text: &str| {
        rig.manifests
            .write(&format!("{name}-slice.yaml"), text)
            .unwrap();
    };
    let problem = |service: &str, words: &[&str]| {
        names(&rig, Some(&format!("default/{service}")), "problem", words);
    };

    rig.serve(&web("nobody", 81), &[]);
    problem(
        "nobody",
        &["its selector app=nobody matches no pod", "--show-labels"],
    );

    rig.manifests.write_service(&web("unready", 82)).unwrap();
    let pod = rig.workload("web-1").address.ipv4.to_string();
    write("unready", &slice("unready", &pod, false, "http"));
    problem(
        "unready",
        &[
            "none of its 1 endpoints is ready",
            &pod,
            "describe pods -l app=unready",
        ],
    );

    rig.manifests.write_service(&web("misnamed", 83)).unwrap();
    write("misnamed", &slice("misnamed", &pod, true, "web"));
    problem(
        "misnamed",
        &[
            "its port 80 (http) leads nowhere",
            "\"web\" (tcp 8080)",
            "targetPort",
        ],
    );

    let mut deaf = web("deaf", 84);
    deaf.ports[0].target_port = 8099;
    rig.serve(&deaf, &rig.workloads());
    problem(
        "deaf",
        &[
            "nothing listens on the target port of 4 of 4",
            ":8099 refuses",
            "ss -ltn",
        ],
    );

    rig.manifests.write_service(&web("lost", 85)).unwrap();
    write("lost", &slice("lost", "203.0.113.77", true, "http"));
    problem("lost", &["no route", "203.0.113.77:8080", "ip route get"]);

    rig.serve(&web("silent", 86), &[rig.workload("web-2")]);
    let drop = "add table inet wall; add chain inet wall in { type filter hook input priority 0; }; \
                add rule inet wall in tcp dport 8080 drop";
    edgelb::lab::tool(&rig.workload("web-2").namespace, "nft", &[drop]).unwrap();
    problem(
        "silent",
        &[
            "endpoints do not answer this node",
            "500 ms",
            "NetworkPolicies",
        ],
    );

    // In short they are told as one.
    names(&rig, None, "warning", &["kubectl"]);
}

#[test]
fn what_has_nothing_to_forward_is_told_as_what_it_is() {
    let rig = Rig::new(1, 1);
    let headless = "apiVersion: v1\nkind: Service\nmetadata:\n  name: db\n  namespace: default\nspec:\n  \
                    clusterIP: None\n  ports:\n  - port: 5432\n";
    rig.manifests.write("db.yaml", headless).unwrap();
    let name = "apiVersion: v1\nkind: Service\nmetadata:\n  name: away\n  namespace: default\nspec:\n  \
                type: ExternalName\n  externalName: example.net\n";
    rig.manifests.write("away.yaml", name).unwrap();
    names(
        &rig,
        Some("default/db"),
        "info",
        &["nothing to do with it: a headless Service"],
    );
    names(
        &rig,
        Some("default/away"),
        "info",
        &["nothing to do with it: an ExternalName"],
    );
}

/// A pod network that lost a pod, and one that drops for it.
#[test]
fn a_pod_without_a_route_is_told_from_one_that_is_silent() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 81), &rig.workloads());
    let pod = rig.workload("web-1").address.ipv4;
    // Another host of the LAN, which does not know the way either.
    let gateway = rig.client_address();
    let command =
        format!("ip route add default via {gateway}; ip route replace {pod}/32 via {gateway}");
    super::run(&rig, 0, &command);
    let words = ["no route of its own", "default route", "pod network"];
    names(&rig, Some("default/web"), "warning", &words);
    super::run(
        &rig,
        0,
        &format!("ip route del {pod}/32; ip route add blackhole {pod}/32"),
    );
    let words = ["there is no route to the pods", "blackhole"];
    names(&rig, Some("default/web"), "warning", &words);
}

#[test]
fn a_service_that_gets_no_address_is_told_why() {
    let mut configuration = toml::Table::new();
    let pools: toml::Value = toml::from_str::<toml::Table>(
        "[[pool]]\nname = \"lan\"\naddresses = [\"192.0.2.200/32\", \"fd00:2::200/128\"]\n",
    )
    .unwrap()["pool"]
        .clone();
    configuration.insert("pool".to_owned(), pools);
    let rig = Rig::with(1, 1, configuration);
    let workloads = rig.workloads();
    let problem = |service: &str, words: &[&str]| {
        names(&rig, Some(&format!("default/{service}")), "problem", words);
    };
    rig.serve(&web("first", 81), &workloads);
    rig.vip("first");
    rig.serve(&web("late", 82), &workloads);
    problem(
        "late",
        &[
            "no address is given to it",
            "no free address in lan",
            "edgelb pools",
        ],
    );

    rig.serve(
        &with("foreign", 83, "  loadBalancerClass: example.net/other\n"),
        &workloads,
    );
    problem(
        "foreign",
        &["loadBalancerClass example.net/other", "edgelb.io/edgelb"],
    );

    let mut wrong = web("wrong", 84);
    wrong
        .annotations
        .insert("edgelb.io/pool".to_owned(), "wan".to_owned());
    rig.serve(&wrong, &workloads);
    problem(
        "wrong",
        &[
            "it names the pool wan, which does not exist",
            "edgelb.io/pool=NAME",
        ],
    );

    let mut taken = web("taken", 85);
    taken.annotations.insert(
        "edgelb.io/ips".to_owned(),
        "192.0.2.200,fd00:2::200".to_owned(),
    );
    rig.serve(&taken, &workloads);
    problem("taken", &["192.0.2.200", "default/first"]);

    let mut outside = web("outside", 86);
    outside.ports[0].node_port = Some(29_999);
    outside.annotations.insert(
        "edgelb.io/ips".to_owned(),
        "198.51.100.9,2001:db8::9".to_owned(),
    );
    rig.serve(&outside, &workloads);
    problem("outside", &["198.51.100.9, which is in no pool"]);

    problem(
        "frist",
        &["there is no such Service", "default/first is there"],
    );
    // The operator is told of all of them at once.
    names(&rig, None, "problem", &["no address is given to it"]);
}

#[test]
fn who_is_let_in_and_how_it_is_spread_is_told() {
    let rig = Rig::new(1, 2);
    let workloads = rig.workloads();
    let closed = "  loadBalancerSourceRanges:\n  - 127.0.0.0/8\n  - \"::1/128\"\n";
    rig.serve(&with("closed", 81, closed), &workloads);
    names(
        &rig,
        Some("default/closed"),
        "problem",
        &["lets no client in", "127.0.0.0/8"],
    );
    let narrow = "  loadBalancerSourceRanges:\n  - 203.0.113.0/24\n  - \"2001:db8::/32\"\n";
    rig.serve(&with("narrow", 82, narrow), &workloads);
    let words = [
        "drops every client of this node's own networks",
        "203.0.113.0/24",
    ];
    names(&rig, Some("default/narrow"), "warning", &words);

    rig.serve(
        &with("sticky", 83, "  sessionAffinity: ClientIP\n"),
        &workloads,
    );
    let (vip, _) = rig.vip("sticky");
    let to = socket(vip, 80);
    rig.wait_served(rig.client(), to, Protocol::Tcp);
    for _ in 0..24 {
        request(rig.client(), to, Protocol::Tcp).unwrap();
    }
    let words = [
        "sessionAffinity ClientIP is why connections are uneven",
        "sessionAffinity\":\"None",
    ];
    names(&rig, Some("default/sticky"), "warning", &words);

    let mut method = web("method", 84);
    let annotation = "edgelb.io/forwarding-method".to_owned();
    method
        .annotations
        .insert(annotation, "direct-routing".to_owned());
    rig.serve(&method, &workloads);
    let words = ["direct-routing", "masqueraded"];
    names(&rig, Some("default/method"), "warning", &words);

    // The first one has the port of the node.
    rig.serve(&web("one", 90), &workloads);
    rig.vip("one");
    let mut two = web("two", 91);
    two.ports[0].node_port = Some(30_090);
    rig.serve(&two, &workloads);
    let words = [
        "node port 30090",
        "is served for default/one already",
        "edit service two",
    ];
    names(&rig, Some("default/two"), "problem", &words);
}
