//! Inputs can be recorded: what is read back is what was written, and plans the same.

use proptest::prelude::*;

use super::generate::any_change;
use super::{config, inputs, pool};
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
