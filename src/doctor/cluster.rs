//! The cluster as the daemon of this configuration has it: the manifests themselves, or what a daemon
//! recorded of the API server. Reads files; asks nobody.

use super::running::Running;
use crate::apply::state_directory::peek;
use crate::config::{Config, SourceKind};
use crate::model::cluster::ClusterState;
use crate::model::service::ServiceKey;
use crate::source::SourceProblem;
use crate::source::kubernetes::slice::SERVICE_NAME_LABEL;
use crate::source::manifest::read_all;

/// What the sources hold.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// None where neither a directory nor a record can be read.
    pub(super) cluster: Option<ClusterState>,
    /// What cannot be used of the manifests, as far as doctor itself has read them.
    pub(super) problems: Vec<SourceProblem>,
    /// What was left out on purpose, as doctor itself has read it or as the daemon tells it.
    ignored: Vec<String>,
}

impl Sources {
    /// Reads them.
    pub(super) fn read(config: &Config, running: Option<&Running>) -> Self {
        let mut sources = match config.source.kind {
            SourceKind::Kubernetes => Self {
                cluster: peek::cluster(&config.node.state_dir),
                ..Self::default()
            },
            SourceKind::Manifests => {
                let (changes, problems, ignored) = read_all(&config.source.manifests.dir);
                let mut cluster = ClusterState::default();
                for change in changes {
                    cluster.apply(change);
                }
                Self {
                    cluster: Some(cluster),
                    problems,
                    ignored,
                }
            }
        };
        let told = running.map(|it| it.status.source.ignored.iter());
        sources.ignored.extend(told.into_iter().flatten().cloned());
        sources
    }

    /// An `EndpointSlice` of a namespace that belongs to no Service, by its name.
    pub(super) fn without_service(&self, namespace: &str) -> Option<&str> {
        without_service(&self.ignored, namespace)
    }

    /// Why this Service is left out on purpose, if it is.
    pub(super) fn why_ignored(&self, key: &ServiceKey) -> Option<&str> {
        why_ignored(&self.ignored, key)
    }
}

/// The name in a line about a slice of the namespace that has no label.
fn without_service<'l>(lines: &'l [String], namespace: &str) -> Option<&'l str> {
    let head = format!("EndpointSlice {namespace}/");
    lines.iter().find_map(|line| {
        let (name, reason) = line.split_once(&head)?.1.split_once(": ")?;
        reason.contains(SERVICE_NAME_LABEL).then_some(name)
    })
}

/// The reason behind `Service NAMESPACE/NAME: ` in one of the lines.
fn why_ignored<'l>(lines: &'l [String], key: &ServiceKey) -> Option<&'l str> {
    let head = format!("Service {key}: ");
    lines
        .iter()
        .find_map(|line| Some(line.split_once(&head)?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_by_the_whole_name() {
        let lines = [
            "db.yaml line 3: Service shop/db: a headless Service has none",
            "web.yaml line 9: EndpointSlice shop/web-1: it has no label kubernetes.io/service-name, so it \
             belongs to no Service",
        ];
        let lines = lines.map(str::to_owned);
        let why = |name| why_ignored(&lines, &ServiceKey::new("shop", name));
        assert_eq!(why("db"), Some("a headless Service has none"));
        assert_eq!((why("d"), why("db2")), (None, None));
        assert_eq!(without_service(&lines, "shop"), Some("web-1"));
        assert_eq!(without_service(&lines, "sho"), None);
    }
}
