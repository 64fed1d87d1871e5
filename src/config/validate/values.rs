//! One value at a time: text or number in, valid value or refusal with the corrected form out.
//!
//! Addresses and ports stand in `addresses`.

use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::super::problem::{Refusal, nearest, quoted};
use super::super::{LeaseName, duration};
use crate::model::frontend::ForwardingMethod;
use crate::model::interface_pattern::InterfacePattern;
use crate::model::scheduler::Scheduler;
use crate::model::selector::{
    LabelSelector, LabelSelectorError, is_dns_label, is_dns_subdomain, is_qualified_name,
};

/// More announcements than this after one take-over would be a flood.
pub(super) const LONGEST_BURST: usize = 64;

/// KUBE-MARK-MASQ 0x4000 and KUBE-MARK-DROP 0x8000.
pub(super) const KUBE_PROXY_MARKS: u32 = 0xc000;

/// `sizeof(sockaddr_un.sun_path)` without the final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// The socket that stands in the runtime directory.
const SOCKET_NAME: &str = "admin.sock";

pub(super) fn choice<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Result<T, Refusal> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names = || choices.iter().map(|(name, _)| *name);
    let known: Vec<String> = names().map(quoted).collect();
    let refusal = Refusal::new(format!("{} is none of {}", quoted(text), known.join(", ")));
    Err(refusal.write_maybe(nearest(text, names()).map(quoted)))
}

pub(super) fn scheduler(text: &str) -> Result<Scheduler, Refusal> {
    text.parse().map_err(|error| {
        let names = || Scheduler::ALL.iter().map(|scheduler| scheduler.as_str());
        let known: Vec<&str> = names().collect();
        let refusal = Refusal::new(format!("{error} (known: {})", known.join(" ")));
        refusal.write_maybe(nearest(text, names()).map(quoted))
    })
}

pub(super) fn forwarding_method(text: &str) -> Result<ForwardingMethod, Refusal> {
    text.parse().map_err(|error| {
        let names = || ForwardingMethod::ALL.iter().map(|method| method.as_str());
        let known: Vec<&str> = names().collect();
        let refusal = Refusal::new(format!("{error} (known: {})", known.join(" ")));
        refusal.write_maybe(nearest(text, names()).map(quoted))
    })
}

pub(super) fn node_name(text: &str) -> Result<String, Refusal> {
    dns_name(text, "a node name", is_dns_subdomain)
}

pub(super) fn pool_name(text: &str) -> Result<String, Refusal> {
    dns_name(text, "a pool name", is_dns_subdomain)
}

pub(super) fn namespace(text: &str) -> Result<String, Refusal> {
    dns_name(text, "a namespace", is_dns_label)
}

fn dns_name(text: &str, what: &str, valid: fn(&str) -> bool) -> Result<String, Refusal> {
    if valid(text) {
        return Ok(text.to_owned());
    }
    let corrected = text.trim().to_lowercase().replace(['_', ' '], "-");
    let rule = "lower-case letters, digits and inner hyphens";
    let refusal = Refusal::new(format!("{} is not {what}: {rule}", quoted(text)));
    Err(refusal.write_maybe(valid(&corrected).then(|| quoted(&corrected))))
}

/// Syntax of `spec.loadBalancerClass`: a label-style name, with a prefix unless it is a private one.
pub(super) fn class(text: &str) -> Result<String, Refusal> {
    if is_qualified_name(text) {
        return Ok(text.to_owned());
    }
    let corrected = text.trim().replace([' ', '_'], "-");
    let refusal = Refusal::new(format!(
        "{} is not a load balancer class, such as example.com/name",
        quoted(text)
    ));
    Err(refusal.write_maybe(is_qualified_name(&corrected).then(|| quoted(&corrected))))
}

pub(super) fn lease(text: &str) -> Result<LeaseName, Refusal> {
    match text.split_once('/') {
        Some((namespace, name)) if is_dns_label(namespace) && is_dns_subdomain(name) => {
            Ok(LeaseName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        }
        _ => {
            let refusal =
                Refusal::new(format!("{} is not NAMESPACE/NAME of a Lease", quoted(text)));
            Err(refusal.write_maybe(
                is_dns_subdomain(text).then(|| quoted(&format!("kube-system/{text}"))),
            ))
        }
    }
}

pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(text);
    if path.is_absolute() && !text.contains('\0') {
        return Ok(path.to_owned());
    }
    let refusal = Refusal::new(format!("{} is not an absolute path", quoted(text)));
    let relative: PathBuf = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    let plain = !text.is_empty() && !text.contains(['\0', '~', '$']);
    Err(refusal
        .write_maybe(plain.then(|| quoted(&Path::new("/").join(relative).to_string_lossy()))))
}

pub(super) fn runtime_dir(text: &str) -> Result<PathBuf, Refusal> {
    let path = absolute_path(text)?;
    let length = path.join(SOCKET_NAME).as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        let message = format!(
            "the path of {SOCKET_NAME} in it has {length} bytes; a socket's path has at most {LONGEST_SOCKET_PATH}"
        );
        return Err(Refusal::new(message).write("\"/run/edgelb\""));
    }
    Ok(path)
}

/// A duration within bounds, both included.
pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, Refusal> {
    let value = duration::parse(text).map_err(|error| {
        Refusal::new(error).write_maybe(duration::corrected(text).map(|text| quoted(&text)))
    })?;
    let written = |value| quoted(&duration::format(value));
    if value.is_zero() && !least.is_zero() {
        return Err(Refusal::new(format!(
            "must not be zero; at least {}",
            duration::format(least)
        ))
        .write(written(least)));
    }
    if value < least {
        return Err(
            Refusal::new(format!("too short; at least {}", duration::format(least)))
                .write(written(least)),
        );
    }
    if value > most {
        return Err(
            Refusal::new(format!("too long; at most {}", duration::format(most)))
                .write(written(most)),
        );
    }
    Ok(value)
}

/// Zero is off; below a second it would be a flood.
pub(super) fn refresh(text: &str) -> Result<Option<Duration>, Refusal> {
    let value = duration(text, Duration::ZERO, Duration::from_secs(86_400))?;
    if value.is_zero() {
        return Ok(None);
    }
    let second = Duration::from_secs(1);
    if value < second {
        return Err(Refusal::new("too short; at least 1s, or 0s for off").write("\"1s\""));
    }
    Ok(Some(value))
}

/// IPVS and conntrack count whole seconds; IPVS takes 0 for "leave as it is" (`ip_vs_set_timeout()`).
pub(super) fn kernel_timeout(text: &str) -> Result<Duration, Refusal> {
    let value = duration(
        text,
        Duration::from_secs(1),
        Duration::from_secs(10 * 86_400),
    )?;
    if value.subsec_nanos() == 0 {
        return Ok(value);
    }
    let rounded = Duration::from_secs(value.as_secs().saturating_add(1));
    Err(
        Refusal::new("the kernel counts this timeout in whole seconds")
            .write(quoted(&duration::format(rounded))),
    )
}

/// Several durations as a TOML list.
pub(super) fn duration_list(durations: &[Duration]) -> String {
    let items: Vec<String> = durations
        .iter()
        .map(|value| quoted(&duration::format(*value)))
        .collect();
    format!("[{}]", items.join(", "))
}

pub(super) fn priority(number: i128) -> Result<u32, Refusal> {
    u32::try_from(number).map_err(|_| {
        let nearest = if number < 0 { 0 } else { u32::MAX };
        Refusal::new(format!("{number} is outside 0-{}", u32::MAX)).write(nearest)
    })
}

pub(super) fn mark_mask(number: i128) -> Result<NonZeroU32, Refusal> {
    let mask = u32::try_from(number)
        .ok()
        .and_then(NonZeroU32::new)
        .ok_or_else(|| {
            Refusal::new(
                "a packet mark has 32 bits, of which at least one is needed: 0x1 to 0xffffffff",
            )
            .write("0x00f00000")
        })?;
    let (leading, trailing) = (mask.leading_zeros(), mask.trailing_zeros());
    let contiguous = (u32::MAX >> leading) & (u32::MAX << trailing);
    if contiguous != mask.get() {
        let refusal = Refusal::new(format!(
            "the bits of {:#010x} are not contiguous",
            mask.get()
        ));
        return Err(refusal.write(format!("{contiguous:#010x}")));
    }
    Ok(mask)
}

pub(super) fn pattern(text: &str) -> Result<InterfacePattern, Refusal> {
    text.parse().map_err(|error| {
        let trimmed = text.trim();
        let corrected = (trimmed != text)
            .then(|| trimmed.parse::<InterfacePattern>().ok())
            .flatten();
        Refusal::new(error).write_maybe(corrected.map(|pattern| quoted(pattern.as_str())))
    })
}

/// A pattern that the kernel can match by itself, before it asks anybody: by its beginning.
pub(super) fn beginning(text: &str) -> Result<InterfacePattern, Refusal> {
    let pattern = pattern(text)?;
    if pattern.prefix().is_some() {
        return Ok(pattern);
    }
    let begins: String = text.chars().take_while(|c| !"*?".contains(*c)).collect();
    let message = format!(
        "{} is neither a name nor what names begin with, then *",
        quoted(text)
    );
    let corrected = (!begins.is_empty()).then(|| quoted(&format!("{begins}*")));
    Err(Refusal::new(message).write_maybe(corrected))
}

pub(super) fn selector(text: &str) -> Result<LabelSelector, Refusal> {
    text.parse().map_err(|error| {
        let corrected = match &error {
            LabelSelectorError::EmptyRequirement(text) => {
                let parts: Vec<&str> = text
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .collect();
                Some(parts.join(","))
            }
            LabelSelectorError::Values(text) => {
                let mut words = text.splitn(3, char::is_whitespace);
                match (words.next(), words.next(), words.next()) {
                    (Some(key), Some(word), Some(values)) => {
                        Some(format!("{key} {word} ({values})"))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let corrected = corrected.filter(|text| text.parse::<LabelSelector>().is_ok());
        Refusal::new(error).write_maybe(corrected.map(|text| quoted(&text)))
    })
}
