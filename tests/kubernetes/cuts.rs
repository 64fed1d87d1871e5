//! A stream may be cut anywhere, and what happened meanwhile be lost: the next list makes it good,
//! and takes nothing away that stayed.

use edgelb::model::cluster::ClusterChange;
use edgelb::source::kubernetes::kind::Watched;
use proptest::prelude::*;

use crate::rig::{Rig, cluster_of, recorded_cluster};
use crate::script::{Fault, Script, Streaming};
use crate::server::Server;

#[derive(Debug, Clone)]
struct Cut {
    /// Events of each kind before the cut.
    events: [usize; 3],
    /// How the watches end.
    faults: Vec<(usize, Fault)>,
    streaming: bool,
    /// The events before the cut arrive; else the cut falls before, within or after them.
    arrive: bool,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Closed),
        Just(Fault::Ended),
        Just(Fault::Error(410)),
        Just(Fault::Error(500)),
        Just(Fault::Status(500, None)),
        Just(Fault::Status(410, None)),
        Just(Fault::Garbage),
        (0..30_usize, any::<bool>()).prop_map(|(lines, half)| Fault::Broken { lines, half }),
    ]
}

fn cut() -> impl Strategy<Value = Cut> {
    (
        (0..=25_usize, 0..=155_usize, 0..=15_usize),
        prop::collection::vec((0..3_usize, fault()), 0..6),
        any::<bool>(),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |((services, slices, nodes), faults, streaming, arrive)| Cut {
                events: [services, slices, nodes],
                faults,
                streaming,
                arrive,
            },
        )
}

async fn survive(cut: Cut) {
    let mut script = Script::recorded();
    if !cut.streaming {
        script.streaming = Streaming::Refused;
    }
    // Some of the faults meet the first lists, the others what comes after them.
    let (early, late) = cut.faults.split_at(cut.faults.len() / 2);
    for (kind, fault) in early {
        script.fault(Watched::ALWAYS[*kind], fault.clone());
    }
    let server = Server::start(script).await;
    let mut rig = Rig::start(&server).await;
    server.with(|script| {
        for (kind, events) in Watched::ALWAYS.into_iter().zip(cut.events) {
            script.collection(kind).play(events);
        }
    });
    if cut.arrive {
        let before = server.with(|script| {
            cluster_of(|kind| {
                let followed = Watched::ALWAYS.contains(&kind);
                let objects = script.collection(kind).objects.values().cloned();
                objects.filter(|_| followed).collect()
            })
        });
        rig.until_cluster(&before).await;
    }
    server.with(|script| {
        for (kind, fault) in late {
            script.fault(Watched::ALWAYS[*kind], fault.clone());
        }
        for kind in Watched::ALWAYS {
            script.collection(kind).jump_to_final(kind);
        }
    });
    let wanted = recorded_cluster("final");
    rig.until_cluster(&wanted).await;
    let status = rig
        .until_status(|status| status.connected && status.problems.is_empty())
        .await;
    assert_eq!(status.blind_since, None);
    for change in &rig.changes {
        let (kind, key) = match change {
            ClusterChange::ServiceGone(key) => {
                assert!(!wanted.services.contains_key(key), "{key} was taken away");
                (Watched::Services, key.to_string())
            }
            ClusterChange::SliceGone(key) => {
                assert!(!wanted.slices.contains_key(key), "{key} was taken away");
                (Watched::EndpointSlices, key.to_string())
            }
            ClusterChange::NodeGone(name) => panic!("{name} was taken away"),
            _ => continue,
        };
        let played = cut.events[usize::from(kind != Watched::Services)] > 0;
        assert!(played, "{key} never was there");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_and_a_new_list_give_the_final_cluster(cut in cut()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(survive(cut));
    }
}
