//! What the demo asks a daemon through the command line, and how it reads the answers.
//!
//! It reads only what it needs, wherever it stands in the answer, so that a field more there does no
//! harm here: this is the one place to change when the answers change.

use std::net::Ipv4Addr;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::lab::daemon::Daemon;

/// The VIP that the daemon shows for the Service, from `edgelb services -o json`: the first IPv4
/// address under a key `vip` or `vips` of the object whose `name` is NAME or NAMESPACE/NAME.
pub(super) fn vip(
    daemon: &Daemon,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Option<Ipv4Addr>> {
    let Some(answer) = ask(daemon, "services")? else {
        return Ok(None);
    };
    Ok(find(&answer, &|value| {
        let named = value.get("name").and_then(Value::as_str)?;
        let this = named == format!("{namespace}/{name}")
            || (named == name
                && value
                    .get("namespace")
                    .and_then(Value::as_str)
                    .is_none_or(|found| found == namespace));
        if this {
            ["vip", "vips"]
                .iter()
                .find_map(|key| first_ipv4(value.get(key)?))
        } else {
            None
        }
    }))
}

/// The datapath in use, from `edgelb status -o json`: the first text under a key `datapath`.
pub(super) fn datapath(daemon: &Daemon) -> anyhow::Result<Option<String>> {
    let Some(answer) = ask(daemon, "status")? else {
        return Ok(None);
    };
    Ok(find(&answer, &|value| {
        value
            .get("datapath")
            .and_then(Value::as_str)
            .map(str::to_owned)
    }))
}

/// Whether the daemon counts that node among those that may announce VIPs, from `edgelb peers -o json`.
pub(super) fn is_candidate(daemon: &Daemon, node: &str) -> anyhow::Result<bool> {
    let Some(answer) = ask(daemon, "peers")? else {
        return Ok(false);
    };
    let eligible = find(&answer, &|value| {
        let named = value.get("name").and_then(Value::as_str) == Some(node);
        named.then(|| value.get("eligible").and_then(Value::as_bool))?
    });
    Ok(eligible == Some(true))
}

/// The answer to one command, or nothing while no daemon answers (exit code 3).
fn ask(daemon: &Daemon, command: &str) -> anyhow::Result<Option<Value>> {
    let output = daemon.ask(&[command, "-o", "json"])?;
    match output.status.code() {
        Some(0) => {}
        Some(3) => return Ok(None),
        _ => bail!(
            "edgelb {command} on {}: {}: {}",
            daemon.node(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
    serde_json::from_slice(&output.stdout)
        .map(Some)
        .with_context(|| {
            format!(
                "edgelb {command} -o json on {} printed no JSON",
                daemon.node()
            )
        })
}

/// The first hit in the value or, depth first, in what it holds.
fn find<T>(value: &Value, look: &impl Fn(&Value) -> Option<T>) -> Option<T> {
    look(value).or_else(|| match value {
        Value::Array(values) => values.iter().find_map(|value| find(value, look)),
        Value::Object(values) => values.values().find_map(|value| find(value, look)),
        _ => None,
    })
}

fn first_ipv4(value: &Value) -> Option<Ipv4Addr> {
    find(value, &|value| {
        value.as_str().and_then(|text| text.parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_is_found_however_deep() {
        let address = Some(Ipv4Addr::new(192, 0, 2, 200));
        for value in [
            json!("192.0.2.200"),
            json!(["fd00:2::200", "192.0.2.200"]),
            json!([{"address": "192.0.2.200", "owner": "edge-a"}]),
        ] {
            assert_eq!(first_ipv4(&value), address);
        }
        assert_eq!(first_ipv4(&json!([null, 7, "pending", {}])), None);
    }
}
