//! A store that a power cut may have damaged.
//!
//! Owns what follows from a boot without a good end: all images are looked at
//! once, those that are not whole are removed, and the suspicion stays while
//! that cannot be done. What an archive brought comes back from it. How an image
//! is looked at is `look`'s.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::acts::{self, Checked, Damaged};
use super::check;
use super::{Hands, LIMIT, Work, words};
use crate::boot::act::{ActError, run_act};
use crate::containerd::Client;
use crate::error::Chain;
use crate::inventory::{self, Archive, Inventory};
use crate::ordered::Ordered as _;
use crate::paths::{self, IMAGES_CHECKED, IMAGES_ENDLESS};
use crate::plan::Refusal;
use crate::sys::statefile::StateError;
use crate::sys::{Root, atomic, host};

/// Stands where the boot of an unfinished import does. No boot has this id: what
/// is left of it goes before the import.
const DAMAGED: &str = "damaged";
/// How many looks of a boot may come to no end within their limit.
const MOST_ENDLESS: usize = 2;

/// Looks at all images, and removes those that are not whole and that nobody
/// runs from; tells both. Of what a look of this boot found, only who runs from
/// it is asked again.
pub(super) async fn verify(hands: &Hands<'_>, work: &Work) -> Result<Vec<Refusal>, Refusal> {
    let boot_id = host::boot_id(hands.root).map_err(|error| failed(&error))?;
    let mut checked = look(hands, work, &boot_id).await?;
    let removed: Vec<Damaged> = checked.damaged.iter().filter(|it| is_free(it)).cloned().collect();
    if !removed.is_empty() {
        hands.watcher.doing("damaged images are removed");
        remove(hands, work, &removed, &boot_id).await?;
        checked.damaged = left(hands.root, work, checked.damaged).await?;
        // A container may have begun since the look.
        if checked.damaged.iter().any(is_free) {
            write(hands.root, &checked).map_err(|error| failed(&*error))?;
            let now = look(hands, work, &boot_id).await?;
            checked.damaged = checked.damaged.into_iter().zip(now.damaged).map(stayed).collect();
        }
    }
    let is_over = checked.damaged.is_empty();
    conclude(hands.root, &checked).map_err(|error| failed(&*error))?;
    let gone = removed.iter().filter(|it| !checked.damaged.iter().any(|left| left.names == it.names));
    let found: Vec<Refusal> = gone.chain(&checked.damaged).map(told).collect();
    info!(EDGE_STEP = "images", EDGE_DAMAGED = found.len(), EDGE_OVER = is_over, "images were judged");
    Ok(found)
}

/// Nothing was seen that keeps it.
fn is_free(it: &Damaged) -> bool {
    it.used_by.is_empty() && !it.is_stuck
}

/// What is known of one after the removal, and as it was looked at once more.
/// One that was not removed is left to the next round.
fn stayed((it, now): (Damaged, Damaged)) -> Damaged {
    if is_free(&it) { Damaged { is_stuck: now.used_by.is_empty(), ..now } } else { it }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    unverified(&Chain(error).to_string())
}

fn unverified(why: &str) -> Refusal {
    let why = format!("images could not be verified: {why}");
    Refusal::new("EB-image-damaged", why, "it is tried again by itself")
}

/// What is known of this boot: a look that left no result proves nothing.
fn result(root: &Root, boot_id: &str) -> Option<Checked> {
    acts::left::<Checked>(root, IMAGES_CHECKED).filter(|checked| checked.boot_id == boot_id)
}

async fn look(hands: &Hands<'_>, work: &Work, boot_id: &str) -> Result<Checked, Refusal> {
    let is_again = result(hands.root, boot_id).is_some();
    let mut args = words(&[], &work.tool);
    if is_again {
        args.push("--again".to_owned());
    } else {
        if endless(hands.root, boot_id) >= MOST_ENDLESS {
            return Err(given_up());
        }
        hands.watcher.doing("images are verified after a power cut");
        hands.root.remove_file(IMAGES_CHECKED).map_err(|error| failed(&error))?;
        let since = Inventory::load(hands.root).boot.good_until.to_string();
        args.extend(["--since".to_owned(), since]);
        args.extend(work.sandbox.iter().flat_map(|image| ["--sandbox".to_owned(), image.clone()]));
    }
    let ran = run_act((hands.root, hands.systemd), "verify-images", &args, LIMIT).await;
    ran.map_err(|error| {
        note_endless(hands.root, boot_id, &error);
        failed(&error)
    })?;
    let checked = result(hands.root, boot_id).ok_or_else(|| unverified("the look left no result"))?;
    if !is_again {
        tell(&checked);
    }
    Ok(checked)
}

/// How many looks of this boot came to no end.
fn endless(root: &Root, boot_id: &str) -> usize {
    let noted = root.read_text(IMAGES_ENDLESS).ok().flatten().unwrap_or_default();
    noted.lines().filter(|line| *line == boot_id).count()
}

/// Each begins anew, and reads the whole store. One that ended by itself is no
/// such: containerd did not answer then.
fn note_endless(root: &Root, boot_id: &str, error: &ActError) {
    let is_endless = match error {
        ActError::Unfinished { .. } => true,
        ActError::Failed { result, .. } => result == "timeout",
        _ => false,
    };
    if !is_endless {
        return;
    }
    let noted = format!("{boot_id}\n").repeat(endless(root, boot_id).saturating_add(1));
    if let Err(error) = atomic::write_volatile(root, IMAGES_ENDLESS, noted.as_bytes(), 0o600) {
        warn!(EDGE_STEP = "images", EDGE_REASON = %Chain(&error), "look without an end is not recorded, ignoring");
    }
}

fn given_up() -> Refusal {
    let minutes = LIMIT.as_secs() / 60;
    Refusal::new(
        "EB-image-damaged",
        format!(
            "images could not be verified: {MOST_ENDLESS} looks in this boot did not end within {minutes} min each"
        ),
        "it is tried again after the next boot; look at how fast the disk reads, or remove images that nobody needs (crictl rmi --prune) before",
    )
}

fn tell(checked: &Checked) {
    info!(
        EDGE_STEP = "images",
        EDGE_IMAGES = checked.images,
        EDGE_DAMAGED = checked.damaged.len(),
        "images were verified after an unclean stop"
    );
    for why in &checked.unread {
        warn!(EDGE_STEP = "images", EDGE_REASON = %why, "image could not be verified, ignoring");
    }
}

async fn remove(hands: &Hands<'_>, work: &Work, damaged: &[Damaged], boot_id: &str) -> Result<(), Refusal> {
    for it in damaged {
        let what = format!("{}: {}", it.names.join(", "), it.why);
        warn!(EDGE_STEP = "images", EDGE_CODE = "EB-image-damaged", EDGE_REASON = %what, "image is damaged, removing it");
    }
    forget_damaged(hands.root, damaged).map_err(|error| failed(&error))?;
    let names = damaged.iter().flat_map(|it| it.names.iter().cloned());
    let mut args = words(&[], &work.tool);
    args.extend(names.flat_map(|name| ["--image".to_owned(), name]));
    let ran = run_act((hands.root, hands.systemd), "remove-images", &args, LIMIT).await;
    ran.map_err(|error| failed(&error))?;
    // Nothing of them is left that would have to go before the import.
    let removed = |inventory: &mut Inventory| {
        let damaged = inventory.unfinished.values_mut().filter(|begun| *begun == DAMAGED);
        damaged.for_each(|begun| boot_id.clone_into(begun));
    };
    inventory::update(hands.root, removed).map_err(|error| failed(&error))?;
    Ok(())
}

/// What is damaged after the removal: images that somebody runs from, and those
/// whose layer or blob stayed although nobody was seen.
async fn left(root: &Root, work: &Work, damaged: Vec<Damaged>) -> Result<Vec<Damaged>, Refusal> {
    let client = Client::connect(root).await.map_err(|error| failed(&error))?;
    let mut left = Vec::new();
    for it in damaged {
        let stays = match &it.chain {
            _ if !is_free(&it) => true,
            Some(chain) => {
                let stays = client.has_snapshot(&work.tool.snapshotter, chain).await;
                stays.map_err(|error| failed(&error))?
            }
            None => has_blob(root, &it),
        };
        if stays {
            left.push(it);
        }
    }
    Ok(left)
}

fn has_blob(root: &Root, it: &Damaged) -> bool {
    it.blob.as_ref().is_some_and(|digest| root.exists(&check::blob(digest)))
}

/// With nothing left the store counts as good, until the next power cut.
fn conclude(root: &Root, checked: &Checked) -> Result<(), Box<dyn std::error::Error>> {
    if checked.damaged.is_empty() {
        inventory::update(root, |inventory| inventory.boot.suspect = false)?;
        root.remove_file(IMAGES_CHECKED)?;
    } else {
        write(root, checked)?;
    }
    Ok(())
}

fn write(root: &Root, checked: &Checked) -> Result<(), Box<dyn std::error::Error>> {
    atomic::write_volatile(root, IMAGES_CHECKED, &serde_json::to_vec(checked)?, 0o600)?;
    Ok(())
}

fn told(it: &Damaged) -> Refusal {
    let what = format!("{}: {}", it.names.join(", "), it.why);
    let refusal = |what, next| Refusal::new("EB-image-damaged", what, next);
    if !it.used_by.is_empty() {
        return refusal(
            format!("{what}; in use by {}", it.used_by.join(", ")),
            "it is replaced when nothing runs from it: drain the node, or stop k3s and its containers, then run: edge-bootstrap apply",
        );
    }
    if it.is_stuck {
        let part = if it.chain.is_some() { "layer" } else { "blob" };
        return refusal(
            format!(
                "{what}; it was removed, but that {part} is in use by something that is no running container, and stays"
            ),
            "it is looked at again after the next boot; to find what holds it: ctr -n k8s.io leases ls, ctr -n k8s.io snapshots ls",
        );
    }
    refusal(what, "it was removed and comes back from its archive, or by the next pull")
}

/// Durable before anything is removed: a cut in between imports them again.
fn forget_damaged(root: &Root, damaged: &[Damaged]) -> Result<(), StateError> {
    let names: BTreeSet<&String> = damaged.iter().flat_map(|it| &it.names).into_set();
    let is_hit = |archive: &Archive| archive.images.iter().any(|name| names.contains(name));
    let forget = |inventory: &mut Inventory| {
        let hit = inventory.archives.iter().filter(|(_, it)| is_hit(it)).map(|(sha256, _)| sha256.clone());
        for sha256 in hit.collect::<Vec<_>>() {
            inventory.archives.remove(&sha256);
            inventory.unfinished.insert(sha256, DAMAGED.to_owned());
        }
    };
    let sha256s: Vec<String> = Inventory::load(root).archives.into_keys().collect();
    inventory::update(root, forget)?;
    for sha256 in sha256s.iter().filter(|sha256| !Inventory::load(root).archives.contains_key(*sha256)) {
        root.remove_file(&paths::imported(sha256))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn damaged(name: &str) -> Damaged {
        Damaged { names: vec![name.to_owned()], why: "layer x".to_owned(), ..Damaged::default() }
    }

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir(paths::RUN_DIR, 0o755).unwrap();
        (dir, root)
    }

    #[test]
    fn who_uses_a_damaged_image_is_told_with_the_next_step() {
        let free = damaged("a:1");
        let used = Damaged { used_by: vec!["pod x/dns".into(), "2 more".into()], ..free.clone() };
        let stuck = Damaged { is_stuck: true, ..free.clone() };
        let words = |it: &Damaged| told(it).to_string();
        assert_eq!(
            words(&used),
            "EB-image-damaged: a:1: layer x; in use by pod x/dns, 2 more; it is replaced when nothing runs from it: drain the node, or stop k3s and its containers, then run: edge-bootstrap apply"
        );
        assert!(
            words(&stuck).contains("in use by something that is no running container"),
            "{}",
            words(&stuck)
        );
        assert!(words(&free).contains("it was removed and comes back"), "{}", words(&free));
    }

    #[test]
    fn what_runs_is_told_before_what_is_stuck_and_asked_again() {
        let free = damaged("a:1");
        let used = Damaged { used_by: vec!["pod x/dns".into()], ..free.clone() };
        let stuck = Damaged { is_stuck: true, ..free.clone() };
        assert_eq!(stayed((free.clone(), used.clone())), used, "it began after the look");
        assert_eq!(stayed((free.clone(), free.clone())), stuck);
        assert_eq!(stayed((used.clone(), free.clone())), used, "it was not removed");
        let both = Damaged { is_stuck: true, ..used };
        assert!(told(&both).to_string().contains("in use by pod x/dns"), "{}", told(&both));
    }

    #[test]
    fn a_damaged_blob_is_gone_only_when_it_is() {
        let (_dir, root) = root();
        let it = Damaged { blob: Some("sha256:aa".into()), ..damaged("a:1") };
        assert!(!has_blob(&root, &it));
        let path = check::blob("aa");
        root.make_dir(path.rsplit_once('/').unwrap().0, 0o755).unwrap();
        atomic::write_volatile(&root, &path, b"x", 0o600).unwrap();
        assert!(has_blob(&root, &it));
        assert!(!has_blob(&root, &damaged("a:1")), "it was only not unpacked");
    }

    #[test]
    fn only_looks_that_came_to_no_end_are_counted_and_in_this_boot() {
        let (_dir, root) = root();
        let failed = |result: &str| ActError::Failed {
            name: String::new(),
            unit: String::new(),
            result: result.into(),
            status: Some(1),
        };
        let unfinished = ActError::Unfinished { name: String::new(), unit: String::new(), seconds: 1 };
        for (error, count) in [(failed("exit-code"), 0), (failed("timeout"), 1), (unfinished, 2)] {
            note_endless(&root, "b", &error);
            assert_eq!(endless(&root, "b"), count, "{error}");
        }
        assert_eq!(endless(&root, "c"), 0);
    }

    #[test]
    fn a_look_of_another_boot_or_none_is_no_result() {
        let (_dir, root) = root();
        assert_eq!(result(&root, "b"), None);
        let mut checked = Checked { boot_id: "a".into(), images: 3, ..Checked::default() };
        let write = |checked: &Checked| {
            atomic::write_volatile(&root, IMAGES_CHECKED, &serde_json::to_vec(checked).unwrap(), 0o600)
                .unwrap();
        };
        write(&checked);
        assert_eq!(result(&root, "b"), None);
        checked.boot_id = "b".into();
        write(&checked);
        assert_eq!(result(&root, "b"), Some(checked));
    }

    #[test]
    fn the_suspicion_stays_with_what_is_damaged_and_in_use() {
        let (_dir, root) = root();
        inventory::update(&root, |inventory| inventory.boot.suspect = true).unwrap();
        let mut checked =
            Checked { boot_id: "b".into(), damaged: vec![damaged("a:1")], ..Checked::default() };
        conclude(&root, &checked).unwrap();
        assert!(Inventory::load(&root).boot.suspect);
        assert_eq!(result(&root, "b").as_ref(), Some(&checked));
        checked.damaged.clear();
        conclude(&root, &checked).unwrap();
        assert!(!Inventory::load(&root).boot.suspect);
        assert!(!root.exists(IMAGES_CHECKED));
    }

    #[test]
    fn only_archives_with_a_damaged_image_are_imported_again() {
        let (_dir, root) = root();
        let archive = |name: &str| Archive { images: vec![name.to_owned()], at: String::new() };
        let record = |inventory: &mut Inventory| {
            inventory.archives =
                [("s1".to_owned(), archive("a:1")), ("s2".to_owned(), archive("b:1"))].into();
        };
        inventory::update(&root, record).unwrap();
        atomic::write_volatile(&root, &paths::imported("s1"), b"{}", 0o600).unwrap();
        forget_damaged(&root, &[damaged("a:1")]).unwrap();
        let inventory = Inventory::load(&root);
        assert_eq!(inventory.archives.keys().collect::<Vec<_>>(), ["s2"]);
        assert_eq!(inventory.unfinished, [("s1".to_owned(), DAMAGED.to_owned())].into());
        assert!(!root.exists(&paths::imported("s1")), "its old result would be taken over");
    }
}
