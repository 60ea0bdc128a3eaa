//! Images against a fake containerd: what is removed how often, what is pinned,
//! and what goes on when something cannot be done.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    missing_debug_implementations,
    reason = "a test may stop at the first surprise, and makes its own world"
)]

#[allow(dead_code, reason = "shared with other line tests")]
#[path = "common/containerd.rs"]
mod containerd;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use containerd::{Containerd, Fault};
use edge_bootstrap::boot::images::acts::Import;
use edge_bootstrap::boot::images::{self, Hands, Standing, Tool, Work, acts};
use edge_bootstrap::boot::{Downloader, Quiet};
use edge_bootstrap::enrol::Source;
use edge_bootstrap::inventory::{self, Archive, Inventory};
use edge_bootstrap::paths::{self, CONTAINERD_ROOT, IMAGES, IMAGES_CHECKED, RUN_DIR};
use edge_bootstrap::plan::PlannedImage;
use edge_bootstrap::sys::systemd::Systemd;
use edge_bootstrap::sys::{Clock, Root};
use sha2::{Digest as _, Sha256};

const NOW: u64 = 1_800_000_000;
const PAUSE: &str = "registry.local/pause:3.10";
/// Lists nothing, and imports nothing.
const CTR: &str = "#!/bin/sh\ncase \"$*\" in *' import '*) cat >/dev/null; echo 'ctr: no such device' >&2; exit 1 ;; esac\n";

struct Lab {
    _dir: tempfile::TempDir,
    root: Root,
    containerd: Containerd,
    tool: Tool,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for path in [IMAGES, RUN_DIR, CONTAINERD_ROOT, "/proc/sys/kernel/random"] {
            fs::create_dir_all(root.path(path)).unwrap();
        }
        let ctr = root.path("/ctr");
        fs::write(&ctr, CTR).unwrap();
        fs::set_permissions(&ctr, fs::Permissions::from_mode(0o755)).unwrap();
        let tool = Tool { ctr: ctr.to_str().unwrap().to_owned(), snapshotter: "overlayfs".into() };
        let containerd = Containerd::serve(&root);
        let lab = Self { _dir: dir, root, containerd, tool };
        lab.boot("boot-1");
        lab
    }

    fn boot(&self, id: &str) {
        fs::write(self.root.path("/proc/sys/kernel/random/boot_id"), id).unwrap();
    }

    /// Puts an archive of the image `lab/tool:1` in its place; gives its digest.
    fn archive(&self) -> String {
        let manifest = br#"[{"Config":"c.json","RepoTags":["lab/tool:1"],"Layers":[]}]"#;
        let mut block = vec![0_u8; 512];
        block[..13].copy_from_slice(b"manifest.json");
        block[124..135].copy_from_slice(format!("{:011o}", manifest.len()).as_bytes());
        block[156] = b'0';
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block.extend(manifest);
        block.resize(512 * 4, 0);
        let sha256: String = Sha256::digest(&block).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(self.root.path(&paths::image_archive(&sha256)), block).unwrap();
        sha256
    }

    /// Puts a whole image of one layer into the store, which is not unpacked.
    fn whole(&self, image: &str) {
        let blob = |bytes: &[u8]| {
            let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let directory = format!("{CONTAINERD_ROOT}/io.containerd.content.v1.content/blobs/sha256");
            fs::create_dir_all(self.root.path(&directory)).unwrap();
            fs::write(self.root.path(&format!("{directory}/{hex}")), bytes).unwrap();
            format!(r#"{{"digest":"sha256:{hex}","size":{}}}"#, bytes.len())
        };
        let layer = blob(b"layer");
        let config = blob(br#"{"rootfs":{"diff_ids":["sha256:00"]}}"#);
        let manifest = blob(format!(r#"{{"config":{config},"layers":[{layer}]}}"#).as_bytes());
        let digest = manifest.split('"').nth(3).unwrap().to_owned();
        self.containerd.world().images = vec![(image.to_owned(), digest)];
    }

    fn has(&self, image: &str) -> bool {
        self.containerd.world().images.iter().any(|(name, _)| name == image)
    }

    fn put(&self, image: &str) {
        self.containerd.world().images.push((image.to_owned(), format!("sha256:{image}")));
    }

    fn record(&self, sha256: &str, image: &str, at: &str) {
        let archive = Archive { images: vec![image.to_owned()], at: at.to_owned() };
        inventory::update(&self.root, |it| drop(it.archives.insert(sha256.to_owned(), archive))).unwrap();
    }

    /// Imports what an earlier boot left unfinished.
    async fn import_fails(&self, sha256: &str) {
        let wanted = Import { sha256, is_local: false, again: true, sandbox: None };
        let error = acts::import(&self.root, &self.tool, wanted).await.unwrap_err();
        assert_eq!(error.to_string(), "ctr images import: no such device");
    }

    async fn round(&self, archives: &[&str], heeds_pins: bool) -> Standing {
        let systemd = Systemd::new(&self.root);
        let downloader = Downloader::new(&Source::None, &Quiet);
        let (root, clock) = (&self.root, Clock::Fixed(NOW));
        let hands = Hands { root, systemd: &systemd, clock, downloader: &downloader, watcher: &Quiet };
        let planned = |sha256: &&str| PlannedImage { urls: Vec::new(), sha256: sha256.parse().unwrap() };
        let work = Work {
            archives: archives.iter().map(planned).collect(),
            sandbox: Some(PAUSE.into()),
            tool: self.tool.clone(),
            is_local: false,
            heeds_pins,
            started: 0,
        };
        images::round(&hands, &work).await
    }

    /// Labels that were set since the last look: image, label, value.
    fn labels(&self, from: usize) -> Vec<String> {
        let labels = &self.containerd.world().labels;
        labels[from..].iter().map(|(image, mask, value)| format!("{image} {mask}={value}")).collect()
    }
}

#[tokio::test]
async fn an_import_that_keeps_failing_takes_away_what_is_there_once_in_a_boot() {
    let lab = Lab::new();
    let sha256 = lab.archive();
    let image = "docker.io/lab/tool:1";
    let fails = async || {
        lab.put(image);
        lab.import_fails(&sha256).await;
        lab.has(image)
    };
    assert!(!fails().await, "what an interrupted import left stays in the way of the next");
    assert!(fails().await, "a retry removed it again");
    assert!(fails().await);
    lab.boot("boot-2");
    lab.containerd.world().images.clear();
    assert!(!fails().await, "another boot is another cut");
}

#[tokio::test]
async fn what_a_pod_runs_from_stays_when_an_interrupted_import_is_taken_up() {
    let lab = Lab::new();
    let sha256 = lab.archive();
    let (running, image) = ("sha256:running", "docker.io/lab/tool:1");
    let containers = format!("*' containers ls') printf 'CONTAINER IMAGE\\npod1 {running}\\n' ;; ");
    let ctr = |tasks: &str| {
        let lists = format!("case \"$*\" in {containers}*' tasks ls -q') echo '{tasks}' ;; ");
        fs::write(&lab.tool.ctr, CTR.replacen("case \"$*\" in ", &lists, 1)).unwrap();
    };
    // The name that the CRI adds leads to the same image.
    lab.containerd.world().images = [image, running].map(|name| (name.to_owned(), "sha256:cc".into())).into();
    ctr("pod1");
    lab.import_fails(&sha256).await;
    assert!(lab.has(image) && lab.has(running), "it was taken away from under a pod");
    lab.boot("boot-2");
    ctr("");
    lab.import_fails(&sha256).await;
    assert!(!lab.has(image) && !lab.has(running), "nothing runs from it");
}

#[tokio::test]
async fn a_look_that_loses_containerd_half_way_leaves_no_result() {
    let lab = Lab::new();
    lab.whole("lab/whole:1");
    let look = async || acts::verify(&lab.root, &lab.tool, 0, None).await;
    for fault in [Fault::GoAway, Fault::Resets, Fault::NoStatus] {
        lab.containerd.fault(fault, "Snapshots/Stat");
        look().await.unwrap_err();
        assert!(!lab.root.exists(IMAGES_CHECKED), "{fault:?}: it would clear the suspicion");
    }
    lab.containerd.world().fault = None;
    look().await.unwrap();
    let checked = fs::read_to_string(lab.root.path(IMAGES_CHECKED)).unwrap();
    assert!(checked.contains(r#""images":1,"damaged":[],"unread":[]"#), "{checked}");
}

#[tokio::test]
async fn a_look_that_cannot_be_done_is_told_and_keeps_nothing_from_going_on() {
    let lab = Lab::new();
    inventory::update(&lab.root, |it| it.boot.suspect = true).unwrap();
    fs::write(lab.root.path(IMAGES_CHECKED), r#"{"boot_id":"boot-0","images":1,"damaged":[],"unread":[]}"#)
        .unwrap();
    let standing = lab.round(&[], true).await;
    let troubles: Vec<String> = standing.troubles.iter().map(|(why, _)| why.to_string()).collect();
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(troubles[0].starts_with("EB-image-damaged: images could not be verified"), "{troubles:?}");
    assert!(Inventory::load(&lab.root).boot.suspect, "nothing was proven");
    assert!(!lab.root.exists(IMAGES_CHECKED), "an older result could be taken for this one");
    assert_eq!(lab.labels(0).len(), 2, "the sandbox image was not pinned");
}

#[tokio::test]
async fn images_of_assigned_archives_are_pinned_and_let_go_when_they_are_not_assigned_any_more() {
    let lab = Lab::new();
    let (first, second) = ("aa".repeat(32), "bb".repeat(32));
    for (sha256, image) in [(&first, "lab/a:1"), (&second, "lab/b:1")] {
        lab.put(image);
        lab.record(sha256, image, "2027-01-15T00:00:00Z");
    }
    lab.put("foreign/c:1");
    let pinned = |image: &str| {
        vec![
            format!("{image} labels.io.edge-bootstrap.pinned=pinned"),
            format!("{image} labels.io.cri-containerd.pinned=pinned"),
        ]
    };
    assert_eq!(lab.round(&[&first, &second], true).await.troubles, []);
    assert_eq!(lab.labels(0), [pinned(PAUSE), pinned("lab/a:1"), pinned("lab/b:1")].concat());
    lab.round(&[&first, &second], true).await;
    assert_eq!(lab.labels(6), Vec::<String>::new(), "what is pinned is left alone");
    lab.round(&[&second], true).await;
    let loose = ["lab/a:1 labels.io.cri-containerd.pinned=", "lab/a:1 labels.io.edge-bootstrap.pinned="];
    assert_eq!(lab.labels(6), loose);
}

#[tokio::test]
async fn an_archive_is_not_imported_again_at_once_for_what_the_kubelet_collects() {
    let lab = Lab::new();
    let sha256 = "aa".repeat(32);
    let recorded = || Inventory::load(&lab.root).archives.contains_key(&sha256);
    lab.record(&sha256, "lab/gone:1", "2027-01-15T00:00:00Z");
    lab.round(&[&sha256], false).await;
    assert!(recorded(), "it would be collected again");
    lab.record(&sha256, "lab/gone:1", "2027-01-13T00:00:00Z");
    lab.round(&[&sha256], false).await;
    assert!(!recorded(), "a day is over");
    lab.record(&sha256, "lab/gone:1", "2027-01-15T00:00:00Z");
    lab.round(&[&sha256], true).await;
    assert!(!recorded(), "what is pinned is not collected: somebody removed it");
    lab.containerd.world().images.clear();
    lab.record(&sha256, PAUSE, "2027-01-15T00:00:00Z");
    lab.round(&[&sha256], false).await;
    assert!(!recorded(), "no pod starts without the sandbox image");
}
