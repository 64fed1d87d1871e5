//! Role-based access control, read from the file that people apply: what it does not allow is
//! refused as the real server refuses it.

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::http::Answer;
use crate::target::Target;

/// Who a token stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// Every rule with whom it is for and where it counts.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    grants: Vec<Grant>,
}

#[derive(Debug, Clone)]
struct Grant {
    /// What the answer names.
    binding: String,
    subjects: Vec<Subject>,
    /// `None`: everywhere.
    namespace: Option<String>,
    rules: Vec<PolicyRule>,
}

/// The file that people apply.
pub fn file() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/kubernetes/rbac.yaml");
    std::fs::read_to_string(path).expect("config/kubernetes/rbac.yaml")
}

/// The documents of a file.
pub fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).expect("a YAML document"))
        .filter(|document: &Value| !document.is_null())
        .collect()
}

/// The documents of one kind.
pub fn of_kind<T: DeserializeOwned>(documents: &[Value], kind: &str) -> Vec<T> {
    documents
        .iter()
        .filter(|document| document["kind"] == kind)
        .map(|document| serde_json::from_value(document.clone()).expect("is of its kind"))
        .collect()
}

impl Roles {
    pub fn of_file() -> Self {
        Self::parse(&file())
    }

    pub fn parse(text: &str) -> Self {
        let documents = documents(text);
        let cluster_roles: Vec<ClusterRole> = of_kind(&documents, "ClusterRole");
        let namespaced: Vec<Role> = of_kind(&documents, "Role");
        let rules = |reference: &RoleRef, namespace: Option<&str>| {
            let group = reference.api_group.as_deref();
            assert_eq!(group, Some("rbac.authorization.k8s.io"));
            let found = if reference.kind == "ClusterRole" {
                (cluster_roles.iter())
                    .find(|role| role.metadata.name.as_ref() == Some(&reference.name))
                    .map(|role| role.rules.clone())
            } else {
                (namespaced.iter())
                    .find(|role| {
                        role.metadata.name.as_ref() == Some(&reference.name)
                            && role.metadata.namespace.as_deref() == namespace
                    })
                    .map(|role| role.rules.clone())
            };
            let found = found.unwrap_or_else(|| panic!("{reference:?} leads nowhere"));
            found.unwrap_or_default()
        };
        let mut grants = Vec::new();
        for binding in of_kind::<ClusterRoleBinding>(&documents, "ClusterRoleBinding") {
            grants.push(Grant {
                binding: format!("ClusterRoleBinding {:?}", binding.metadata.name),
                subjects: binding.subjects.unwrap_or_default(),
                namespace: None,
                rules: rules(&binding.role_ref, None),
            });
        }
        for binding in of_kind::<RoleBinding>(&documents, "RoleBinding") {
            let namespace = binding.metadata.namespace.clone();
            grants.push(Grant {
                binding: format!("RoleBinding {:?}", binding.metadata.name),
                subjects: binding.subjects.unwrap_or_default(),
                rules: rules(&binding.role_ref, namespace.as_deref()),
                namespace,
            });
        }
        Self { grants }
    }

    /// The binding that allows it.
    pub fn allows(&self, user: &User, target: &Target) -> Option<String> {
        self.grants
            .iter()
            .find(|grant| {
                grant.subjects.iter().any(|subject| is(user, subject))
                    && (grant.namespace.is_none()
                        || grant.namespace.as_ref() == Some(&target.namespace))
                    && grant.rules.iter().any(|rule| covers(rule, target))
            })
            .map(|grant| grant.binding.clone())
    }

    /// Takes away a verb on a resource wherever it is granted: an older or mistaken file.
    pub fn revoke(&mut self, verb: &str, resource: &str) {
        let mut revoked = 0;
        for rule in self.grants.iter_mut().flat_map(|grant| &mut grant.rules) {
            let named = rule.resources.iter().flatten().any(|it| it == resource);
            if named && rule.verbs.iter().any(|it| it == verb) {
                rule.verbs.retain(|it| it != verb);
                revoked += 1;
            }
        }
        assert!(revoked > 0, "no rule gives {verb} on {resource}");
    }
}

fn is(user: &User, subject: &Subject) -> bool {
    match subject.kind.as_str() {
        "Group" => user.groups.contains(&subject.name),
        "User" => user.name == subject.name,
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().unwrap_or_default();
            user.name == format!("system:serviceaccount:{namespace}:{}", subject.name)
        }
        kind => panic!("a subject is no {kind}"),
    }
}

/// Whether a rule covers a request. One that names objects does not cover a creation, for the name
/// is not known to authorization then.
fn covers(rule: &PolicyRule, target: &Target) -> bool {
    let has = |list: &Option<Vec<String>>, wanted: &str| {
        (list.iter().flatten()).any(|it| it == wanted || it == "*")
    };
    let names = rule.resource_names.as_deref().unwrap_or_default();
    rule.verbs.iter().any(|it| *it == target.verb || it == "*")
        && has(&rule.api_groups, &target.group)
        && has(&rule.resources, &target.rule_resource())
        && (names.is_empty() || names.contains(&target.name))
}

/// The refusal, worded as the recorded one.
pub fn forbidden(user: &User, target: &Target) -> Answer {
    let place = if target.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", target.namespace)
    };
    let mut details = json!({"kind": target.resource});
    let mut subject = target.qualified();
    if !target.group.is_empty() {
        details["group"] = json!(target.group);
    }
    if !target.name.is_empty() {
        details["name"] = json!(target.name);
        subject = format!("{subject} \"{}\"", target.name);
    }
    let message = format!(
        "{subject} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
        user.name,
        target.verb,
        target.rule_resource(),
        target.group,
    );
    Answer::refusal(403, &message, &details)
}
