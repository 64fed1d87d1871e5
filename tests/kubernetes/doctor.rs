//! `edgelb doctor` as a process against the scripted server: what it says of the rights that a node
//! has, and of a server that cannot be asked.

use std::path::Path;
use std::process::Output;

use edgelb::api_server::rights::used;
use serde_json::Value;
use tokio::process::Command;

use crate::authority::Secure;
use crate::roles::Roles;
use crate::script::Script;

#[path = "../schemas/validator.rs"]
mod validator;

/// A pool that asks for the labels of Namespaces.
const SELECTING: &str = "[[pool]]\nname = \"lan\"\naddresses = [\"192.0.2.0/24\"]\nnamespace_selector = [\"team=web\"]\n";

fn script() -> Script {
    let mut script = Script::recorded();
    script.let_in("reader", "edgelb:edge-a", &["edgelb:readers"]);
    script.let_in("allocator", "edgelb:edge-b", &["edgelb:allocators"]);
    script.let_in("nobody", "nobody", &[]);
    script.enforce_roles();
    script
}

async fn run(home: &Path, kubeconfig: &Path, more: &str, arguments: &[&str]) -> Output {
    let config = home.join("edgelb.toml");
    let text = format!(
        "node.name = \"edge-a\"\n[source.kubernetes]\nkubeconfig = \"{}\"\n{more}",
        kubeconfig.display()
    );
    std::fs::write(&config, text).expect("writes");
    let program = env!("CARGO_BIN_EXE_edgelb");
    let mut command = Command::new(program);
    command.arg("doctor").arg("-c").arg(config).args(arguments);
    command.output().await.expect("runs")
}

/// Exit code, and level, message and remedy of each finding.
async fn doctor(secure: &Secure, token: &str, more: &str) -> (i32, Vec<(String, String, String)>) {
    let kubeconfig = secure.kubeconfig(token);
    told(&run(secure.home.path(), &kubeconfig, more, &["-o", "json"]).await)
}

fn told(output: &Output) -> (i32, Vec<(String, String, String)>) {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let schema = serde_json::from_str(include_str!("../schemas/doctor.json")).expect("a schema");
    assert_eq!(validator::problems(&schema, &report), Vec::<String>::new());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = report["findings"].as_array().expect("findings");
    let code = output.status.code().expect("ends by itself");
    // What this machine itself lacks is none of this test's business.
    let problems = all.iter().filter(|it| it["level"] == "problem");
    assert_eq!(report["problems"], problems.clone().count());
    assert_eq!(code, i32::from(problems.clone().next().is_some()));
    for problem in problems {
        assert!(problem["remedy"].is_string(), "{problem}");
    }
    let of_this_section = all.iter().filter(|it| it["section"] == "api-access");
    let findings: Vec<_> = of_this_section
        .map(|it| {
            (
                text(&it["level"]),
                text(&it["message"]),
                text(&it["remedy"]),
            )
        })
        .collect();
    let problem = findings.iter().any(|(level, ..)| level == "problem");
    (i32::from(problem), findings)
}

fn levels(findings: &[(String, String, String)]) -> Vec<&str> {
    findings.iter().map(|(level, ..)| level.as_str()).collect()
}

#[tokio::test]
async fn a_node_with_the_rights_of_its_role_is_fine() {
    let secure = Secure::start(script()).await;
    let (code, findings) = doctor(&secure, "allocator", "").await;
    assert_eq!(
        (code, levels(&findings)),
        (0, vec!["fine"; 3]),
        "{findings:?}"
    );
    assert!(
        findings[0].1.contains("the API server v1.36.2 answers in "),
        "{findings:?}"
    );
    let (code, findings) = doctor(&secure, "reader", "").await;
    assert_eq!((code, levels(&findings)), (0, vec!["info", "fine", "fine"]));
    assert!(findings[0].1.contains("does not allocate"), "{findings:?}");
    secure.server.with(|script| {
        assert!(script.forbidden.is_empty(), "it uses none of them");
    });
}

#[tokio::test]
async fn each_missing_right_is_a_problem_that_names_it() {
    for right in used(true) {
        let mut script = script();
        let mut roles = Roles::of_file();
        let mut resource = right.resource.to_owned();
        if !right.subresource.is_empty() {
            resource = format!("{resource}/{}", right.subresource);
        }
        roles.revoke(right.verb, &resource);
        script.roles = Some(roles);
        let secure = Secure::start(script).await;
        let (code, findings) = doctor(&secure, "allocator", SELECTING).await;
        assert_eq!(code, 1);
        let wanted = format!("this node may not {} {}", right.verb, right.resource_name());
        let problems: Vec<_> = findings
            .iter()
            .filter(|(level, ..)| level == "problem")
            .collect();
        let [(_, message, remedy)] = problems.as_slice() else {
            panic!("{right:?}: {findings:?}");
        };
        assert!(message.starts_with(&wanted), "{message}");
        assert!(
            remedy.contains("kubectl apply -f config/kubernetes/rbac.yaml"),
            "{remedy}"
        );
        assert!(remedy.contains(right.role.name()), "{remedy}");
    }
}

#[tokio::test]
async fn namespaces_are_asked_about_only_where_a_pool_selects_by_them() {
    let mut script = script();
    let mut roles = Roles::of_file();
    roles.revoke("list", "namespaces");
    roles.revoke("watch", "namespaces");
    script.roles = Some(roles);
    let secure = Secure::start(script).await;
    let (code, findings) = doctor(&secure, "reader", "").await;
    assert_eq!((code, levels(&findings)), (0, vec!["info", "fine", "fine"]));
    let (code, findings) = doctor(&secure, "reader", SELECTING).await;
    assert_eq!(code, 1);
    let problems = findings.iter().filter(|(level, ..)| level == "problem");
    let messages: Vec<&str> = problems.map(|(_, message, _)| message.as_str()).collect();
    let wanted = ["list", "watch"].map(|verb| format!("this node may not {verb} namespaces"));
    assert_eq!(messages, wanted);
}

#[tokio::test]
async fn a_user_without_rights_is_told_to_be_bound() {
    let secure = Secure::start(script()).await;
    let (code, findings) = doctor(&secure, "nobody", "").await;
    assert_eq!(code, 1);
    let mut wanted = vec!["problem"; 9];
    wanted.extend(["info", "fine"]);
    assert_eq!(levels(&findings), wanted);
    assert!(
        findings[0].2.contains("the group edgelb:readers"),
        "{findings:?}"
    );
    // The roles are for another Lease: what names it is missing.
    let lease = "lease = \"kube-system/another\"\n";
    let (code, findings) = doctor(&secure, "allocator", lease).await;
    let problems: Vec<_> = findings
        .iter()
        .filter(|(level, ..)| level == "problem")
        .collect();
    assert_eq!((code, problems.len()), (1, 4), "{findings:?}");
    assert!(
        problems[3]
            .1
            .contains("another-addresses-0 to another-addresses-f")
    );
    assert!(problems[3].2.contains("the Lease kube-system/another"));
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_is_one_problem() {
    let secure = Secure::start(script()).await;
    let one =
        |(code, findings): (i32, Vec<(String, String, String)>), message: &str, remedy: &str| {
            assert_eq!(code, 1, "{findings:?}");
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].1.contains(message), "{findings:?}");
            assert!(findings[0].2.contains(remedy), "{findings:?}");
        };
    let unknown = doctor(&secure, "unknown", "").await;
    one(
        unknown,
        "does not accept the credentials",
        "renew the token",
    );
    secure.server.with(|script| script.down = true);
    let down = doctor(&secure, "reader", "").await;
    one(down, "the connection failed", "is up");
    let missing = secure.home.path().join("missing");
    let missing = run(secure.home.path(), &missing, "", &["-o", "json"]).await;
    one(told(&missing), "No such file", "write a kubeconfig");
}

#[tokio::test]
async fn the_text_has_a_line_for_each_finding() {
    let secure = Secure::start(script()).await;
    let (home, kubeconfig) = (secure.home.path(), secure.kubeconfig("reader"));
    let output = run(home, &kubeconfig, "", &[]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    let of_this_section = text.lines().filter(|line| line.contains(": api-access: "));
    assert_eq!(of_this_section.count(), 3, "{text}");
    for section in ["kernel", "firewall", "node-ports", "conflicts"] {
        assert!(
            text.contains(&format!(": {section}: ")),
            "{section}: {text}"
        );
    }
    assert!(
        text.contains("\nfine: api-access: the API server"),
        "{text}"
    );
    // What is worse stands before what is better.
    let rank = |line: &str| {
        ["problem", "warning", "info", "fine"]
            .iter()
            .position(|it| line.starts_with(it))
    };
    let ranks: Vec<usize> = text.lines().filter_map(rank).collect();
    assert!(ranks.is_sorted(), "{text}");
    assert!(
        text.contains("the rights to write; remedy: nothing, if other nodes do"),
        "{text}"
    );
    let last = text.lines().last().unwrap_or_default();
    assert!(
        last.contains(" problem") && last.contains(" warning"),
        "{text}"
    );
}

#[tokio::test]
async fn files_need_no_server_and_an_invalid_configuration_ends_with_2() {
    let home = tempfile::tempdir().expect("directory");
    let path = home.path().join("edgelb.toml");
    let run = async |text: &str| {
        std::fs::write(&path, text).expect("writes");
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgelb"));
        command.args(["doctor", "-o", "json", "-c"]).arg(&path);
        command.output().await.expect("runs")
    };
    let (code, findings) = told(&run("node.name = \"a\"\nsource.kind = \"manifests\"\n").await);
    assert_eq!((code, levels(&findings)), (0, vec!["info"]));
    let invalid = run("node.nam = \"a\"\n").await;
    assert_eq!(invalid.status.code(), Some(2));
    assert!(invalid.stdout.is_empty());
    assert!(String::from_utf8_lossy(&invalid.stderr).contains("node.nam"));
}
