//! Which load balancers the API server has at this moment, and in which version: what a source shows
//! may be older. Decides nothing.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api_server::SERVICE_SELECTORS;
use crate::api_server::server::{Call, CallError, Server, encoded};
use crate::model::service::ServiceKey;

const SERVICES: &str = "services";
/// Services on a page.
const PAGE: usize = 500;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<Item>>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    r#continue: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    metadata: ItemMetadata,
    #[serde(default)]
    spec: ItemSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemMetadata {
    namespace: String,
    name: String,
    #[serde(default)]
    resource_version: String,
}

#[derive(Default, Deserialize)]
struct ItemSpec {
    r#type: Option<String>,
}

/// The version of every Service of type `LoadBalancer` that a service proxy looks at. Without a
/// version in the request the answer is as new as the database is.
pub async fn load_balancers(server: &Server) -> Result<BTreeMap<ServiceKey, String>, CallError> {
    let mut found = BTreeMap::new();
    let mut token = String::new();
    loop {
        let mut path = format!("/api/v1/services?{SERVICE_SELECTORS}&limit={PAGE}");
        if !token.is_empty() {
            path.push_str("&continue=");
            path.push_str(&encoded(&token));
        }
        let page: Page = server.call(&Call::list(SERVICES, path)).await?;
        for item in page.items.into_iter().flatten() {
            if item.spec.r#type.as_deref() == Some("LoadBalancer") {
                let key = ServiceKey::new(item.metadata.namespace, item.metadata.name);
                found.insert(key, item.metadata.resource_version);
            }
        }
        token = page.metadata.r#continue.unwrap_or_default();
        if token.is_empty() {
            return Ok(found);
        }
    }
}
