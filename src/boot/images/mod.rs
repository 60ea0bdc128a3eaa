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
mod marks;

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{info, warn};

pub use acts::{ImageError, Tool};
pub use marks::{begin_of_boot, end_of_boot};

use self::acts::{Checked, Damaged, Imported};
use super::act::run_act;
use super::{Downloader, Pass, Severity, Watcher};
use crate::apply::{self, ArtifactError, Wanted};
use crate::containerd::Client;
use crate::error::Chain;
use crate::facts::archive::full_name;
use crate::inventory::{self, Archive, Inventory};
use crate::paths::{self, IMAGES, IMAGES_CHECKED, IMAGES_LOCK};
use crate::plan::{PlannedImage, Refusal, images};
use crate::role::Snapshotter;
use crate::sys::systemd::Systemd;
use crate::sys::{Clock, Root, host, lock};

/// How long another process may be at the same work before this round is left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an act may take: a large archive on a slow disk.
const LIMIT: Duration = Duration::from_secs(3600);
/// Label that keeps an image from the kubelet's collection (containerd: `internal/cri/labels`).
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");

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
            is_local: runtime.containerd.version.known()?.0 >= 2,
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
    if Inventory::load(hands.root).boot.suspect {
        standing.found = verify(hands, work).await?;
    }
    if work.archives.is_empty() && work.sandbox.is_none() {
        return Ok(());
    }
    forget_vanished(hands.root, work).await?;
    for archive in &work.archives {
        if let Err(trouble) = bring(hands, work, archive).await {
            standing.troubles.push(trouble);
        }
    }
    pin(hands.root, work).await
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

/// An archive whose images are gone from the store counts as not imported.
async fn forget_vanished(root: &Root, work: &Work) -> Result<(), Refusal> {
    let there = names_in_store(root).await?;
    let is_gone = |archive: &Archive| archive.images.iter().any(|name| !there.contains(name));
    let wanted = |sha256: &String| work.archives.iter().any(|image| image.sha256.as_str() == sha256);
    let recorded = Inventory::load(root).archives.into_iter();
    let gone: Vec<String> =
        recorded.filter(|(sha256, it)| wanted(sha256) && is_gone(it)).map(|(sha256, _)| sha256).collect();
    for sha256 in &gone {
        info!(EDGE_STEP = "images", EDGE_ARCHIVE = %sha256, "images are gone from the store, importing them again");
        root.remove_file(&paths::imported(sha256)).map_err(|error| import_failed(&error))?;
    }
    let forget = |inventory: &mut Inventory| inventory.archives.retain(|sha256, _| !gone.contains(sha256));
    inventory::update(root, forget).map_err(|error| import_failed(&error))?;
    Ok(())
}

async fn names_in_store(root: &Root) -> Result<BTreeSet<String>, Refusal> {
    let client = Client::connect(root).await.map_err(|error| import_failed(&error))?;
    let images = client.images().await.map_err(|error| import_failed(&error))?;
    Ok(images.into_iter().map(|image| image.name).collect())
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
    let name = image.urls.first().and_then(|url| url.as_str().rsplit('/').next().map(str::to_owned));
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
    let wanted = Wanted { title, path: &path, mode: 0o600, urls: &image.urls, sha256: &image.sha256 };
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

/// The images of an import that ended well in this boot; its failure is told once.
fn ended(root: &Root, sha256: &str, boot_id: &str) -> Result<Option<Vec<String>>, Refusal> {
    let path = paths::imported(sha256);
    let Some(result) = acts::left::<Imported>(root, &path).filter(|it| it.boot_id == *boot_id) else {
        return Ok(None);
    };
    let Some(why) = result.error else { return Ok(Some(result.images)) };
    root.remove_file(&path).map_err(|error| import_failed(&error))?;
    if result.is_archive_bad {
        root.remove_file(&paths::image_archive(sha256)).map_err(|error| import_failed(&error))?;
    }
    Err(Refusal::new("EB-image-import", why, "it is tried again by itself"))
}

/// Marks the sandbox image, so that the kubelet does not collect it.
async fn pin(root: &Root, work: &Work) -> Result<(), Refusal> {
    let Some(sandbox) = &work.sandbox else { return Ok(()) };
    let client = Client::connect(root).await.map_err(|error| import_failed(&error))?;
    let images = client.images().await.map_err(|error| import_failed(&error))?;
    let (key, value) = PINNED;
    let is_loose = |image: &&crate::containerd::Image| {
        image.name == *sandbox && image.labels.get(key).map(String::as_str) != Some(value)
    };
    if images.iter().find(is_loose).is_some() {
        client.label_image(sandbox, key, value).await.map_err(|error| import_failed(&error))?;
        info!(EDGE_STEP = "images", EDGE_IMAGE = %sandbox, "sandbox image is pinned");
    }
    Ok(())
}

/// After a boot that ended without a good end: looks at all images, and removes
/// those that are not whole. What an archive brought comes back from it.
async fn verify(hands: &Hands<'_>, work: &Work) -> Result<Vec<Refusal>, Refusal> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Refusal::new(
            "EB-image-damaged",
            format!("images could not be verified: {}", Chain(error)),
            "it is tried again by itself",
        )
    };
    hands.watcher.doing("images are verified after a power cut");
    let since = Inventory::load(hands.root).boot.good_until.to_string();
    let mut args = words(&["--since", &since], &work.tool);
    args.extend(work.sandbox.iter().flat_map(|image| ["--sandbox".to_owned(), image.clone()]));
    run_act((hands.root, hands.systemd), "verify-images", &args, LIMIT)
        .await
        .map_err(|error| failed(&error))?;
    let checked = acts::left::<Checked>(hands.root, IMAGES_CHECKED).unwrap_or_default();
    info!(
        EDGE_STEP = "images",
        EDGE_IMAGES = checked.images,
        EDGE_DAMAGED = checked.damaged.len(),
        "images were verified after an unclean stop"
    );
    for why in &checked.unread {
        warn!(EDGE_STEP = "images", EDGE_REASON = %why, "image could not be verified, ignoring");
    }
    let found = damage(&checked.damaged);
    if !checked.damaged.is_empty() {
        forget_damaged(hands.root, &checked.damaged).map_err(|error| failed(&error))?;
        let names = checked.damaged.iter().flat_map(|it| it.names.iter().cloned());
        let mut args = words(&[], &work.tool);
        args.extend(names.flat_map(|name| ["--image".to_owned(), name]));
        run_act((hands.root, hands.systemd), "remove-images", &args, LIMIT)
            .await
            .map_err(|error| failed(&error))?;
    }
    inventory::update(hands.root, |inventory| inventory.boot.suspect = false)
        .map_err(|error| failed(&error))?;
    Ok(found)
}

fn damage(damaged: &[Damaged]) -> Vec<Refusal> {
    let words = |it: &Damaged| {
        let what = format!("{}: {}", it.names.join(", "), it.why);
        warn!(EDGE_STEP = "images", EDGE_CODE = "EB-image-damaged", EDGE_REASON = %what, "image is damaged, removing it");
        Refusal::new(
            "EB-image-damaged",
            what,
            "it was removed and comes back from its archive, or by the next pull",
        )
    };
    damaged.iter().map(words).collect()
}

/// Durable before anything is removed: a cut in between imports them again.
fn forget_damaged(root: &Root, damaged: &[Damaged]) -> Result<(), crate::sys::statefile::StateError> {
    let names: BTreeSet<&String> = damaged.iter().flat_map(|it| &it.names).collect();
    let is_hit = |archive: &Archive| archive.images.iter().any(|name| names.contains(name));
    let forget = |inventory: &mut Inventory| {
        let hit = inventory.archives.iter().filter(|(_, it)| is_hit(it)).map(|(sha256, _)| sha256.clone());
        for sha256 in hit.collect::<Vec<_>>() {
            inventory.archives.remove(&sha256);
            // No boot has this id: what is left of it goes before the import.
            inventory.unfinished.insert(sha256, "damaged".to_owned());
        }
    };
    let sha256s: Vec<String> = Inventory::load(root).archives.into_keys().collect();
    inventory::update(root, forget)?;
    for sha256 in sha256s.iter().filter(|sha256| !Inventory::load(root).archives.contains_key(*sha256)) {
        root.remove_file(&paths::imported(sha256))?;
    }
    Ok(())
}
