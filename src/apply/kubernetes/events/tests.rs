//! The Event as it is sent, and what becomes of those that are not taken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::api_server::scripted::{Reply, Scripted};

const LIMIT: Duration = Duration::from_secs(20);

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn object() -> ObjectIdentity {
    ObjectIdentity {
        uid: "u-1".to_owned(),
        version: "7".to_owned(),
    }
}

struct Running {
    recorder: Recorder,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(scripted: &Scripted) -> Self {
        let (recorder, queue) = Recorder::with_queue();
        let (stop, stopped) = watch::channel(false);
        let node = "edge-a".to_owned();
        let task = tokio::spawn(run(node, scripted.server(), queue, stopped));
        Self {
            recorder,
            stop,
            task,
        }
    }

    async fn until(&self, holds: impl Fn(EventCounts) -> bool) -> EventCounts {
        let waiting = async {
            while !holds(self.recorder.counts()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.recorder.counts()
        };
        timeout(LIMIT, waiting).await.expect("in time")
    }
}

#[tokio::test]
async fn an_event_says_what_the_api_server_demands() {
    let scripted = Scripted::start(|_| Reply::new(201, "{}".to_owned())).await;
    let running = Running::start(&scripted);
    let note = "é".repeat(600);
    let recorder = &running.recorder;
    recorder.record(
        &key("web"),
        &object(),
        EventReason::IPAllocated,
        "192.0.2.10",
    );
    recorder.record(
        &key("web"),
        &object(),
        EventReason::IPAllocated,
        "192.0.2.10",
    );
    recorder.record(&key("web"), &object(), EventReason::AllocationFailed, note);
    let counts = running.until(|counts| counts.sent == 2).await;
    assert_eq!(counts.limited, 1);
    let asked = scripted.asked();
    assert_eq!(asked[0].method, "POST");
    assert_eq!(
        asked[0].target,
        "/apis/events.k8s.io/v1/namespaces/shop/events"
    );
    let mut first = asked[0].body.clone();
    let time = first["eventTime"].take();
    assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
    let name = first["metadata"]["name"].take();
    let (service, number) = name.as_str().unwrap().split_once('.').unwrap();
    assert_eq!(service, "web");
    assert!(u64::from_str_radix(number, 16).is_ok(), "{number}");
    assert_eq!(
        first,
        serde_json::json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": null, "namespace": "shop"},
            "eventTime": null,
            "reportingController": "edgelb.io/edgelb",
            "reportingInstance": "edge-a",
            "action": "Allocate",
            "reason": "IPAllocated",
            "note": "192.0.2.10",
            "type": "Normal",
            "regarding": {
                "apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web",
                "uid": "u-1", "resourceVersion": "7",
            },
        })
    );
    let second = &asked[1].body;
    assert_eq!(second["type"], "Warning");
    assert_eq!(second["note"], Value::from("é".repeat(512)));
    assert_ne!(second["metadata"]["name"], name);
    running.stop.send(true).unwrap();
    timeout(LIMIT, running.task).await.unwrap().unwrap();
}

#[test]
fn names_fit_whatever_they_are_made_of() {
    let long = key(&"é".repeat(200));
    let notice = Notice::new(&long, &object(), EventReason::NodeAssigned, "");
    let event = notice.event(&"n".repeat(300), u64::MAX);
    let name = event.metadata.name.unwrap();
    assert!(name.len() <= 253 && name.contains('.'), "{name}");
    assert_eq!(event.reporting_instance.unwrap().len(), 128);
}

#[tokio::test]
async fn one_more_try_and_no_more() {
    let mut replies = [500, 201, 503, 503, 422, 201].into_iter();
    let scripted = Scripted::start(move |_| {
        let code = replies.next().expect("no more than these");
        Reply::refusal(code, "no")
    })
    .await;
    let running = Running::start(&scripted);
    for name in ["a", "b", "c", "d"] {
        running
            .recorder
            .record(&key(name), &object(), EventReason::IPConflict, "");
    }
    let counts = running
        .until(|counts| counts.sent + counts.failed == 4)
        .await;
    assert_eq!((counts.sent, counts.failed), (2, 2));
    let names: Vec<String> = (scripted.asked().iter())
        .map(|asked| asked.body["regarding"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a", "a", "b", "b", "c", "d"]);
}

#[tokio::test]
async fn a_role_that_lacks_the_verb_is_not_asked_for_each_event() {
    let scripted = Scripted::start(|_| Reply::refusal(403, "forbidden")).await;
    let running = Running::start(&scripted);
    for name in ["a", "b", "c"] {
        running
            .recorder
            .record(&key(name), &object(), EventReason::IPConflict, "");
    }
    running.until(|counts| counts.failed == 3).await;
    assert_eq!(scripted.asked().len(), 1);
}

#[tokio::test]
async fn a_namespace_on_its_way_out_is_no_matter_of_roles() {
    let message = "unable to create new content in namespace shop because it is being terminated";
    let scripted = Scripted::start(move |_| Reply::refusal(403, message)).await;
    let running = Running::start(&scripted);
    for name in ["a", "b"] {
        let recorder = &running.recorder;
        recorder.record(&key(name), &object(), EventReason::IPReleased, "");
    }
    running.until(|counts| counts.failed == 2).await;
    assert_eq!(scripted.asked().len(), 2);
}

#[tokio::test]
async fn whoever_records_never_waits() {
    let (recorder, queue) = Recorder::with_queue();
    for number in 0..WAITING + 3 {
        let service = key(&number.to_string());
        recorder.record(&service, &object(), EventReason::IPAllocated, "");
    }
    assert_eq!(recorder.counts().dropped, 3);
    drop(queue);
    recorder.record(&key("late"), &object(), EventReason::IPAllocated, "");
    assert_eq!(recorder.counts().dropped, 4, "nobody sends them");
}
