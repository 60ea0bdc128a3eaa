//! What the acts on images do: import, remove, verify.
//!
//! Owns the work with privileges of its own unit, outside the daemon, so that a
//! daemon that dies ends none of it. Each may be done twice, decides nothing,
//! and writes down how it ended only when that is on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::check::{self, Fault, Layer};
use crate::containerd::{CallError, Client};
use crate::error::Chain;
use crate::facts::archive::{self, TarError};
use crate::inventory::Inventory;
use crate::paths::{self, CONTAINERD_ROOT, CONTAINERD_SOCKET};
use crate::sys::exec::ExecError;
use crate::sys::packed::Packed;
use crate::sys::{FileError, Root, atomic, exec, host};

/// For a question to containerd by its own program.
const QUICK: Duration = Duration::from_secs(30);
/// Name of the view through which directories of layers are found.
const VIEW: &str = "edge-bootstrap-check";

/// Why an act on images was not done.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The archive on disk is another one than was fetched.
    #[error("{0} does not have its digest any more")]
    Changed(String),
    /// It holds something else.
    #[error("{path} is no archive of images")]
    NoArchive {
        /// The archive.
        path: String,
        /// Why.
        #[source]
        source: TarError,
    },
    /// Nothing could be found by a name.
    #[error("{0} names no image: neither its index.json nor its manifest.json does")]
    NoName(String),
    /// containerd took it and has it not.
    #[error("after the import there is no {0}")]
    Absent(String),
    /// ctr said no.
    #[error("ctr {what}: {words}")]
    Ctr {
        /// What it was asked.
        what: String,
        /// The last line of what it said.
        words: String,
    },
    /// ctr or the program that unpacks could not be run to its end.
    #[error("feed ctr")]
    Feed(#[source] std::io::Error),
    /// ctr could not be run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// containerd did not answer.
    #[error("ask containerd")]
    Call(#[from] CallError),
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// No JSON, or another one than is known.
    #[error("read or write JSON")]
    Json(#[from] serde_json::Error),
}

/// containerd's own program, and what it must be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Path of ctr, of the same package as the daemon.
    pub ctr: String,
    /// Snapshotter of the CRI.
    pub snapshotter: String,
}

/// How an import ended, in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Boot in which it did.
    pub boot_id: String,
    /// Names of the images that it brought; empty when it failed.
    pub images: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// The archive is not what it was when it was fetched.
    pub is_archive_bad: bool,
}

/// What a check found, in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Boot in which it looked.
    pub boot_id: String,
    /// How many images it looked at.
    pub images: u64,
    /// What is wrong, by the names of the image.
    pub damaged: Vec<Damaged>,
    /// What could not be looked at, and why.
    pub unread: Vec<String>,
}

/// One image that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// All its names.
    pub names: Vec<String>,
    /// What is wrong.
    pub why: String,
}

/// Imports the archive with this digest and makes that durable.
///
/// # Errors
/// What the journal shall say; the daemon finds it in the result.
pub async fn import(
    root: &Root,
    tool: &Tool,
    sha256: &str,
    (is_local, again): (bool, bool),
) -> Result<(), ImageError> {
    let mut result = Imported { boot_id: host::boot_id(root).unwrap_or_default(), ..Imported::default() };
    let done = import_archive(root, tool, sha256, (is_local, again), &mut result).await;
    if let Err(error) = &done {
        result.error = Some(Chain(error).to_string());
    }
    let bytes = serde_json::to_vec(&result)?;
    atomic::write_volatile(root, &paths::imported(sha256), &bytes, 0o600)?;
    done
}

async fn import_archive(
    root: &Root,
    tool: &Tool,
    sha256: &str,
    (is_local, again): (bool, bool),
    result: &mut Imported,
) -> Result<(), ImageError> {
    let path = paths::image_archive(sha256);
    if !matches!(check::has_digest(root, &path, sha256), Ok(true)) {
        result.is_archive_bad = true;
        return Err(ImageError::Changed(path));
    }
    let names = archive::image_names(&mut Packed::open(root, &path)?);
    let names = names.map_err(|source| ImageError::NoArchive { path: path.clone(), source })?;
    if names.is_empty() {
        return Err(ImageError::NoName(path));
    }
    if again {
        remove(root, tool, &names).await?;
    }
    run_import(root, tool, &path, is_local)?;
    let client = Client::connect(root).await?;
    let there: BTreeSet<String> = client.images().await?.into_iter().map(|image| image.name).collect();
    if let Some(missing) = names.iter().find(|name| !there.contains(*name)) {
        return Err(ImageError::Absent(missing.clone()));
    }
    // Unpacked layers are not synced by containerd (containerd#9401).
    root.sync_fs(CONTAINERD_ROOT)?;
    result.images = names;
    Ok(())
}

/// No version of ctr that imports by itself (`--local`, all of 1.x) unpacks a
/// compressed archive, so it gets it plain.
fn run_import(root: &Root, tool: &Tool, path: &str, is_local: bool) -> Result<(), ImageError> {
    let mut args = vec!["-a", CONTAINERD_SOCKET, "-n", "k8s.io", "images", "import"];
    if is_local {
        args.push("--local");
    }
    args.extend(["--snapshotter", tool.snapshotter.as_str(), "-"]);
    let output = Packed::open(root, path)?.feed(&tool.ctr, &args).map_err(ImageError::Feed)?;
    said("images import", &output)
}

fn said(what: &str, output: &exec::Output) -> Result<(), ImageError> {
    if output.code == Some(0) {
        return Ok(());
    }
    let words = output.stderr.lines().last().unwrap_or_default().trim_start_matches("ctr: ");
    Err(ImageError::Ctr { what: what.to_owned(), words: words.to_owned() })
}

/// Removes every name of the images that have one of `names`, and containers of
/// theirs that do not run: each of them would keep the layers.
///
/// # Errors
/// When containerd does not do it.
pub async fn remove(root: &Root, tool: &Tool, names: &[String]) -> Result<(), ImageError> {
    let client = Client::connect(root).await?;
    let images = client.images().await?;
    let targets: BTreeSet<&str> = images
        .iter()
        .filter(|image| names.contains(&image.name))
        .map(|image| image.digest.as_str())
        .collect();
    let all = images.iter().filter(|image| targets.contains(image.digest.as_str()));
    let all: Vec<&str> = all.map(|image| image.name.as_str()).collect();
    remove_dead_containers(tool, &all).await?;
    for name in all {
        client.delete_image(name).await?;
    }
    Ok(())
}

async fn ctr(tool: &Tool, words: &[&str]) -> Result<String, ImageError> {
    let args = [&["-a", CONTAINERD_SOCKET, "-n", "k8s.io"], words].concat();
    let output = exec::run(&tool.ctr, &args, QUICK).await?;
    said(&words.iter().take(2).copied().collect::<Vec<_>>().join(" "), &output)?;
    Ok(output.stdout)
}

async fn remove_dead_containers(tool: &Tool, images: &[&str]) -> Result<(), ImageError> {
    let list = ctr(tool, &["containers", "ls"]).await?;
    let with_tasks = ctr(tool, &["tasks", "ls", "-q"]).await?;
    let with_tasks: BTreeSet<&str> = with_tasks.lines().map(str::trim).collect();
    for line in list.lines().skip(1) {
        let mut words = line.split_whitespace();
        let (Some(id), Some(image)) = (words.next(), words.next()) else { continue };
        if images.contains(&image) && !with_tasks.contains(id) {
            ctr(tool, &["containers", "rm", id]).await?;
        }
    }
    Ok(())
}

/// Looks at all images of the store, and writes down what it found. What was
/// written before `since` is looked at again only for the images that the host
/// was told to have.
///
/// # Errors
/// When containerd does not answer.
pub async fn verify(root: &Root, tool: &Tool, since: u64, sandbox: Option<&str>) -> Result<(), ImageError> {
    let client = Client::connect(root).await?;
    let mut by_target: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for image in client.images().await? {
        by_target.entry(image.digest).or_default().push(image.name);
    }
    let told: BTreeSet<String> =
        Inventory::load(root).archives.into_values().flat_map(|it| it.images).collect();
    let mut checked = Checked { boot_id: host::boot_id(root)?, ..Checked::default() };
    let mut seen = BTreeMap::new();
    for (target, names) in by_target {
        let is_told = names.iter().any(|name| told.contains(name) || Some(name.as_str()) == sandbox);
        checked.images += 1;
        let look = Look { root, tool, client: &client, since: if is_told { 0 } else { since }, is_told };
        match look.image(&target, &mut seen).await {
            Ok(()) => {}
            Err(Fault::Damaged(why)) => checked.damaged.push(Damaged { names, why }),
            Err(Fault::Unread(why)) => checked.unread.push(format!("{}: {why}", names.join(", "))),
        }
    }
    atomic::write_volatile(root, paths::IMAGES_CHECKED, &serde_json::to_vec(&checked)?, 0o600)?;
    Ok(())
}

/// What was found of each layer, by chain id: many images share some.
type Seen = BTreeMap<String, Result<(), Fault>>;

/// How one image is looked at.
struct Look<'a> {
    root: &'a Root,
    tool: &'a Tool,
    client: &'a Client,
    since: u64,
    is_told: bool,
}

impl Look<'_> {
    async fn image(&self, target: &str, seen: &mut Seen) -> Result<(), Fault> {
        let layers = check::blobs(self.root, target, self.since)?;
        let Some(top) = layers.last() else { return Ok(()) };
        let unread = |error: &(dyn std::error::Error + 'static)| Fault::Unread(Chain(error).to_string());
        let has_top = self.client.has_snapshot(&self.tool.snapshotter, &top.chain).await;
        match has_top.map_err(|error| unread(&error))? {
            // Somebody may have images that are not unpacked.
            false if self.is_told => return Err(Fault::Damaged("it is not unpacked".to_owned())),
            false => return Ok(()),
            true => {}
        }
        // Layers on a thin pool are synced when they are unmounted after unpacking.
        if self.tool.snapshotter != "overlayfs" {
            return Ok(());
        }
        let directories = directories(self.tool, &layers).await;
        let directories = directories.map_err(|error| unread(&error))?;
        self.layers(&layers, &directories, seen)
    }

    fn layers(&self, layers: &[Layer], directories: &[String], seen: &mut Seen) -> Result<(), Fault> {
        for (Layer { blob, chain }, directory) in layers.iter().zip(directories) {
            let made = self.root.stat(directory).ok().flatten().and_then(|it| u64::try_from(it.ctime).ok());
            if made.is_some_and(|made| made < self.since) {
                continue;
            }
            let found = seen.entry(chain.clone()).or_insert_with(|| check::layer(self.root, blob, directory));
            found.clone()?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Source")]
    source: String,
    #[serde(rename = "Options")]
    options: Vec<String>,
}

/// Where the layers lie, the lowest first. Only a view tells.
async fn directories(tool: &Tool, layers: &[Layer]) -> Result<Vec<String>, ImageError> {
    let top = layers.last().map(|layer| layer.chain.as_str()).unwrap_or_default();
    let snapshots = |words: &[&str]| {
        let mut all = vec!["snapshots".to_owned(), "--snapshotter".to_owned(), tool.snapshotter.clone()];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    };
    let run = async |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ctr(tool, &words).await
    };
    // One that a killed check left.
    let _ = run(snapshots(&["rm", VIEW])).await;
    let text = run(snapshots(&["view", "--mounts", VIEW, top])).await?;
    run(snapshots(&["rm", VIEW])).await?;
    let mounts: Vec<Mount> = serde_json::from_str(&text)?;
    let directories = mounts.first().map(lower).unwrap_or_default();
    if directories.len() == layers.len() {
        return Ok(directories);
    }
    Err(ImageError::Ctr {
        what: "snapshots view".to_owned(),
        words: "other layers than the image has".to_owned(),
    })
}

/// Lower directories of a view's mount, the lowest first.
fn lower(mount: &Mount) -> Vec<String> {
    if mount.kind == "bind" {
        return vec![mount.source.clone()];
    }
    let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    lower.unwrap_or_default().split(':').rev().filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

/// What an act left in this boot.
pub(super) fn left<T: serde::de::DeserializeOwned>(root: &Root, path: &str) -> Option<T> {
    let bytes = root.read(path).ok().flatten()?;
    serde_json::from_slice(&bytes).map_err(|error| tracing::debug!(EDGE_PATH = path, EDGE_REASON = %Chain(&error), "an act's result cannot be read")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_a_view_come_from_the_lowest() {
        let mount = |kind: &str, source: &str, options: &[&str]| Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        assert_eq!(lower(&mount("bind", "/s/1/fs", &["ro", "rbind"])), ["/s/1/fs"]);
        let overlay = mount("overlay", "overlay", &["index=off", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"]);
        assert_eq!(lower(&overlay), ["/s/1/fs", "/s/2/fs", "/s/3/fs"]);
    }
}
