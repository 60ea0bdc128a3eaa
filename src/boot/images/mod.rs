//! Images that a host shall have without a registry: fetched by digest,
//! imported, pinned, and looked at after a power cut.
//!
//! Owns one round of that work ([`round`]), which is no part of a pass: it may
//! take as long as the link does. Every step can be broken off at any moment and
//! is taken up by the next round: a download goes on where it broke, an act
//! runs in a unit of its own, and an archive counts as imported only when its
//! images are on disk. What the daemon does between rounds is its own.

pub mod acts;
mod check;
mod held;
mod keep;
mod look;
mod marks;
mod suspicion;

use std::time::Duration;

use tracing::{info, warn};

pub use acts::{ImageError, Tool};
pub use marks::{begin_of_boot, end_of_boot};

use self::acts::Imported;
use super::act::run_act;
use super::{Downloader, Pass, Severity, Watcher};
use crate::apply::{self, ArtifactError, Wanted};
use crate::error::Chain;
use crate::facts::archive::full_name;
use crate::inventory::{self, Archive, Inventory};
use crate::paths::{self, IMAGES, IMAGES_LOCK};
use crate::plan::{PlannedImage, Refusal, images};
use crate::role::Snapshotter;
use crate::sys::systemd::Systemd;
use crate::sys::{Clock, Root, host, lock};

/// How long another process may be at the same work before this round is left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an act may take: a large archive on a slow disk.
const LIMIT: Duration = Duration::from_secs(3600);

/// What there is to do, as a pass saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// All archives of the assignment.
    pub archives: Vec<PlannedImage>,
    /// The sandbox image that the assignment names.
    pub sandbox: Option<String>,
    /// containerd's own program.
    pub tool: Tool,
    /// ctr has to be told to do the import by itself (2.x).
    pub is_local: bool,
    /// This containerd keeps pinned images from the kubelet's collection.
    pub heeds_pins: bool,
    /// When containerd was started, in seconds since boot.
    pub started: u64,
}

impl Work {
    /// What a pass leaves to do; `None` while there is no plan, or containerd is
    /// not up.
    #[must_use]
    pub fn of(pass: &Pass) -> Option<Self> {
        let plan = pass.plan.as_ref()?.plan();
        let duty = pass.assignment.as_ref()?.duty.as_ref()?;
        let runtime = &pass.facts.runtime;
        let unit = runtime.units.get("containerd")?.known().filter(|unit| unit.active == "active")?;
        let (directory, _) = runtime.containerd.binary.known()?.rsplit_once('/')?;
        let version = *runtime.containerd.version.known()?;
        let snapshotter = plan.storage.as_ref().map(|storage| storage.choice.snapshotter);
        Some(Self {
            archives: images::all(duty),
            sandbox: duty.runtime.sandbox_image.as_ref().map(|image| full_name(image.as_str())),
            tool: Tool {
                // Not the first one in PATH: k3s has one too.
                ctr: format!("{directory}/ctr"),
                snapshotter: match snapshotter {
                    Some(Snapshotter::Devmapper) => "devmapper".to_owned(),
                    Some(Snapshotter::Overlayfs) | None => "overlayfs".to_owned(),
                },
            },
            is_local: version.0 >= 2,
            heeds_pins: images::heeds_pins(version),
            started: unit.since_monotonic_s,
        })
    }
}

/// With what a round works.
#[derive(Debug)]
pub struct Hands<'a> {
    /// The host.
    pub root: &'a Root,
    /// Its systemd.
    pub systemd: &'a Systemd,
    /// Its clock.
    pub clock: Clock,
    /// Brings archives.
    pub downloader: &'a Downloader<'a>,
    /// Is told what is done.
    pub watcher: &'a dyn Watcher,
}

/// How a round ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Archives that the assignment names.
    pub wanted: usize,
    /// Those of them whose images are in the store, synced.
    pub imported: usize,
    /// What went wrong, and how bad that is; it is tried again.
    pub troubles: Vec<(Refusal, Severity)>,
    /// What was found and put right, or cannot be by this agent.
    pub found: Vec<Refusal>,
}

/// Does everything that there is to do, one thing after the other.
pub async fn round(hands: &Hands<'_>, work: &Work) -> Standing {
    let mut standing = Standing { wanted: work.archives.len(), ..Standing::default() };
    match lock::acquire(hands.root, IMAGES_LOCK, PATIENCE).await {
        Ok(Some(_lock)) => {
            if let Err(trouble) = all(hands, work, &mut standing).await {
                standing.troubles.push((trouble, Severity::Warn));
            }
        }
        Ok(None) => standing.troubles.push((
            Refusal::new(
                "EB-image-import",
                "another process of edge-bootstrap brings images",
                "it is looked at again",
            ),
            Severity::Info,
        )),
        Err(error) => standing.troubles.push((import_failed(&error), Severity::Warn)),
    }
    standing.imported = count(hands.root, work);
    for (trouble, _) in &standing.troubles {
        warn!(EDGE_STEP = "images", EDGE_CODE = %trouble.code, EDGE_REASON = %trouble.reason, "images are not complete, retrying");
    }
    standing
}

fn count(root: &Root, work: &Work) -> usize {
    let recorded = Inventory::load(root).archives;
    work.archives.iter().filter(|archive| recorded.contains_key(archive.sha256.as_str())).count()
}

fn import_failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::new("EB-image-import", Chain(error).to_string(), "it is tried again by itself")
}

async fn all(hands: &Hands<'_>, work: &Work, standing: &mut Standing) -> Result<(), Refusal> {
    tidy(hands.root, work);
    let recorded = Inventory::load(hands.root);
    if recorded.boot.suspect {
        // A look that fails is no reason to leave out what is missing.
        match suspicion::verify(hands, work).await {
            Ok(found) => standing.found = found,
            Err(trouble) => standing.troubles.push((trouble, Severity::Warn)),
        }
    }
    if work.archives.is_empty() && work.sandbox.is_none() && recorded.archives.is_empty() {
        return Ok(());
    }
    keep::forget_vanished(hands, work).await?;
    for archive in &work.archives {
        if let Err(trouble) = bring(hands, work, archive).await {
            standing.troubles.push(trouble);
        }
    }
    keep::pin(hands.root, work).await
}

/// Removes archives, and parts of some, that the assignment does not name.
fn tidy(root: &Root, work: &Work) {
    let is_wanted = |name: &str| work.archives.iter().any(|image| name.starts_with(image.sha256.as_str()));
    for name in root.list(IMAGES).unwrap_or_default().iter().filter(|name| !is_wanted(name)) {
        match root.remove_file(&format!("{IMAGES}/{name}")) {
            Ok(_) => {
                info!(EDGE_STEP = "images", EDGE_PATH = %name, "archive is not assigned any more, removed")
            }
            Err(error) => {
                warn!(EDGE_STEP = "images", EDGE_REASON = %Chain(&error), "archive stays, ignoring");
            }
        }
    }
}

/// One archive, to its end: on disk, in the store, recorded.
async fn bring(hands: &Hands<'_>, work: &Work, image: &PlannedImage) -> Result<(), (Refusal, Severity)> {
    let bad = |error: Refusal| (error, Severity::Warn);
    let sha256 = image.sha256.as_str();
    if Inventory::load(hands.root).archives.contains_key(sha256) {
        return Ok(());
    }
    let title = title(image);
    if !hands.root.exists(&paths::image_archive(sha256)) {
        fetch(hands, image, &title).await?;
    }
    hands.watcher.doing(&format!("{title} is imported"));
    let images = import(hands, work, sha256).await.map_err(bad)?;
    info!(EDGE_STEP = "images", EDGE_ARCHIVE = %title, EDGE_IMAGES = images.len(), "images are in the store");
    let archive = Archive { images, at: hands.clock.rfc3339() };
    let record = |inventory: &mut Inventory| {
        inventory.unfinished.remove(sha256);
        inventory.archives.insert(sha256.to_owned(), archive);
    };
    inventory::update(hands.root, record).map_err(|error| bad(import_failed(&error)))?;
    Ok(())
}

/// The file's name in its URL.
fn title(image: &PlannedImage) -> String {
    // A query may be what opens the door.
    let path = image.urls.first().and_then(|url| url.as_str().split('?').next());
    let name = path.and_then(|path| path.rsplit('/').next().map(str::to_owned));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| image.sha256.to_string())
}

/// A link that is down is information (invariant 11); another file in the place
/// of the archive, or a full disk, is for a person.
async fn fetch(hands: &Hands<'_>, image: &PlannedImage, title: &str) -> Result<(), (Refusal, Severity)> {
    let failed = |error: &(dyn std::error::Error + 'static), severity| {
        let why = Refusal::new("EB-image-fetch", Chain(error).to_string(), "it is tried again by itself");
        (why, severity)
    };
    hands.root.make_dir(IMAGES, 0o700).map_err(|error| failed(&error, Severity::Warn))?;
    let path = paths::image_archive(image.sha256.as_str());
    let (urls, sha256, floor) = (&image.urls, &image.sha256, crate::sys::space::floor);
    let wanted = Wanted { title, path: &path, mode: 0o600, urls, sha256, floor };
    let brought = apply::bring(hands.root, wanted, hands.downloader).await;
    brought.map_err(|error| match &error {
        ArtifactError::NoSource { is_wrong: false, .. } => failed(&error, Severity::Info),
        _ => failed(&error, Severity::Warn),
    })
}

/// Imports an archive; gives the names of its images. What ended in this boot
/// without anybody there to record it is taken over.
async fn import(hands: &Hands<'_>, work: &Work, sha256: &str) -> Result<Vec<String>, Refusal> {
    let boot_id = host::boot_id(hands.root).map_err(|error| import_failed(&error))?;
    let begin = |inventory: &mut Inventory| {
        inventory.unfinished.entry(sha256.to_owned()).or_insert_with(|| boot_id.clone());
    };
    inventory::update(hands.root, begin).map_err(|error| import_failed(&error))?;
    let begun = Inventory::load(hands.root).unfinished.remove(sha256);
    // Cut off in an earlier boot: layers of it may be empty, and importing over
    // them would change nothing.
    let again = begun.as_ref() != Some(&boot_id);
    if let Some(images) = ended(hands.root, sha256, &boot_id)? {
        return Ok(images);
    }
    let mut args = words(&["--sha256", sha256], &work.tool);
    args.extend(work.is_local.then(|| "--local".to_owned()));
    args.extend(again.then(|| "--again".to_owned()));
    args.extend(work.sandbox.iter().flat_map(|image| ["--sandbox".to_owned(), image.clone()]));
    let ran = run_act((hands.root, hands.systemd), "import-images", &args, LIMIT).await;
    match ended(hands.root, sha256, &boot_id)? {
        Some(images) => Ok(images),
        None => Err(ran.map_or_else(
            |error| import_failed(&error),
            |()| Refusal::new("EB-image-import", "the import left no result", "it is tried again by itself"),
        )),
    }
}

fn words(first: &[&str], tool: &Tool) -> Vec<String> {
    let tool = ["--ctr", &tool.ctr, "--snapshotter", &tool.snapshotter];
    first.iter().chain(&tool).map(|word| (*word).to_owned()).collect()
}

/// An import that found no room is told each time, and tried again only when there is some.
fn no_room(
    root: &Root,
    path: &str,
    (needed, is_urgent): (u64, bool),
) -> Result<Option<Vec<String>>, Refusal> {
    let Err(no_room) = acts::room(root, needed, is_urgent) else {
        root.remove_file(path).map_err(|error| import_failed(&error))?;
        return Ok(None);
    };
    let why = Chain(&ImageError::NoRoom(no_room)).to_string();
    Err(Refusal::new("EB-image-import", why, "free some (crictl rmi --prune); it goes on by itself then"))
}

/// The images of an import that ended well in this boot; its failure is told once.
fn ended(root: &Root, sha256: &str, boot_id: &str) -> Result<Option<Vec<String>>, Refusal> {
    let path = paths::imported(sha256);
    let Some(result) = acts::left::<Imported>(root, &path).filter(|it| it.boot_id == *boot_id) else {
        return Ok(None);
    };
    let Some(why) = result.error else { return Ok(Some(result.images)) };
    if let Some(needed) = result.lacks {
        return no_room(root, &path, (needed, result.is_urgent));
    }
    root.remove_file(&path).map_err(|error| import_failed(&error))?;
    if result.is_archive_bad {
        root.remove_file(&paths::image_archive(sha256)).map_err(|error| import_failed(&error))?;
    }
    Err(Refusal::new("EB-image-import", why, "it is tried again by itself"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::sys::atomic;

    #[test]
    fn an_import_without_room_is_told_with_numbers_and_rests_until_there_is_some() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = paths::imported("aa");
        let result = Imported {
            boot_id: "b".into(),
            error: Some("no room".into()),
            lacks: Some(u64::MAX),
            ..Imported::default()
        };
        root.make_dir(paths::RUN_DIR, 0o755).unwrap();
        root.make_dir(paths::CONTAINERD_ROOT, 0o711).unwrap();
        atomic::write_volatile(&root, &path, &serde_json::to_vec(&result).unwrap(), 0o600).unwrap();
        for _ in 0..2 {
            let why = ended(&root, "aa", "b").unwrap_err();
            assert_eq!(why.code, "EB-image-import");
            assert!(why.reason.contains(&format!("{} bytes more are needed", u64::MAX)), "{why}");
            assert!(root.exists(&path), "the next round would try it again");
        }
        let free = crate::sys::machine::space(&root, paths::CONTAINERD_ROOT).unwrap().available_bytes;
        assert!(acts::room(&root, free, false).is_err(), "some stays free");
        assert!(acts::room(&root, free / 2, true).is_ok(), "the sandbox image may have of it");
        assert!(acts::room(&root, u64::MAX, true).is_err(), "but it has to find its own");
        let result = Imported { lacks: Some(0), ..result };
        atomic::write_volatile(&root, &path, &serde_json::to_vec(&result).unwrap(), 0o600).unwrap();
        assert_eq!(ended(&root, "aa", "b"), Ok(None));
        assert!(!root.exists(&path), "there is room: it is tried again");
    }
}
