//! Whether the API server answers this node, how fast, and which of the rights that edgelb uses it
//! has. Asks the server about each right; uses none of them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Finding, Level, Section};
use crate::api_server::client::Credentials;
use crate::api_server::rights::{self, Place, Right, Role};
use crate::api_server::server::{Call, CallError, Server, body};
use crate::config::{Config, DEFAULT_KUBECONFIG, LeaseName, SourceKind};

/// A person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Slower than this, and bursts of changes take their time.
const SLOW: Duration = Duration::from_millis(500);

const REVIEWS: &str = "selfsubjectaccessreviews";
const REVIEWS_PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
/// Where the roles are, as people have them.
const ROLES_FILE: &str = "config/kubernetes/rbac.yaml";

/// The findings of this section.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    match config.source.kind {
        SourceKind::Manifests => vec![finding(
            Level::Info,
            "source.kind = \"manifests\": no API server is asked".to_owned(),
            None,
        )],
        SourceKind::Kubernetes => examine_server(config).await,
    }
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        remedy,
        ..Finding::new(Section::ApiAccess, level, message)
    }
}

async fn examine_server(config: &Config) -> Vec<Finding> {
    let source = &config.source.kubernetes;
    let file = source.kubeconfig.as_ref().map_or_else(
        || DEFAULT_KUBECONFIG.to_owned(),
        |path| path.display().to_string(),
    );
    let server = Server::new(Credentials::new(source.kubeconfig.clone()));
    let mut findings = match answers(&server).await {
        Ok(found) => vec![found],
        Err(error) => return vec![unusable(&error, &file)],
    };
    for role in [Role::Reader, Role::Allocator] {
        let used: Vec<&Right> = rights::used(config.selects_namespaces())
            .filter(|right| right.role == role)
            .collect();
        match granted(&server, role, &used, &source.lease).await {
            Ok(found) => findings.extend(found),
            Err(error) => {
                findings.push(unusable(&error, &file));
                break;
            }
        }
    }
    findings
}

/// The server's version, as it tells everybody.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

/// Whether the server answers, and how long that takes without the handshake.
async fn answers(server: &Server) -> Result<Finding, CallError> {
    let call = Call::get("version", "/version".to_owned()).within(PATIENCE);
    let begun = Instant::now();
    let _: Version = server.call(&call).await?;
    let connected = begun.elapsed();
    let begun = Instant::now();
    let version: Version = server.call(&call).await?;
    let answered = begun.elapsed();
    let message = format!(
        "the API server {} answers in {} (the first time, with a new connection: {})",
        version.git_version,
        milliseconds(answered),
        milliseconds(connected),
    );
    Ok(if answered < SLOW {
        finding(Level::Fine, message, None)
    } else {
        let remedy = "look at the API server's load and at the way to it from this node";
        finding(Level::Warning, message, Some(remedy.to_owned()))
    })
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// The problem that nothing can be asked, with what mends it.
fn unusable(error: &CallError, file: &str) -> Finding {
    let remedy = match error {
        CallError::Client(_) => format!(
            "write a kubeconfig with a server, its authority and this node's credentials to {file} \
             (or name another in source.kubernetes.kubeconfig); {ROLES_FILE} says which user it is for"
        ),
        CallError::Unauthorized { .. } => {
            format!("renew the token or the client certificate that {file} names")
        }
        CallError::Connection(_) | CallError::TimedOut(_) => format!(
            "see whether the server that {file} names is up, can be reached from this node, and has a \
             certificate of the authority named there"
        ),
        CallError::Forbidden { .. } => {
            "let the cluster's own bindings system:basic-user and system:public-info-viewer be"
                .to_owned()
        }
        CallError::NotFound { .. } | CallError::Malformed { .. } | CallError::Refused { .. } => {
            format!("see whether the server that {file} names is a Kubernetes API server")
        }
        CallError::Busy { .. } | CallError::Conflict { .. } => {
            "ask again when the API server is well".to_owned()
        }
    };
    finding(Level::Problem, error.describe(), Some(remedy))
}

/// The question whether the asker may do something.
#[derive(Serialize)]
struct Review {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    spec: ReviewSpec,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewSpec {
    resource_attributes: ResourceAttributes,
}

#[derive(Serialize)]
struct ResourceAttributes {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: String,
    name: String,
}

/// And the answer.
#[derive(Deserialize)]
struct Reviewed {
    status: ReviewStatus,
}

#[derive(Deserialize)]
struct ReviewStatus {
    allowed: bool,
}

async fn may(server: &Server, right: &Right, place: &Place) -> Result<bool, CallError> {
    let review = Review {
        api_version: "authorization.k8s.io/v1",
        kind: "SelfSubjectAccessReview",
        spec: ReviewSpec {
            resource_attributes: ResourceAttributes {
                verb: right.verb,
                group: right.group,
                resource: right.resource,
                subresource: right.subresource,
                namespace: place.namespace.clone(),
                name: place.name.clone(),
            },
        },
    };
    let body = body(REVIEWS, &review)?;
    let call = Call::create(REVIEWS, REVIEWS_PATH.to_owned(), body).within(PATIENCE);
    let reviewed: Reviewed = server.call(&call).await?;
    Ok(reviewed.status.allowed)
}

/// One finding for all rights of a role, or one for each that is missing.
async fn granted(
    server: &Server,
    role: Role,
    used: &[&Right],
    lease: &LeaseName,
) -> Result<Vec<Finding>, CallError> {
    let mut lines = Vec::new();
    let mut granted = 0_usize;
    for right in used {
        let mut missing = Vec::new();
        for place in right.places(lease) {
            if may(server, right, &place).await? {
                granted += 1;
            } else {
                missing.push(place);
            }
        }
        lines.extend(lacks(right, &missing));
    }
    let (group, name) = (role.group(), role.name());
    let bind = format!(
        "kubectl apply -f {ROLES_FILE}, and give this node's user the group {group} or bind it to \
         {name} by hand"
    );
    if lines.is_empty() {
        let message = match role {
            Role::Reader => "this node may read all that it needs",
            Role::Allocator => "this node may allocate addresses, and write them",
        };
        return Ok(vec![finding(Level::Fine, message.to_owned(), None)]);
    }
    if role == Role::Allocator && granted == 0 {
        let message = "this node does not allocate: it has none of the rights to write";
        let remedy = format!("nothing, if other nodes do; else {bind}");
        return Ok(vec![finding(Level::Info, message.to_owned(), Some(remedy))]);
    }
    let remedy = if granted == 0 {
        bind
    } else {
        // It is bound to something: the roles are of another version, or for another Lease.
        format!(
            "kubectl apply -f {ROLES_FILE} of this version, with the Lease {}/{} in it: the binding \
             {name} is for the group {group}",
            lease.namespace, lease.name
        )
    };
    let problem = |line| finding(Level::Problem, line, Some(remedy.clone()));
    Ok(lines.into_iter().map(problem).collect())
}

/// The line for what is missing of a right.
fn lacks(right: &Right, missing: &[Place]) -> Option<String> {
    let (first, rest) = missing.split_first()?;
    let mut line = format!("this node may not {} {}", right.verb, right.resource_name());
    if !first.name.is_empty() {
        line = format!("{line} {}", first.name);
    }
    if let Some(last) = rest.last() {
        line = format!("{line} to {} ({} in all)", last.name, missing.len());
    }
    Some(if first.namespace.is_empty() {
        line
    } else {
        format!("{line} in {}", first.namespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_whole() {
        let lease = LeaseName {
            namespace: "kube-system".to_owned(),
            name: "edgelb".to_owned(),
        };
        let lines: Vec<String> = rights::used(true)
            .filter_map(|right| lacks(right, &right.places(&lease)))
            .collect();
        for wanted in [
            "this node may not watch endpointslices.discovery.k8s.io",
            "this node may not patch services/status",
            "this node may not create configmaps in kube-system",
            "this node may not update leases.coordination.k8s.io edgelb in kube-system",
            "this node may not get configmaps edgelb-addresses-0 to edgelb-addresses-f (16 in all) in kube-system",
        ] {
            assert!(lines.iter().any(|line| line == wanted), "{lines:#?}");
        }
        assert_eq!(lines.len(), rights::used(true).count());
    }
}
