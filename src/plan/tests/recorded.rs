//! Inputs and reasons can be recorded: what is read back is what was written, and plans the same.

use proptest::prelude::*;

use super::generate::any_change;
use super::{config, inputs, pool};
use crate::model::family::Family;
use crate::model::foreign::MacAddress;
use crate::model::frontend::ForwardingMethod;
use crate::plan::reason::{Infrastructure, Reason};
use crate::plan::sharing::SharingRule;
use crate::plan::{Inputs, plan};

proptest! {
    #[test]
    fn inputs_survive_json(changes in prop::collection::vec(any_change(), 0..20)) {
        let config = config(vec![pool("lan", "192.0.2.200-192.0.2.202 2001:db8::200/127")]);
        let mut inputs = inputs();
        for change in changes {
            inputs.cluster.apply(change);
            inputs.planned(&config);
        }
        let text = serde_json::to_string(&inputs).unwrap();
        let read: Inputs = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &inputs);
        prop_assert_eq!(plan(&config, &read), plan(&config, &inputs));
    }
}

#[test]
fn every_reason_has_one_word_in_two_spellings() {
    let address = super::ip("192.0.2.1");
    let holder = super::key("web");
    let text = || "x".to_owned();
    let frontend = super::tcp("192.0.2.1", 80);
    let method = ForwardingMethod::Tunnel;
    for reason in [
        Reason::OtherClass { class: text() },
        Reason::ServedByAnother { address },
        Reason::NoPool,
        Reason::UnknownPool { pool: text() },
        Reason::PoolNotAllowed { pool: text() },
        Reason::PoolExhausted { pools: vec![] },
        Reason::RequestMalformed { text: text() },
        Reason::RequestOutsidePools { address },
        Reason::RequestTaken {
            address,
            holder: holder.clone(),
        },
        Reason::SharingRefused {
            address,
            holder: holder.clone(),
            rule: SharingRule::Key,
        },
        Reason::RequestsDisagree {
            used: text(),
            ignored: text(),
        },
        Reason::FamilyMissing { family: Family::V4 },
        Reason::DualStackUnmet { family: Family::V6 },
        Reason::PoolGone { address },
        Reason::AwaitingAllocation,
        Reason::NotAllocated {
            cause: text(),
            message: text(),
        },
        Reason::AddressOfInfrastructure {
            address,
            what: Infrastructure::ForeignHost {
                mac: MacAddress([2; 6]),
            },
        },
        Reason::ExternalNotAllowed { address },
        Reason::NodePortOutOfRange { port: 1 },
        Reason::FrontendTaken { frontend, holder },
        Reason::SourceRangesOpen { family: Family::V6 },
        Reason::NoEndpoints { port: 1 },
        Reason::NoLocalEndpoints { port: 1 },
        Reason::ForwardingMethodUnknown { name: text() },
        Reason::ForwardingMethodNotAllowed { method, address },
        Reason::ForwardingMethodPort { method, port: 1 },
        Reason::ForwardingMethodMissing { method },
        Reason::SchedulerUnknown { name: text() },
        Reason::NoEligibleNode,
        Reason::OwnedBy { node: text() },
        Reason::NodeUnknown,
        Reason::NotSelected,
        Reason::ExcludedByLabel,
        Reason::NodeDeleting,
        Reason::NoLocalEndpoint,
        Reason::NoInterface,
    ] {
        let written = serde_json::to_value(&reason).unwrap();
        assert_eq!(written["reason"], reason.label(), "the label is the kind");
        assert_eq!(
            serde_json::from_value::<Reason>(written).unwrap(),
            reason,
            "what is read back"
        );
        let words = reason.label().split('_').map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_uppercase() + rest
        });
        assert_eq!(words.collect::<String>(), reason.condition_reason());
    }
}
