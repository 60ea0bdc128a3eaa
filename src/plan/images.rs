//! Archives of images that a host needs, and the image that must not go.
//!
//! Owns which archives of the assignment are still to be brought, and what a
//! reader should know about the sandbox image. Fetches nothing.

use super::Inputs;
use super::item::PlannedImage;
use crate::role::Duty;

/// All archives of the assignment, in its order; the same one once.
#[must_use]
pub fn all(duty: &Duty) -> Vec<PlannedImage> {
    let mut all: Vec<PlannedImage> = Vec::new();
    for image in &duty.runtime.images {
        match all.iter_mut().find(|known| known.sha256 == image.sha256) {
            Some(known) => known.urls.extend(image.urls.iter().cloned()),
            None => all.push(PlannedImage { urls: image.urls.clone(), sha256: image.sha256.clone() }),
        }
    }
    all
}

/// Those whose images are not known to be in the store. What cannot be read
/// counts as not there: importing once more changes nothing.
pub(super) fn missing(inputs: Inputs<'_>, duty: &Duty) -> Vec<PlannedImage> {
    let recorded = inputs.facts.storage.archives.known().map(Vec::as_slice).unwrap_or_default();
    let is_recorded = |image: &PlannedImage| recorded.iter().any(|sha256| sha256 == image.sha256.as_str());
    all(duty).into_iter().filter(|image| !is_recorded(image)).collect()
}

/// Whether this containerd heeds the mark that keeps an image from the
/// kubelet's collection (containerd: release notes of 1.6.22 and 1.7.3).
#[must_use]
pub fn heeds_pins(version: (u32, u32, u32)) -> bool {
    match version {
        (0, ..) | (1, ..=5, _) => false,
        (1, 6, patch) => patch >= 22,
        (1, 7, patch) => patch >= 3,
        _ => true,
    }
}

/// How often at most images that the kubelet may collect are brought back, in seconds.
const SELDOM_S: u64 = 24 * 3600;

/// An archive, some images of which are not in the store any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone<'a> {
    /// Their names; empty when all are there.
    pub missing: Vec<&'a str>,
    /// The sandbox image that the assignment names.
    pub sandbox: Option<&'a str>,
    /// See [`heeds_pins`].
    pub heeds_pins: bool,
    /// When the archive was imported, in seconds since 1970, as far as known.
    pub imported: Option<u64>,
    /// Seconds since 1970.
    pub now: u64,
}

/// Whether the archive is to be imported again by now. What is pinned was taken
/// by a person or a fault, and nothing starts without the sandbox image; what
/// the kubelet collects on a full disk would only be collected again.
#[must_use]
pub fn is_due(gone: &Gone<'_>) -> bool {
    let Gone { missing, sandbox, .. } = gone;
    let is_old = gone.imported.is_none_or(|at| gone.now.abs_diff(at) >= SELDOM_S);
    !missing.is_empty()
        && (gone.heeds_pins || is_old || sandbox.is_some_and(|sandbox| missing.contains(&sandbox)))
}

/// What a reader should know about the sandbox image.
pub(super) fn note(duty: &Duty, version: (u32, u32, u32)) -> Option<String> {
    let image = duty.runtime.sandbox_image.as_ref()?;
    if heeds_pins(version) {
        return None;
    }
    let (major, minor, patch) = version;
    Some(format!(
        "containerd {major}.{minor}.{patch} does not pin images: the kubelet may collect {image} when the disk is full; its archive, where the assignment has one, is imported again when it is gone"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_count_from_the_releases_that_brought_them() {
        for (version, heeds) in [
            ((1, 5, 18), false),
            ((1, 6, 21), false),
            ((1, 6, 22), true),
            ((1, 7, 2), false),
            ((1, 7, 3), true),
            ((2, 1, 9), true),
        ] {
            assert_eq!(heeds_pins(version), heeds, "{version:?}");
        }
    }

    #[test]
    fn collected_images_come_back_seldom_and_the_sandbox_image_at_once() {
        let now = 2_000_000_000;
        let gone = |missing: &'static [&str], heeds_pins, age: u64| Gone {
            missing: missing.to_vec(),
            sandbox: Some("pause:3"),
            heeds_pins,
            imported: Some(now - age),
            now,
        };
        for (gone, due) in [
            (gone(&[], true, 2 * SELDOM_S), false),
            (gone(&["app:1"], true, 600), true),
            (gone(&["app:1"], false, 600), false),
            (gone(&["app:1"], false, SELDOM_S - 1), false),
            (gone(&["app:1"], false, SELDOM_S), true),
            (gone(&["app:1", "pause:3"], false, 600), true),
            (Gone { sandbox: None, ..gone(&["pause:3"], false, 600) }, false),
            (Gone { imported: None, ..gone(&["app:1"], false, 600) }, true),
            // Imported while the clock was ahead.
            (Gone { imported: Some(now + SELDOM_S), ..gone(&["app:1"], false, 0) }, true),
        ] {
            assert_eq!(is_due(&gone), due, "{gone:?}");
        }
    }
}
