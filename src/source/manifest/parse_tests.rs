//! What one file says, and where exactly something is wrong in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::time::{Duration, Instant};

use super::parse::{ManifestObject, parse};
use super::tests::{ENDPOINTS, SLICE, WEB};

#[test]
fn problems_name_line_and_field() {
    // name, text, line, field, a word of the message, whether the document cannot be used at all
    type Case = (
        &'static str,
        &'static str,
        u64,
        &'static str,
        &'static str,
        bool,
    );
    let cases: [Case; 24] = [
        (
            "a.yaml",
            "spec:\n  sessionAffinity: ClientIP\n",
            1,
            "kind",
            "no kind",
            true,
        ),
        (
            "a.yaml",
            "# c\n\nkind: Service\n",
            3,
            "apiVersion",
            "no apiVersion",
            true,
        ),
        (
            "a.yaml",
            "kind: 5\napiVersion: v1\n",
            1,
            "kind",
            "kind is not a text",
            true,
        ),
        ("a.yaml", "- a\n- b\n", 1, "", "a list", true),
        ("a.yaml", "just words\n", 1, "", "a single value", true),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nspec: {}\n",
            1,
            "metadata.name",
            "no name",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: Web_1\n",
            4,
            "metadata.name",
            "Web_1",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  namespace: 'x/y'\n",
            5,
            "metadata.namespace",
            "x/y",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: 5\n",
            4,
            "metadata.name",
            "integer",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 1\n  - name: b\n    port: eighty\n",
            8,
            "spec.ports[1].port",
            "eighty",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n    port: 80\n",
            5,
            "spec.ports",
            "sequence",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 1\n  - name: b\n    port: 70000\n",
            8,
            "spec.ports[1].port",
            "70000",
            false,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  port: 80\n",
            5,
            "spec.port",
            "unknown field",
            false,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n    service.beta.kubernetes.io/load-balancer-source-ranges: x\n",
            6,
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]",
            "no IPv4 range",
            false,
        ),
        (
            "a.yaml",
            "a: b\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: X}\n",
            6,
            "spec.type",
            "unknown type",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec:\n    ports:\n    - port: 0\n",
            9,
            "items[0].spec.ports[0].port",
            "0 is not a port",
            false,
        ),
        (
            "a.yaml",
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n",
            1,
            "apiVersion",
            "discovery.k8s.io/v1",
            true,
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n\tname: a\n",
            4,
            "",
            "tab",
            true,
        ),
        ("a.yaml", "a: 1\n---\nb: [1, 2\n", 3, "", "line 3", true),
        (
            "a.yaml",
            "apiVersion: v1\nkind: Service\nkind: Service\n",
            3,
            "",
            "duplicate",
            true,
        ),
        (
            "a.json",
            "{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Service\"\n",
            4,
            "",
            "EOF",
            true,
        ),
        ("a.json", "{\n  \"a\": tru,\n}\n", 2, "", "column", true),
        (
            "a.json",
            "{\"apiVersion\": \"v1\",\n \"kind\": \"Service\",\n \"metadata\": {\"name\": \"a\"},\n \"spec\": {\n  \"clusterIP\": 5}}\n",
            5,
            "spec.clusterIP",
            "integer",
            true,
        ),
        (
            "a.json",
            "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"a\"}}\n\n{\n\"kind\": 1}\n",
            4,
            "kind",
            "not a text",
            true,
        ),
    ];
    for (name, text, line, field, word, broken) in cases {
        let parsed = parse(name, text.as_bytes());
        assert_eq!(parsed.broken, broken, "{text}: {parsed:?}");
        let found = parsed.problems.iter().any(|problem| {
            problem.line == Some(line)
                && problem.field.as_deref().unwrap_or_default() == field
                && problem.message.contains(word)
        });
        assert!(
            found,
            "{text}\nline {line} field {field:?} {word:?} in {:?}",
            parsed.problems
        );
        for problem in &parsed.problems {
            assert!(
                problem.message.len() < 400 && !problem.message.contains('\n'),
                "{problem:?}"
            );
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_line() {
    for (bytes, line, word) in [
        (&b"a: 1\nb: \xff\n"[..], 2, "UTF-8"),
        (&b"a: 1\n\nb: \0\0\0\0"[..], 3, "NUL"),
        (&b"\xff\xfea\0:\0"[..], 1, ""),
    ] {
        let parsed = parse("a.yaml", bytes);
        assert!(parsed.broken);
        assert_eq!(parsed.problems[0].line, Some(line));
        assert!(
            parsed.problems[0].message.contains(word),
            "{:?}",
            parsed.problems
        );
    }
    let with_mark = [b"\xEF\xBB\xBF", WEB.as_bytes()].concat();
    assert_eq!(
        parse("a.yaml", &with_mark).problems,
        [],
        "a byte order mark is no problem"
    );
    let windows = WEB.replace('\n', "\r\n");
    assert_eq!(parse("a.yaml", windows.as_bytes()).problems, []);
}

#[test]
fn documents_are_read_one_by_one() {
    let text = format!(
        "%YAML 1.2\n---\n{WEB}...\n# nothing\n---\nbroken: [\n---\n---\n{SLICE}--- # end\n{ENDPOINTS}"
    );
    let parsed = parse("a.yaml", text.as_bytes());
    assert_eq!(parsed.objects.len(), 3, "{parsed:?}");
    assert_eq!(parsed.problems.len(), 1, "{parsed:?}");
    assert!(parsed.broken);
    let marker_in_text =
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\ntext: |\n  ---\n  more\n";
    let parsed = parse("a.yaml", marker_in_text.as_bytes());
    assert!(!parsed.broken, "{parsed:?}");
    assert_eq!(parsed.ignored.len(), 1);
}

#[test]
fn bombs_are_refused_quickly() {
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let previous = format!("*a{}", level - 1);
        let items = [previous.as_str(); 10].join(", ");
        let level = level.to_string();
        aliases += &["a", &level, ": &a", &level, " [", &items, "]\n"].concat();
    }
    let deep_flow = "[".repeat(10_000);
    let deep_block = "- ".repeat(10_000);
    let deep_maps = (0..2_000).fold(String::new(), |text, depth| {
        text + &" ".repeat(depth)
            + "a:
"
    });
    let deep_json = format!("{{\"a\":{}", "[".repeat(10_000));
    let documents = "[\n---\n".repeat(40_000);
    let too_many_documents = "x\n---\n".repeat(60_000);
    let many = format!("[{}]", "0,".repeat(3_000_000));
    for (name, text) in [
        ("a.yaml", &aliases),
        ("a.yaml", &deep_flow),
        ("a.yaml", &deep_block),
        ("a.yaml", &deep_maps),
        ("a.json", &deep_json),
        ("a.yaml", &documents),
        ("a.yaml", &too_many_documents),
        ("a.yaml", &many),
    ] {
        let started = Instant::now();
        let parsed = parse(name, text.as_bytes());
        assert!(parsed.broken, "{name} {}", &text[..20]);
        let elapsed = started.elapsed();
        assert!(
            elapsed < Duration::from_secs(30),
            "{elapsed:?} {}",
            &text[..20]
        );
    }
}

#[test]
fn kinds_that_are_not_read_are_told_and_bounded() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n".repeat(500);
    let parsed = parse("a.yaml", text.as_bytes());
    assert!(!parsed.broken);
    assert_eq!(parsed.ignored.len(), 101);
    assert_eq!(
        parsed.ignored[1],
        "line 5: Deployment web: only Service, EndpointSlice, Endpoints, Node and Namespace are read"
    );
    let other_group = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n";
    assert_eq!(parse("a.yaml", other_group.as_bytes()).ignored.len(), 1);
}

#[test]
fn plain_ipv6_addresses_and_aliases_are_read() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: &labels {app: web}}\nspec:\n  selector: *labels\n  externalIPs: [2001:db8::1, ::ffff:192.0.2.1, 'fd00::']\n  clusterIPs:\n  - fd00:10:96::a\n  ports: [{port: 0x50}]\n";
    let parsed = parse("a.yaml", text.as_bytes());
    assert_eq!(parsed.problems, []);
    let Some(ManifestObject::Service(service)) = parsed
        .objects
        .values()
        .next()
        .map(|document| &document.object)
    else {
        panic!("{parsed:?}");
    };
    let texts: Vec<String> = service
        .external_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(texts, ["2001:db8::1", "192.0.2.1", "fd00::"]);
    assert_eq!(service.cluster_ips[0].to_string(), "fd00:10:96::a");
    assert_eq!(service.ports[0].port, 80);
}

#[test]
fn a_list_of_a_thousand_services_is_read_item_by_item() {
    let item = |index: usize| {
        format!(
            "- metadata: {{name: web-{index}}}\n  spec: {{ports: [{{port: {}}}]}}\n",
            if index == 700 { 0 } else { 80 }
        )
    };
    let mut text = "apiVersion: v1\nkind: ServiceList\nitems:\n".to_owned();
    text.extend((0..1000).map(item));
    let parsed = parse("a.yaml", text.as_bytes());
    assert_eq!(parsed.objects.len(), 1000);
    assert_eq!(parsed.problems.len(), 1);
    assert_eq!(parsed.problems[0].line, Some(3 + 700 * 2 + 2));
    assert_eq!(
        parsed.problems[0].field.as_deref(),
        Some("items[700].spec.ports[0].port")
    );
}
