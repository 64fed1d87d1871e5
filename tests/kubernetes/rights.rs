//! `config/kubernetes/rbac.yaml` grants what the table of rights says, to whom it says, and nothing
//! more.

use std::collections::BTreeSet;

use edgelb::api_server::rights::{NAMESPACE_RIGHTS, Objects, Right, Role, used};
use edgelb::config::LeaseName;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role as NamespaceRole, RoleBinding, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::roles::{documents, file, of_kind};

/// One verb on one resource, and on which objects.
type Line = (String, String, String, BTreeSet<String>);

fn lines(rules: Option<&Vec<PolicyRule>>) -> BTreeSet<Line> {
    let mut lines = BTreeSet::new();
    for rule in rules.into_iter().flatten() {
        assert_eq!(rule.non_resource_urls, None);
        let names: BTreeSet<String> = rule.resource_names.iter().flatten().cloned().collect();
        for verb in &rule.verbs {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    let line = (verb.clone(), group.clone(), resource.clone(), names.clone());
                    assert!(lines.insert(line), "{verb} {resource} is granted twice");
                }
            }
        }
    }
    lines
}

/// The lines that the table wants of a role, in the whole cluster or in the Lease's namespace.
fn wanted(role: Role, in_cluster: bool) -> BTreeSet<Line> {
    let lease = LeaseName {
        namespace: "kube-system".to_owned(),
        name: "edgelb".to_owned(),
    };
    let here =
        |right: &Right| right.role == role && (right.objects == Objects::Cluster) == in_cluster;
    used(true)
        .filter(|right| here(right))
        .map(|right| {
            let resource = if right.subresource.is_empty() {
                right.resource.to_owned()
            } else {
                format!("{}/{}", right.resource, right.subresource)
            };
            let places = right.places(&lease);
            let names = places.into_iter().map(|place| place.name);
            let names = names.filter(|name| !name.is_empty()).collect();
            (
                right.verb.to_owned(),
                right.group.to_owned(),
                resource,
                names,
            )
        })
        .collect()
}

fn named(metadata: &ObjectMeta) -> (&str, &str) {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    (namespace, metadata.name.as_deref().expect("a name"))
}

fn subjects(subjects: Option<&Vec<Subject>>) -> BTreeSet<String> {
    let subjects = subjects.expect("subjects").iter();
    subjects
        .map(|subject| {
            let namespace = subject.namespace.as_deref().unwrap_or_default();
            format!("{} {namespace}/{}", subject.kind, subject.name)
        })
        .collect()
}

#[test]
fn the_roles_are_the_table() {
    let documents = documents(&file());
    assert_eq!(documents.len(), 8, "nothing but what is looked at here");

    let roles: Vec<ClusterRole> = of_kind(&documents, "ClusterRole");
    let [reader, allocator] = roles.as_slice() else {
        panic!("{roles:?}");
    };
    assert_eq!(named(&reader.metadata), ("", "edgelb-reader"));
    assert_eq!(lines(reader.rules.as_ref()), wanted(Role::Reader, true));
    assert_eq!(wanted(Role::Reader, false), BTreeSet::new());
    assert_eq!(named(&allocator.metadata), ("", "edgelb-allocator"));
    assert_eq!(
        lines(allocator.rules.as_ref()),
        wanted(Role::Allocator, true)
    );
    assert!(roles.iter().all(|role| role.aggregation_rule.is_none()));

    let roles: Vec<NamespaceRole> = of_kind(&documents, "Role");
    let [allocator] = roles.as_slice() else {
        panic!("{roles:?}");
    };
    assert_eq!(
        named(&allocator.metadata),
        ("kube-system", "edgelb-allocator")
    );
    assert_eq!(
        lines(allocator.rules.as_ref()),
        wanted(Role::Allocator, false)
    );
}

#[test]
fn what_may_be_left_out_is_a_rule_of_its_own() {
    let found: Vec<ClusterRole> = of_kind(&documents(&file()), "ClusterRole");
    let rules = found[0].rules.iter().flatten();
    let with_them: Vec<&PolicyRule> = rules
        .filter(|rule| rule.resources.iter().flatten().any(|it| it == "namespaces"))
        .collect();
    let [rule] = with_them.as_slice() else {
        panic!("{with_them:?}");
    };
    assert_eq!(rule.resources.as_ref().map(Vec::len), Some(1));
    let verbs: Vec<&str> = NAMESPACE_RIGHTS.iter().map(|right| right.verb).collect();
    assert_eq!(rule.verbs, verbs);
    assert_eq!(used(false).count() + verbs.len(), used(true).count());
}

#[test]
fn the_roles_are_bound_to_the_groups_and_accounts() {
    let documents = documents(&file());
    let accounts: Vec<ServiceAccount> = of_kind(&documents, "ServiceAccount");
    let accounts: Vec<_> = accounts.iter().map(|it| named(&it.metadata)).collect();
    let reader = ("kube-system", "edgelb-reader");
    let allocator = ("kube-system", "edgelb-allocator");
    assert_eq!(accounts, [reader, allocator]);

    let of_reader = [
        "Group /edgelb:readers",
        "Group /edgelb:allocators",
        "ServiceAccount kube-system/edgelb-reader",
        "ServiceAccount kube-system/edgelb-allocator",
    ];
    let of_allocator = [
        "Group /edgelb:allocators",
        "ServiceAccount kube-system/edgelb-allocator",
    ];
    let set = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
    for (role, wanted) in [
        (Role::Reader, &of_reader[..]),
        (Role::Allocator, &of_allocator),
    ] {
        assert!(wanted.contains(&format!("Group /{}", role.group()).as_str()));
        let bindings: Vec<ClusterRoleBinding> = of_kind(&documents, "ClusterRoleBinding");
        let binding = bindings
            .iter()
            .find(|it| it.role_ref.name == role.name())
            .expect("a binding");
        assert_eq!(named(&binding.metadata), ("", role.name()));
        assert_eq!(binding.role_ref.kind, "ClusterRole");
        let wanted: BTreeSet<String> = set(wanted);
        assert_eq!(subjects(binding.subjects.as_ref()), wanted);
    }
    let bindings: Vec<RoleBinding> = of_kind(&documents, "RoleBinding");
    let [binding] = bindings.as_slice() else {
        panic!("{bindings:?}");
    };
    assert_eq!(named(&binding.metadata), allocator);
    assert_eq!(binding.role_ref.kind, "Role");
    assert_eq!(binding.role_ref.name, "edgelb-allocator");
    let wanted: BTreeSet<String> = set(&of_allocator);
    assert_eq!(subjects(binding.subjects.as_ref()), wanted);
}
