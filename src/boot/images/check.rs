//! Whether images in containerd's store are what they should be, by reading.
//!
//! Owns the comparison of blobs with their digests, and of unpacked layers with
//! the tars that they came from. A power cut leaves files of an unsynced layer
//! empty while containerd calls it complete (containerd#9401), and nothing of
//! containerd's own would notice. Changes nothing.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::facts::archive::{self, Kind};
use crate::paths::CONTAINERD_ROOT;
use crate::sys::Root;
use crate::sys::packed::Packed;
use crate::sys::sink;
use crate::wire::json;

/// Damage in words, or why it could not be looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is damaged.
    Damaged {
        /// How.
        why: String,
        /// Chain id of the unpacked layer that is.
        chain: Option<String>,
        /// Digest of the blob that is.
        blob: Option<String>,
    },
    /// It could not be read, or is no image of a container.
    Unread(String),
}

impl Fault {
    /// A damage that is in no unpacked layer.
    pub(super) fn damaged(why: impl Into<String>) -> Self {
        Self::Damaged { why: why.into(), chain: None, blob: None }
    }

    /// The blob `digest` is damaged.
    fn of_blob(digest: &str, what: &str) -> Self {
        Self::Damaged { why: format!("blob {digest}: {what}"), chain: None, blob: Some(digest.to_owned()) }
    }

    /// The same in the unpacked layer `layer`.
    pub(super) fn within(self, layer: &str) -> Self {
        match self {
            Self::Damaged { why, .. } => Self::Damaged { why, chain: Some(layer.to_owned()), blob: None },
            Self::Unread(_) => self,
        }
    }
}

/// One layer: its blob, and the name of the snapshot that it was unpacked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// Digest of the blob.
    pub(super) blob: String,
    /// Its chain id, which is the name of its snapshot.
    pub(super) chain: String,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    /// What is not told may be ours.
    fn is_ours(&self) -> bool {
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        matches!(self.os.as_str(), "" | "linux")
            && (self.architecture.is_empty() || self.architecture == here)
    }

    /// For another machine; an attestation is for none (`unknown`).
    fn is_foreign(&self) -> bool {
        !self.is_ours() && self.os != "unknown"
    }

    /// Every machine of the architecture runs it (containerd: `platforms/defaults_unix.go`).
    fn is_plain(&self) -> bool {
        matches!(self.variant.as_str(), "" | "v1" | "v8")
    }
}

/// A manifest, or an index of some.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// One manifest of an image for machines like this one.
#[derive(Debug)]
pub(super) struct Reading {
    /// Configuration and layers.
    parts: Vec<Descriptor>,
    /// Its layers, the lowest first.
    pub(super) layers: Vec<Layer>,
}

impl Reading {
    /// Looks at every blob. What was written before `since` (seconds since
    /// 1970) is not hashed again.
    pub(super) fn whole(&self, root: &Root, since: u64) -> Result<(), Fault> {
        self.parts.iter().try_for_each(|part| whole(root, part, since))
    }
}

/// Path of a blob.
pub(super) fn blob(digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    format!("{CONTAINERD_ROOT}/io.containerd.content.v1.content/blobs/sha256/{hex}")
}

/// Nothing when one of `readings` is whole, or there is none; else what is wrong
/// with the first that is damaged.
pub(super) fn one_whole(root: &Root, readings: &[Result<Reading, Fault>], since: u64) -> Result<(), Fault> {
    let mut first: Option<Fault> = None;
    for reading in readings {
        match reading.as_ref().map_err(Fault::clone).and_then(|reading| reading.whole(root, since)) {
            Ok(()) => return Ok(()),
            Err(fault) if matches!(first, None | Some(Fault::Unread(_))) => first = Some(fault),
            Err(_) => {}
        }
    }
    first.map_or(Ok(()), Err)
}

/// What the store has of the image whose manifest or index is `target`: several
/// where its index names several for machines like this one. None for an image
/// of other machines only. `must_be` is whether the host was told to have it.
pub(super) fn readings(
    root: &Root,
    target: &str,
    must_be: bool,
) -> Result<Vec<Result<Reading, Fault>>, Fault> {
    let document = read::<Document>(root, target)?;
    if document.manifests.is_empty() {
        return Ok(vec![reading(root, target, document).map(|(reading, _)| reading)]);
    }
    let is_told = document.manifests.iter().any(|entry| platform(entry).is_some_and(Platform::is_ours));
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for entry in document.manifests.iter().filter(|entry| match platform(entry) {
        Some(told) => told.is_ours(),
        None => !is_told,
    }) {
        match present(root, entry) {
            Some(Ok((reading, platform))) if is_told || platform.is_ours() => found.push(Ok(reading)),
            Some(Ok(_)) => {}
            Some(Err(fault)) => found.push(Err(fault)),
            None => absent.push(entry),
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    // Somebody may want that of another machine, and only that.
    let is_foreign = |entry: &Descriptor| platform(entry).is_some_and(Platform::is_foreign);
    let has_foreign =
        document.manifests.iter().any(|entry| is_foreign(entry) && root.exists(&blob(&entry.digest)));
    // One that runs on all machines must be there when no other is.
    let plain = absent.iter().find(|entry| platform(entry).is_some_and(Platform::is_plain));
    match plain.filter(|_| must_be || !has_foreign) {
        Some(entry) => Err(Fault::of_blob(&entry.digest, "is gone")),
        None if absent.is_empty() => Ok(Vec::new()),
        None => Err(Fault::Unread(format!("{target} names no image of which anything is here"))),
    }
}

/// Some write an empty one instead of none.
fn platform(entry: &Descriptor) -> Option<&Platform> {
    entry.platform.as_ref().filter(|platform| !platform.os.is_empty())
}

/// A manifest of an index, when its blob is there.
fn present(root: &Root, entry: &Descriptor) -> Option<Result<(Reading, Platform), Fault>> {
    if !root.exists(&blob(&entry.digest)) {
        return None;
    }
    Some(read(root, &entry.digest).and_then(|document| reading(root, &entry.digest, document)))
}

fn reading(root: &Root, target: &str, document: Document) -> Result<(Reading, Platform), Fault> {
    let Some(config) = document.config else {
        return Err(Fault::Unread(format!("{target} is no manifest of an image")));
    };
    let Config { os, architecture, rootfs } = read(root, &config.digest)?;
    let platform = Platform { os, architecture, variant: String::new() };
    let chains = chain_ids(&rootfs.diff_ids);
    let blobs = document.layers.iter().map(|layer| layer.digest.clone());
    let layers = blobs.zip(chains).map(|(blob, chain)| Layer { blob, chain }).collect();
    let mut parts = document.layers;
    parts.push(config);
    Ok((Reading { parts, layers }, platform))
}

/// What is whole by its digest and still not understood is something else than
/// an image of a container, and no damage.
fn read<T: serde::de::DeserializeOwned>(root: &Root, digest: &str) -> Result<T, Fault> {
    let path = blob(digest);
    let bytes = root.read(&path).map_err(|error| Fault::Unread(error.to_string()))?;
    let bytes = bytes.ok_or_else(|| Fault::of_blob(digest, "is gone"))?;
    match json::read(&bytes) {
        Ok(value) => Ok(value),
        Err(error) if has_digest(root, &path, digest)? => {
            Err(Fault::Unread(format!("blob {digest} is of no image of a container: {error}")))
        }
        Err(error) => Err(Fault::of_blob(digest, &error.to_string())),
    }
}

/// Size always, content where it is young.
fn whole(root: &Root, part: &Descriptor, since: u64) -> Result<(), Fault> {
    let damaged = |what: &str| Fault::of_blob(&part.digest, what);
    let path = blob(&part.digest);
    let stat = root.stat(&path).map_err(|error| Fault::Unread(error.to_string()))?;
    let stat = stat.ok_or_else(|| damaged("is gone"))?;
    if stat.size != part.size {
        return Err(damaged(&format!("has {} bytes instead of {}", stat.size, part.size)));
    }
    if is_young(stat.ctime, since) && !has_digest(root, &path, &part.digest)? {
        return Err(damaged("has another content"));
    }
    Ok(())
}

fn is_young(ctime: i64, since: u64) -> bool {
    u64::try_from(ctime).unwrap_or(0) >= since
}

/// Whether the file at `path` has this SHA-256; `sha256:` in front may be.
pub(super) fn has_digest(root: &Root, path: &str, digest: &str) -> Result<bool, Fault> {
    let found = sink::digest_of(root, path).map_err(|error| Fault::Unread(chain(&error)))?;
    Ok(found == digest.trim_start_matches("sha256:"))
}

/// `chainID₁ = diffID₁`, `chainIDₙ = sha256(chainIDₙ₋₁ + " " + diffIDₙ)` (OCI image-spec, config.md).
fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let chain = match chains.last() {
            None => diff_id.clone(),
            Some(below) => format!("sha256:{}", hex(&format!("{below} {diff_id}"))),
        };
        chains.push(chain);
    }
    chains
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares the directories and files of an unpacked layer with the tar that it
/// came from, files by their sizes.
pub(super) fn layer(root: &Root, digest: &str, directory: &str) -> Result<(), Fault> {
    let files = files_of(root, digest)?;
    let mut real: BTreeMap<String, bool> = BTreeMap::new();
    // Where a directory is a link, or of a lower layer, what is in it lies elsewhere.
    let mut is_own = |path: &str| {
        // A name that is no UTF-8 cannot be looked up: it proves nothing.
        if path.contains('\u{fffd}') {
            return false;
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        match real.entry(parent.to_owned()) {
            Slot::Occupied(known) => *known.get(),
            Slot::Vacant(slot) => *slot.insert(is_real(root, directory, parent)),
        }
    };
    let is_there = |path: &str| root.exists(&format!("{directory}/{path}"));
    if let Some(path) = files.directories.iter().find(|path| is_own(path) && !is_there(path)) {
        return Err(Fault::damaged(format!("layer {digest}: the directory /{path} is gone")));
    }
    for (path, wanted) in files.sizes.iter().filter(|(path, _)| is_own(path)) {
        let found = root.plain_size(&format!("{directory}/{path}"));
        let found = found.map_err(|error| Fault::Unread(error.to_string()))?;
        if found != Some(*wanted) {
            let found = found.map_or_else(|| "no file".to_owned(), |size| format!("{size} bytes"));
            return Err(Fault::damaged(format!(
                "layer {digest}: /{path} has {found} instead of {wanted} bytes"
            )));
        }
    }
    Ok(())
}

/// Whether every directory on the way is one of this layer's own.
fn is_real(root: &Root, directory: &str, parent: &str) -> bool {
    let mut path = directory.to_owned();
    for name in parent.split('/').filter(|name| !name.is_empty()) {
        path = format!("{path}/{name}");
        let is_link = root.read_link(&path).ok().flatten().is_some();
        if is_link || !root.stat(&path).ok().flatten().is_some_and(|stat| stat.is_dir) {
            return false;
        }
    }
    true
}

#[derive(Default)]
struct Files {
    sizes: BTreeMap<String, u64>,
    directories: BTreeSet<String>,
}

/// Directories, and regular files with content, as the tar leaves them at its end.
fn files_of(root: &Root, digest: &str) -> Result<Files, Fault> {
    let unread = |error: String| Fault::Unread(format!("layer {digest}: {error}"));
    let mut tar = Packed::open(root, &blob(digest)).map_err(|error| unread(chain(&error)))?;
    let mut files = Files::default();
    let walked = archive::walk(&mut tar, &mut |entry, _| {
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        if entry.kind == Kind::File && entry.size > 0 && !name.starts_with(".wh.") {
            files.sizes.insert(entry.path.clone(), entry.size);
        } else {
            files.sizes.remove(&entry.path);
        }
        if entry.kind == Kind::Directory && !entry.path.is_empty() && entry.path != "." {
            files.directories.insert(entry.path.clone());
        } else {
            files.directories.remove(&entry.path);
        }
        Ok(())
    });
    walked.map_err(|error| unread(chain(&error)))?;
    Ok(files)
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    crate::error::Chain(error).to_string()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
