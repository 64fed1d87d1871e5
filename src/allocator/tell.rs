//! What the allocator tells people by Events on the Service. The words are those that users of other
//! implementations search for.

use std::net::IpAddr;

use imbl::ordmap::DiffItem;

use super::view::View;
use crate::apply::kubernetes::events::{EventReason, Recorder};
use crate::model::allocation::Allocations;
use crate::model::service::{ObjectIdentity, Service, ServiceKey};
use crate::plan::addresses::AddressPlan;
use crate::plan::reason::Reason;
use crate::plan::status::StatusWrite;

/// Tells of what a new plan says about Services that the old one did not.
pub(super) fn plan(recorder: &Recorder, view: &View, old: &AddressPlan, new: &AddressPlan) {
    for difference in old.pending.diff(&new.pending) {
        let (key, before, after) = match difference {
            DiffItem::Add(key, after) => (key, [].as_slice(), after.as_slice()),
            DiffItem::Update { old, new } => (new.0, old.1.as_slice(), new.1.as_slice()),
            DiffItem::Remove(key, before) => (key, before.as_slice(), [].as_slice()),
        };
        let Some(service) = view.cluster.services.get(key) else {
            continue;
        };
        for reason in after.iter().filter(|reason| !before.contains(*reason)) {
            if let Some(event) = event_reason(reason) {
                record(recorder, service, event, reason.to_string());
            }
        }
    }
}

/// The event that goes with a reason; none for what is another implementation's business.
fn event_reason(reason: &Reason) -> Option<EventReason> {
    match reason {
        Reason::OtherClass { .. }
        | Reason::ServedByAnother { .. }
        | Reason::ServedElsewhere
        | Reason::BeingDeleted => None,
        Reason::RequestTaken { .. }
        | Reason::SharingRefused { .. }
        | Reason::AddressOfInfrastructure { .. } => Some(EventReason::IPConflict),
        Reason::RequestMalformed { .. }
        | Reason::RequestTooLong { .. }
        | Reason::RequestOutsidePools { .. }
        | Reason::UnknownPool { .. }
        | Reason::PoolNotAllowed { .. } => Some(EventReason::RequestRefused),
        Reason::PoolGone { .. } => Some(EventReason::PoolRemoved),
        Reason::RequestsDisagree { .. } => Some(EventReason::RequestsDisagree),
        _ => Some(EventReason::AllocationFailed),
    }
}

/// What is to be told when this has been written; nothing where the addresses are what they were.
pub(super) fn written(service: &Service, write: &StatusWrite) -> Option<Note> {
    let before: Vec<IpAddr> = service.ingress.iter().map(|entry| entry.address).collect();
    let after: &[IpAddr] = match write {
        StatusWrite::Set { addresses, .. } => addresses,
        StatusWrite::Clear => &[],
        StatusWrite::ClearCondition => return None,
    };
    if before == after {
        return None;
    }
    let list = |addresses: &[IpAddr]| {
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        texts.join(", ")
    };
    let (reason, text) = if after.is_empty() {
        let text = format!("gave back {}", list(&before));
        (EventReason::IPReleased, text)
    } else {
        let text = format!("assigned {}", list(after));
        (EventReason::IPAllocated, text)
    };
    Some(Note {
        service: service.key.clone(),
        object: service.object.as_deref()?.clone(),
        reason,
        text,
    })
}

/// Tells which node announces a VIP from now on.
pub(super) fn ownership(recorder: &Recorder, old: &View, new: &View, allocations: &Allocations) {
    for difference in old.ownership.diff(&new.ownership) {
        let (vip, before, after) = match difference {
            DiffItem::Add(vip, after) => (vip, None, after),
            DiffItem::Update { old, new } => (new.0, old.1.owner.as_ref(), new.1),
            DiffItem::Remove(..) => continue,
        };
        if before == after.owner.as_ref() {
            continue;
        }
        let (event, note) = match &after.owner {
            Some(node) => (
                EventReason::NodeAssigned,
                format!("{vip} is announced by node {node}"),
            ),
            None => (
                EventReason::NodeUnassigned,
                format!("{vip} is announced by no node: none may"),
            ),
        };
        for key in allocations.holders_of(*vip) {
            if let Some(service) = new.cluster.services.get(key) {
                record(recorder, service, event, note.clone());
            }
        }
    }
}

/// What is to be told about a Service once something else is done.
#[derive(Debug)]
pub(super) struct Note {
    service: ServiceKey,
    object: ObjectIdentity,
    reason: EventReason,
    text: String,
}

impl Note {
    pub(super) fn tell(self, recorder: &Recorder) {
        recorder.record(&self.service, &self.object, self.reason, self.text);
    }
}

fn record(recorder: &Recorder, service: &Service, reason: EventReason, text: String) {
    if let Some(object) = &service.object {
        recorder.record(&service.key, object, reason, text);
    }
}
