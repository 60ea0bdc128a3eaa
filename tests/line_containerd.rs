//! containerd's health over a real wire, against a fake containerd and a fake
//! systemd: what is asked when, and what every fault is called.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    missing_debug_implementations,
    reason = "a test may stop at the first surprise, and makes its own world"
)]

#[path = "common/containerd.rs"]
mod containerd;
#[allow(dead_code, reason = "shared with other line tests")]
#[path = "common/systemd.rs"]
mod systemd;

use std::time::{Duration, Instant};

use containerd::{Containerd, Fault};
use edge_bootstrap::containerd::Client;
use edge_bootstrap::error::Chain;
use edge_bootstrap::paths::CONTAINERD_DROP_IN;
use edge_bootstrap::role::Snapshotter;
use edge_bootstrap::sys::systemd::Systemd;
use edge_bootstrap::sys::{Root, clock};
use edge_bootstrap::verify::{self, Expected, Health, Memory, Ports, Probing, State, Verdict};
use systemd::{Fake, FakeUnit};

const UNIT: &str = "containerd.service";
const ALL: [&str; 6] = ["containerd-unit", "containerd", "containerd-plugins", "snapshots", "runtime", "cni"];

struct Lab {
    _dir: tempfile::TempDir,
    root: Root,
    fake: Fake,
    systemd: Systemd,
    memory: Memory,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let drop_in = root.path(CONTAINERD_DROP_IN);
        std::fs::create_dir_all(drop_in.parent().unwrap()).unwrap();
        std::fs::write(drop_in, "[Service]\n").unwrap();
        let fake = Fake::new(&root, &[(UNIT, FakeUnit::up())]);
        fake.serve_private(&root);
        let systemd = Systemd::new(&root);
        let lab = Self { _dir: dir, root, fake, systemd, memory: Memory::default() };
        lab.old();
        lab
    }

    /// Its containerd runs for long.
    fn old(&self) {
        self.fake.unit(UNIT, |unit| unit.since = 0);
        assert!(clock::monotonic() > Duration::from_secs(90), "this machine has only just booted");
    }

    fn young(&self) {
        let now = u64::try_from(clock::monotonic().as_micros()).unwrap();
        self.fake.unit(UNIT, |unit| unit.since = now);
    }

    async fn look(&mut self) -> Verdict {
        let probing = Probing {
            root: &self.root,
            systemd: &self.systemd,
            containerd: Some(Expected { snapshotter: Snapshotter::Overlayfs }),
            k3s_unit: None,
            node_name: "n1",
            ports: Ports::default(),
        };
        verify::look(&probing, &mut self.memory).await
    }
}

fn names(verdict: &Verdict) -> Vec<&'static str> {
    verdict.probes.iter().map(|probe| probe.name).collect()
}

fn state(verdict: &Verdict, name: &str) -> State {
    verdict.probes.iter().find(|probe| probe.name == name).unwrap().state
}

#[tokio::test]
async fn a_containerd_that_is_well_is_healthy_and_tells_what_it_holds() {
    let mut lab = Lab::new();
    let containerd = Containerd::serve(&lab.root);
    let verdict = lab.look().await;
    assert_eq!((verdict.health, names(&verdict)), (Health::Healthy, ALL.to_vec()), "{verdict:#?}");
    assert_eq!(lab.memory.version(), Some("1.7.24~ds1"));
    let seen = lab.memory.news().unwrap();
    assert_eq!((seen.images.len(), seen.snapshots), (1, 3), "{seen:?}");
    assert_eq!(seen.images["registry.local/pause:3.10"], "sha256:aa");
    let calls = std::mem::take(&mut containerd.world().calls);
    assert!(calls.iter().all(|(_, namespace)| namespace == "k8s.io"), "{calls:?}");
}

#[tokio::test]
async fn a_containerd_that_stays_the_same_is_not_asked_for_plugins_and_lists_again() {
    let mut lab = Lab::new();
    let containerd = Containerd::serve(&lab.root);
    lab.look().await;
    assert_eq!(containerd.methods().len(), 5);
    assert!(lab.memory.news().is_some());
    let verdict = lab.look().await;
    assert_eq!((verdict.health, names(&verdict)), (Health::Healthy, ALL.to_vec()));
    assert_eq!(
        (containerd.methods(), lab.memory.news()),
        (vec!["Version".to_owned(), "Status".to_owned()], None)
    );
    lab.fake.unit(UNIT, |unit| unit.pid = 4712);
    lab.look().await;
    assert_eq!(containerd.methods().len(), 5, "another process is asked everything");
    lab.memory.forget();
    lab.look().await;
    assert_eq!(containerd.methods().len(), 5, "somebody changed its images");
    containerd.world().network = Some("cni config uninitialized".into());
    assert_eq!(lab.look().await.health, Health::Degraded, "the CRI's conditions are always asked");
    assert_eq!(containerd.methods().len(), 2);
    lab.look().await;
    lab.look().await;
    assert_eq!(containerd.methods().len(), 10, "what is not well is asked every time");
}

#[tokio::test]
async fn each_way_to_be_unreachable_has_its_own_words() {
    let mut lab = Lab::new();
    let absent = lab.look().await;
    assert!(absent.cause.unwrap().contains("containerd has not come so far since the boot"));
    drop(Containerd::serve(&lab.root));
    tokio::task::yield_now().await;
    let refused = lab.look().await;
    assert!(refused.cause.clone().unwrap().contains("left over from a containerd that died"), "{refused:#?}");
    assert_eq!(names(&refused), ["containerd-unit", "containerd"]);
    let containerd = Containerd::serve(&lab.root);
    containerd.fault(Fault::Silence, "");
    let begin = Instant::now();
    let silent = lab.look().await;
    assert!(silent.cause.unwrap().contains("answers nothing within 2 s"));
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    containerd.world().fault = None;
    assert_eq!(lab.look().await.health, Health::Healthy);
}

#[tokio::test]
async fn no_answer_however_broken_is_more_than_an_error() {
    let lab = Lab::new();
    let containerd = Containerd::serve(&lab.root);
    for (fault, words) in [
        (Fault::Garbage, "call /containerd.services.version.v1.Version/Version: "),
        (Fault::Closes, "call /containerd.services.version.v1.Version/Version: "),
        (Fault::GoAway, "call /containerd.services.version.v1.Version/Version: "),
        (Fault::ClosesWithin, "call /containerd.services.version.v1.Version/Version: "),
        (Fault::Resets, "call /containerd.services.version.v1.Version/Version: "),
        (Fault::Hangs, "did not answer within 2000 ms"),
        (Fault::EndsWithin, "ends within a message"),
        (Fault::TooLarge, "is larger than 4 MiB"),
        (Fault::Compressed, "is compressed"),
        (Fault::NoStatus, "ends without a status"),
        (Fault::Http503, "has another HTTP status"),
        (Fault::Html, "is of another type"),
        (Fault::OtherMessage, "cannot be read"),
        (Fault::NoMessage, "has no message"),
    ] {
        containerd.fault(fault, "Version");
        let failed = match Client::connect(&lab.root).await {
            Ok(client) => client.version().await.unwrap_err(),
            Err(error) => error,
        };
        let told = Chain(&failed).to_string();
        assert!(told.contains(words), "{fault:?}: {told}");
    }
    containerd.world().fault = None;
    assert_eq!(Client::connect(&lab.root).await.unwrap().version().await.unwrap(), "1.7.24~ds1");
}

#[tokio::test]
async fn one_tier_that_hangs_does_not_hide_the_others() {
    let mut lab = Lab::new();
    let containerd = Containerd::serve(&lab.root);
    containerd.fault(Fault::Hangs, "RuntimeService/Status");
    let begin = Instant::now();
    let verdict = lab.look().await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(names(&verdict), ALL);
    assert_eq!((state(&verdict, "snapshots"), state(&verdict, "runtime")), (State::Ok, State::Failed));
    assert!(verdict.cause.unwrap().starts_with("runtime: /runtime.v1.RuntimeService/Status did not answer"));
}

#[tokio::test]
async fn every_tier_names_what_is_wrong_in_it() {
    let mut lab = Lab::new();
    let containerd = Containerd::serve(&lab.root);
    containerd.world().plugins[1].2 = Some("overlayfs snapshotter cannot be enabled".into());
    let verdict = lab.look().await;
    assert!(verdict.cause.unwrap().starts_with("containerd-plugins: plugin io.containerd.snapshotter.v1.overlayfs failed: overlayfs snapshotter cannot be enabled"));
    containerd.world().plugins[1].2 = None;
    containerd.world().snapshots = Err("failed to open database file: invalid database".into());
    let verdict = lab.look().await;
    assert_eq!((verdict.health, state(&verdict, "containerd-plugins")), (Health::Failed, State::Ok));
    assert!(
        verdict.cause.unwrap().contains("overlayfs cannot tell its snapshots: "),
        "the plugin itself is ok"
    );
    assert!(lab.memory.news().is_none(), "what is not well is no inventory");
    containerd.world().snapshots = Ok(0);
    containerd.world().network = Some("cni plugin not initialized".into());
    let verdict = lab.look().await;
    assert_eq!(verdict.health, Health::Degraded);
    assert!(
        verdict.cause.unwrap().starts_with("cni: not NetworkReady: Because: cni plugin not initialized; ")
    );
    containerd.world().network = None;
    containerd.world().has_cri = false;
    let verdict = lab.look().await;
    assert!(verdict.cause.unwrap().starts_with("runtime: containerd serves no CRI"));
    let codes: Vec<_> = verdict.probes.iter().map(verify::Probe::code).collect();
    assert_eq!((codes[0], codes[4]), ("EB-probe", "EB-containerd-health"));
}

#[tokio::test]
async fn a_containerd_that_was_only_just_started_is_waited_for() {
    let mut lab = Lab::new();
    lab.young();
    let verdict = lab.look().await;
    assert_eq!((verdict.health, verdict.waiting), (Health::Unknown, true), "{verdict:#?}");
    let containerd = Containerd::serve(&lab.root);
    containerd.world().network = Some("cni plugin not initialized".into());
    assert!(lab.look().await.waiting);
    containerd.world().plugins[3].2 = Some("invalid plugin config".into());
    assert_eq!(lab.look().await.health, Health::Failed, "a plugin is started once");
    containerd.world().plugins[3].2 = None;
    containerd.world().network = None;
    assert_eq!(lab.look().await.health, Health::Healthy);
    containerd.fault(Fault::Silence, "");
    assert_eq!(lab.look().await.health, Health::Failed, "it had come up");
}

#[tokio::test]
async fn a_containerd_of_another_owner_is_not_asked() {
    let mut lab = Lab::new();
    let containerd = Containerd::serve(&lab.root);
    std::fs::remove_file(lab.root.path(CONTAINERD_DROP_IN)).unwrap();
    let verdict = lab.look().await;
    assert_eq!((verdict.health, names(&verdict)), (Health::Healthy, vec!["containerd-unit"]));
    assert_eq!(containerd.methods(), Vec::<String>::new());
}

#[tokio::test]
async fn images_are_labelled_and_removed_by_name() {
    let lab = Lab::new();
    let containerd = Containerd::serve(&lab.root);
    let client = Client::connect(&lab.root).await.unwrap();
    let name = "registry.local/pause:3.10";
    client.label_image(name, "io.cri-containerd.pinned", "pinned").await.unwrap();
    let set = containerd.world().labels.clone();
    assert_eq!(set, [(name.to_owned(), "labels.io.cri-containerd.pinned".to_owned(), "pinned".to_owned())]);
    let missing = client.label_image("other", "a", "b").await.unwrap_err();
    assert!(missing.rpc().unwrap().is_not_found(), "{missing:?}");
    assert!(client.delete_image(name).await.unwrap());
    assert!(!client.delete_image(name).await.unwrap());
    assert_eq!(client.images().await.unwrap().len(), 1);
    assert_eq!(client.snapshots("overlayfs").await.unwrap(), 3);
}
