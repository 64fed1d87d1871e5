//! The task on a real directory. Every wait is for an event, with a time limit.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edgelb::model::cluster::{ClusterChange, ClusterState};
use edgelb::source::manifest::run;
use edgelb::source::manifest::state::GRACE;
use edgelb::source::{SourceEvent, SourceStatus};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{address, service};

const LIMIT: Duration = Duration::from_secs(10);

struct Rig {
    home: TempDir,
    events: mpsc::Receiver<SourceEvent>,
    status: watch::Receiver<SourceStatus>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    cluster: ClusterState,
    /// Everything that was ever sent.
    changes: Vec<ClusterChange>,
}

impl Rig {
    /// Starts the task on `home/manifests`, which `prepare` fills, and waits for the first list.
    async fn start(prepare: impl FnOnce(&Path)) -> Self {
        let mut rig = Self::start_without_list(prepare);
        while rig.event().await != SourceEvent::Complete {}
        rig
    }

    fn start_without_list(prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().expect("directory");
        let path = home.path().join("manifests");
        prepare(&path);
        let (event_sender, events) = mpsc::channel(16);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(path, event_sender, status_sender, stopped));
        Self {
            home,
            events,
            status,
            stop,
            task,
            cluster: ClusterState::default(),
            changes: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("manifests").join(name)
    }

    async fn event(&mut self) -> SourceEvent {
        let event = timeout(LIMIT, self.events.recv())
            .await
            .expect("an event in time")
            .expect("the task runs");
        if let SourceEvent::Changes(changes) = &event {
            for change in changes {
                self.cluster.apply(change.clone());
                self.changes.push(change.clone());
            }
        }
        event
    }

    /// Waits until a Service has this address (`None`: until it is gone).
    async fn until(&mut self, name: &str, wanted: Option<&str>) {
        while address(&self.cluster, name).as_deref() != wanted {
            self.event().await;
        }
    }

    async fn until_status(&mut self, wanted: impl FnMut(&SourceStatus) -> bool) -> SourceStatus {
        let status = timeout(LIMIT, self.status.wait_for(wanted))
            .await
            .expect("the status in time");
        status.expect("the task runs").clone()
    }

    /// Puts a file in place as careful writers do.
    fn rename_into_place(&self, name: &str, text: &str) {
        let temporary = self.path(&format!(".{name}.tmp"));
        fs::write(&temporary, text).expect("write");
        fs::rename(temporary, self.path(name)).expect("rename");
    }

    fn nothing_ever_went(&self) {
        for change in &self.changes {
            assert!(
                !matches!(
                    change,
                    ClusterChange::ServiceGone(_) | ClusterChange::SliceGone(_)
                ),
                "{:?}",
                self.changes
            );
        }
    }

    async fn stop(self) {
        self.stop.send(true).expect("the task listens");
        timeout(LIMIT, self.task)
            .await
            .expect("stops in time")
            .expect("stops in order");
    }
}

fn one_service(path: &Path) {
    fs::create_dir(path).expect("directory");
    fs::write(path.join("web.yaml"), service("web", "10.96.0.10")).expect("write");
}

#[tokio::test]
async fn the_first_list_comes_before_complete() {
    let mut rig = Rig::start_without_list(|path| {
        one_service(path);
        fs::write(path.join("shop.json"), r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"shop"},"spec":{"clusterIP":"10.96.0.20"}}"#).expect("write");
    });
    let SourceEvent::Changes(changes) = rig.event().await else {
        panic!("changes first");
    };
    assert_eq!(changes.len(), 2);
    assert_eq!(rig.event().await, SourceEvent::Complete);
    let status = rig.until_status(|status| status.connected).await;
    assert_eq!(status.problems, []);
    rig.stop().await;
}

#[tokio::test]
async fn an_empty_directory_is_complete() {
    let rig = Rig::start(|path| fs::create_dir(path).expect("directory")).await;
    assert_eq!(rig.changes, []);
    rig.stop().await;
}

#[tokio::test]
async fn a_file_created_renamed_linked_or_rewritten_is_read_at_once() {
    let mut rig = Rig::start(one_service).await;
    fs::write(rig.path("shop.yaml"), service("shop", "10.96.0.20")).expect("write");
    rig.until("shop", Some("10.96.0.20")).await;

    let mut fastest = Duration::MAX;
    for round in 0..10 {
        let wanted = format!("10.96.1.{}", round + 1);
        let started = Instant::now();
        rig.rename_into_place("web.yaml", &service("web", &wanted));
        rig.until("web", Some(&wanted)).await;
        fastest = fastest.min(started.elapsed());
    }
    assert!(
        fastest < Duration::from_millis(50),
        "{fastest:?} from rename to event"
    );

    fs::write(rig.path("web.yaml"), service("web", "10.96.0.12")).expect("truncate and write");
    rig.until("web", Some("10.96.0.12")).await;

    fs::write(
        rig.home.path().join("elsewhere"),
        service("linked", "10.96.0.30"),
    )
    .expect("write");
    let started = Instant::now();
    symlink("../elsewhere", rig.path("linked.yaml")).expect("link");
    rig.until("linked", Some("10.96.0.30")).await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "a link is not waited for"
    );
    rig.nothing_ever_went();
    rig.stop().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_read() {
    use std::io::Write;
    let mut rig = Rig::start(one_service).await;
    let text = service("web", "10.96.0.11");
    let (head, tail) = text.split_at(text.find("spec:").expect("spec"));
    let mut file = fs::File::create(rig.path("web.yaml")).expect("truncated");
    file.write_all(head.as_bytes()).expect("half of it");
    file.sync_all().expect("sync");
    // Another file's change proves that the task has looked meanwhile.
    rig.rename_into_place("shop.yaml", &service("shop", "10.96.0.20"));
    rig.until("shop", Some("10.96.0.20")).await;
    assert_eq!(address(&rig.cluster, "web").as_deref(), Some("10.96.0.10"));
    file.write_all(tail.as_bytes()).expect("the rest");
    drop(file);
    rig.until("web", Some("10.96.0.11")).await;
    rig.nothing_ever_went();
    rig.stop().await;
}

#[tokio::test]
async fn a_broken_file_is_told_and_takes_nothing_down() {
    let mut rig = Rig::start(one_service).await;
    let broken = service("web", "10.96.0.11").replace("port: 80", "port: eighty");
    rig.rename_into_place("web.yaml", &broken);
    let status = rig.until_status(|status| !status.problems.is_empty()).await;
    let problem = &status.problems[0];
    assert_eq!((problem.file.as_str(), problem.line), ("web.yaml", Some(8)));
    assert_eq!(problem.field.as_deref(), Some("spec.ports[0].port"));
    assert!(problem.keeps_last_good);
    assert_eq!(address(&rig.cluster, "web").as_deref(), Some("10.96.0.10"));
    rig.rename_into_place("web.yaml", &service("web", "10.96.0.12"));
    rig.until("web", Some("10.96.0.12")).await;
    rig.until_status(|status| status.problems.is_empty()).await;
    rig.nothing_ever_went();
    rig.stop().await;
}

#[tokio::test]
async fn a_file_removed_and_put_back_was_never_gone() {
    let mut rig = Rig::start(one_service).await;
    for round in 0..3 {
        fs::remove_file(rig.path("web.yaml")).expect("remove");
        // The task has seen the removal once it has seen what happened after it.
        let wanted = format!("10.96.2.{}", round + 1);
        rig.rename_into_place("shop.yaml", &service("shop", &wanted));
        rig.until("shop", Some(&wanted)).await;
        fs::write(rig.path("web.yaml"), service("web", "10.96.0.10")).expect("put back");
    }
    // Longer than the grace: another file that is removed for good goes, and is the only one.
    fs::remove_file(rig.path("shop.yaml")).expect("remove");
    let removed = Instant::now();
    rig.until("shop", None).await;
    assert!(removed.elapsed() >= GRACE, "{:?}", removed.elapsed());
    assert_eq!(address(&rig.cluster, "web").as_deref(), Some("10.96.0.10"));
    let gone = rig
        .changes
        .iter()
        .filter(|change| matches!(change, ClusterChange::ServiceGone(_)))
        .count();
    assert_eq!(gone, 1, "{:?}", rig.changes);
    rig.stop().await;
}

#[tokio::test]
async fn a_mounted_config_map_swaps_as_a_whole() {
    let mut rig = Rig::start(|path| {
        fs::create_dir(path).expect("directory");
        fs::create_dir(path.join("..first")).expect("directory");
        for (name, address) in [("web", "10.96.0.10"), ("shop", "10.96.0.20")] {
            fs::write(
                path.join(format!("..first/{name}.yaml")),
                service(name, address),
            )
            .expect("write");
            symlink(
                format!("..data/{name}.yaml"),
                path.join(format!("{name}.yaml")),
            )
            .expect("link");
        }
        symlink("..first", path.join("..data")).expect("link");
    })
    .await;
    assert_eq!(address(&rig.cluster, "shop").as_deref(), Some("10.96.0.20"));
    fs::create_dir(rig.path("..second")).expect("directory");
    for (name, address) in [("web", "10.96.0.11"), ("shop", "10.96.0.21")] {
        fs::write(
            rig.path(&format!("..second/{name}.yaml")),
            service(name, address),
        )
        .expect("write");
    }
    symlink("..second", rig.path("..data_tmp")).expect("link");
    fs::rename(rig.path("..data_tmp"), rig.path("..data")).expect("swap");
    fs::remove_dir_all(rig.path("..first")).expect("remove");
    let SourceEvent::Changes(changes) = rig.event().await else {
        panic!("changes");
    };
    assert_eq!(changes.len(), 2, "both in one edit: {changes:?}");
    assert_eq!(address(&rig.cluster, "web").as_deref(), Some("10.96.0.11"));
    assert_eq!(address(&rig.cluster, "shop").as_deref(), Some("10.96.0.21"));
    rig.nothing_ever_went();
    rig.stop().await;
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_keeps_everything() {
    let mut rig = Rig::start(one_service).await;
    fs::remove_dir_all(rig.path("")).expect("remove");
    let status = rig.until_status(|status| !status.connected).await;
    assert!(
        status.problems.iter().any(
            |problem| problem.message.contains("manifest directory") && problem.keeps_last_good
        )
    );
    fs::create_dir(rig.path("")).expect("directory");
    fs::write(rig.path("web.yaml"), service("web", "10.96.0.10")).expect("write");
    rig.until_status(|status| status.connected && status.problems.is_empty())
        .await;
    fs::write(rig.path("shop.yaml"), service("shop", "10.96.0.20")).expect("write");
    rig.until("shop", Some("10.96.0.20")).await;
    rig.nothing_ever_went();

    // Away so shortly that the new one may well have the same inode number.
    fs::remove_dir_all(rig.path("")).expect("remove");
    fs::create_dir(rig.path("")).expect("directory");
    for (name, address) in [("web", "10.96.0.10"), ("shop", "10.96.0.20")] {
        fs::write(rig.path(&format!("{name}.yaml")), service(name, address)).expect("write");
    }
    rig.rename_into_place("third.yaml", &service("third", "10.96.0.30"));
    rig.until("third", Some("10.96.0.30")).await;
    rig.rename_into_place("third.yaml", &service("third", "10.96.0.31"));
    rig.until("third", Some("10.96.0.31")).await;
    rig.nothing_ever_went();

    // Replaced without being away: by another one that has its name at once.
    let other = rig.home.path().join("other");
    fs::create_dir(&other).expect("directory");
    fs::write(other.join("web.yaml"), service("web", "10.96.0.11")).expect("write");
    fs::rename(rig.path(""), rig.home.path().join("old")).expect("rename");
    fs::rename(other, rig.path("")).expect("rename");
    rig.until("web", Some("10.96.0.11")).await;
    rig.rename_into_place("web.yaml", &service("web", "10.96.0.12"));
    rig.until("web", Some("10.96.0.12")).await;
    rig.until("shop", None).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_yet_is_waited_for() {
    let mut rig = Rig::start_without_list(|_| {});
    rig.until_status(|status| !status.problems.is_empty()).await;
    assert!(rig.events.try_recv().is_err(), "nothing is complete yet");
    fs::create_dir(rig.path("")).expect("directory");
    assert_eq!(rig.event().await, SourceEvent::Complete);
    rig.stop().await;
}
