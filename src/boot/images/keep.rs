//! What keeps images in the store, and what notices that they went.
//!
//! Owns the marks that keep the images of assigned archives from the kubelet's
//! collection, and when an archive is imported again because some of its images
//! are gone. An image that the kubelet may collect is not brought back at once:
//! it would go again with the next look at the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::info;

use super::{Hands, Work, import_failed};
use crate::containerd::{Client, Image};
use crate::inventory::{self, Archive, Inventory};
use crate::ordered::Ordered as _;
use crate::paths;
use crate::plan::Refusal;
use crate::plan::images::{Gone, is_due};
use crate::sys::Root;

/// Label that keeps an image from the kubelet's collection (containerd: `internal/cri/labels`).
const PINNED: &str = "io.cri-containerd.pinned";
/// Our own label beside it: it was us, so it is ours to take away.
const OURS: &str = "io.edge-bootstrap.pinned";
/// Value of both.
const YES: &str = "pinned";

/// An archive whose images are gone from the store counts as not imported.
pub(super) async fn forget_vanished(hands: &Hands<'_>, work: &Work) -> Result<(), Refusal> {
    let root = hands.root;
    let there: BTreeSet<String> = in_store(root).await?.1.into_iter().map(|image| image.name).into_set();
    let wanted = |sha256: &String| work.archives.iter().any(|image| image.sha256.as_str() == sha256);
    let now = hands.clock.unix();
    let is_gone = |archive: &Archive| {
        let missing = archive.images.iter().filter(|name| !there.contains(*name));
        is_due(&Gone {
            missing: missing.map(String::as_str).collect(),
            sandbox: work.sandbox.as_deref(),
            heeds_pins: work.heeds_pins,
            imported: seconds(&archive.at),
            now,
        })
    };
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

fn seconds(time: &str) -> Option<u64> {
    let time: SystemTime = humantime::parse_rfc3339(time).ok()?;
    time.duration_since(UNIX_EPOCH).ok().as_ref().map(Duration::as_secs)
}

async fn in_store(root: &Root) -> Result<(Client, Vec<Image>), Refusal> {
    let client = Client::connect(root).await.map_err(|error| import_failed(&error))?;
    let images = client.images().await.map_err(|error| import_failed(&error))?;
    Ok((client, images))
}

/// Marks the sandbox image and the images of assigned archives, and takes our
/// marks from those of archives that are not assigned any more.
pub(super) async fn pin(root: &Root, work: &Work) -> Result<(), Refusal> {
    let (client, images) = in_store(root).await?;
    let recorded = Inventory::load(root).archives;
    let wanted = wanted(work, &recorded);
    // What an archive brings is known only after it was imported.
    let is_complete = work.archives.iter().all(|image| recorded.contains_key(image.sha256.as_str()));
    for image in &images {
        let marks: &[(&str, &str)] =
            match (wanted.contains(image.name.as_str()), has(image, PINNED), has(image, OURS)) {
                // Ours first: broken off in between, the next round sets the other.
                (true, false, _) => &[(OURS, YES), (PINNED, YES)],
                (false, _, true) if is_complete => &[(PINNED, ""), (OURS, "")],
                _ => continue,
            };
        for (key, value) in marks {
            client.label_image(&image.name, key, value).await.map_err(|error| import_failed(&error))?;
        }
        info!(EDGE_STEP = "images", EDGE_IMAGE = %image.name, EDGE_PINNED = !marks[0].1.is_empty(), "image is pinned, or no more");
    }
    Ok(())
}

fn has(image: &Image, label: &str) -> bool {
    image.labels.get(label).map(String::as_str) == Some(YES)
}

fn wanted<'a>(work: &'a Work, recorded: &'a BTreeMap<String, Archive>) -> BTreeSet<&'a str> {
    let assigned = work.archives.iter().filter_map(|image| recorded.get(image.sha256.as_str()));
    let names = assigned.flat_map(|archive| archive.images.iter().map(String::as_str));
    names.chain(work.sandbox.as_deref()).into_set()
}
