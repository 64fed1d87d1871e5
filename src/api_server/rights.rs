//! Everything that edgelb asks of the API server, as one table: `config/kubernetes/rbac.yaml` grants
//! exactly this, and `doctor` asks for exactly this. Decides nothing, asks nobody.

use crate::config::LeaseName;

/// Who needs a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Every node.
    Reader,
    /// A node that may give addresses to Services.
    Allocator,
}

impl Role {
    /// The name of the roles and bindings in `rbac.yaml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "edgelb-reader",
            Self::Allocator => "edgelb-allocator",
        }
    }

    /// The group that is bound to it.
    pub fn group(self) -> &'static str {
        match self {
            Self::Reader => "edgelb:readers",
            Self::Allocator => "edgelb:allocators",
        }
    }
}

/// Which objects a right is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Objects {
    /// All of the cluster.
    Cluster,
    /// Those of the Lease's namespace; what is created has no name yet.
    LeaseNamespace,
    /// The Lease alone.
    Lease,
    /// The records of addresses alone.
    Claims,
}

/// A verb on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub role: Role,
    pub verb: &'static str,
    /// Empty: the core group.
    pub group: &'static str,
    pub resource: &'static str,
    /// Empty: the object itself.
    pub subresource: &'static str,
    pub objects: Objects,
}

const fn right(
    role: Role,
    verb: &'static str,
    group: &'static str,
    (resource, subresource): (&'static str, &'static str),
    objects: Objects,
) -> Right {
    Right {
        role,
        verb,
        group,
        resource,
        subresource,
        objects,
    }
}

const CORE: &str = "";
const DISCOVERY: &str = "discovery.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";
const EVENTS: &str = "events.k8s.io";
const NETWORKING: &str = "networking.k8s.io";

/// Every right that is always used.
pub const RIGHTS: [Right; 17] = {
    use Objects::{Claims, Cluster, Lease, LeaseNamespace};
    use Role::{Allocator, Reader};
    [
        right(Reader, "list", CORE, ("services", ""), Cluster),
        right(Reader, "watch", CORE, ("services", ""), Cluster),
        right(Reader, "list", DISCOVERY, ("endpointslices", ""), Cluster),
        right(Reader, "watch", DISCOVERY, ("endpointslices", ""), Cluster),
        right(Reader, "list", CORE, ("nodes", ""), Cluster),
        right(Reader, "watch", CORE, ("nodes", ""), Cluster),
        right(Reader, "list", NETWORKING, ("servicecidrs", ""), Cluster),
        right(Reader, "watch", NETWORKING, ("servicecidrs", ""), Cluster),
        right(Reader, "create", EVENTS, ("events", ""), Cluster),
        right(Allocator, "get", CORE, ("services", ""), Cluster),
        right(Allocator, "patch", CORE, ("services", "status"), Cluster),
        right(
            Allocator,
            "create",
            COORDINATION,
            ("leases", ""),
            LeaseNamespace,
        ),
        right(Allocator, "get", COORDINATION, ("leases", ""), Lease),
        right(Allocator, "update", COORDINATION, ("leases", ""), Lease),
        right(
            Allocator,
            "create",
            CORE,
            ("configmaps", ""),
            LeaseNamespace,
        ),
        right(Allocator, "get", CORE, ("configmaps", ""), Claims),
        right(Allocator, "update", CORE, ("configmaps", ""), Claims),
    ]
};

/// The rights that are used only where a pool has a `namespace_selector`.
pub const NAMESPACE_RIGHTS: [Right; 2] = {
    use Objects::Cluster;
    use Role::Reader;
    [
        right(Reader, "list", CORE, ("namespaces", ""), Cluster),
        right(Reader, "watch", CORE, ("namespaces", ""), Cluster),
    ]
};

/// Every right that is used: with or without selectors of namespaces.
pub fn used(selects_namespaces: bool) -> impl Iterator<Item = &'static Right> {
    let of_namespaces = NAMESPACE_RIGHTS.iter().filter(move |_| selects_namespaces);
    RIGHTS.iter().chain(of_namespaces)
}

/// Where a right counts: one question to the API server each. Empty: all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

impl Right {
    /// The places of the objects, with this Lease.
    pub fn places(&self, lease: &LeaseName) -> Vec<Place> {
        let named = |name: String| Place {
            namespace: lease.namespace.clone(),
            name,
        };
        match self.objects {
            Objects::Cluster => vec![Place {
                namespace: String::new(),
                name: String::new(),
            }],
            Objects::LeaseNamespace => vec![named(String::new())],
            Objects::Lease => vec![named(lease.name.clone())],
            Objects::Claims => claims(lease).map(named).collect(),
        }
    }

    /// As rules name it, with its group: `services/status`, `leases.coordination.k8s.io`.
    pub fn resource_name(&self) -> String {
        let mut name = self.resource.to_owned();
        if !self.subresource.is_empty() {
            name = format!("{name}/{}", self.subresource);
        }
        if !self.group.is_empty() {
            name = format!("{name}.{}", self.group);
        }
        name
    }
}

/// The names of the `ConfigMap`s that record which Service holds which address: one for each value
/// of an address's lowest four bits.
pub fn claims(lease: &LeaseName) -> impl Iterator<Item = String> {
    (0..16).map(|nibble| format!("{}-addresses-{nibble:x}", lease.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_have_one_name_for_each_value_of_four_bits() {
        let lease = LeaseName {
            namespace: "kube-system".to_owned(),
            name: "edge".to_owned(),
        };
        let names: Vec<String> = claims(&lease).collect();
        assert_eq!(names.len(), 16);
        assert_eq!(names.first().map(String::as_str), Some("edge-addresses-0"));
        assert_eq!(names.last().map(String::as_str), Some("edge-addresses-f"));
    }

    #[test]
    fn a_creation_never_names_its_object() {
        for right in used(true).filter(|right| right.verb == "create") {
            assert!(matches!(
                right.objects,
                Objects::Cluster | Objects::LeaseNamespace
            ));
        }
    }
}
