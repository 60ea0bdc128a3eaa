//! What the acts on images do: import, remove, verify.
//!
//! Owns the work with privileges of its own unit, outside the daemon, so that a
//! daemon that dies ends none of it. Each may be done twice, decides nothing,
//! and writes down how it ended only when that is on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::check::{self, Fault};
use super::held;
use super::look::{Doubt, Look, Seen};
use crate::containerd::{CallError, Client, Image};
use crate::error::Chain;
use crate::facts::archive::{self, Contents, TarError};
use crate::inventory::Inventory;
use crate::ordered::Ordered as _;
use crate::paths::{self, CONTAINERD_ROOT, CONTAINERD_SOCKET, IMAGES_CHECKED};
use crate::sys::exec::ExecError;
use crate::sys::packed::Packed;
use crate::sys::sink::NoRoom;
use crate::sys::{FileError, Root, atomic, exec, host, machine, space};
use crate::wire::json;

/// For a question to containerd by its own program.
const QUICK: Duration = Duration::from_secs(30);

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
    /// It would leave too little free.
    #[error("no room for its images in {CONTAINERD_ROOT}")]
    NoRoom(#[source] NoRoom),
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
    /// Bytes that it needs in containerd's root, where there was no room for
    /// them.
    #[serde(default)]
    pub lacks: Option<u64>,
    /// It brings the sandbox image, without which no pod starts.
    #[serde(default)]
    pub is_urgent: bool,
}

/// Which archive is imported, and how.
#[derive(Debug, Clone, Copy)]
pub struct Import<'a> {
    /// Digest of the archive.
    pub sha256: &'a str,
    /// ctr has to be told to do it by itself (2.x).
    pub is_local: bool,
    /// What an interrupted import left is removed first.
    pub again: bool,
    /// The sandbox image that the assignment names.
    pub sandbox: Option<&'a str>,
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// All its names.
    pub names: Vec<String>,
    /// What is wrong.
    pub why: String,
    /// Chain id of the unpacked layer that is damaged.
    #[serde(default)]
    pub chain: Option<String>,
    /// Digest of the blob that is damaged.
    #[serde(default)]
    pub blob: Option<String>,
    /// Running containers that stand on that layer, which therefore stays.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// It was removed in this boot, and that layer or blob stayed all the same,
    /// without a running container on it.
    #[serde(default)]
    pub is_stuck: bool,
}

/// Imports an archive and makes that durable.
///
/// # Errors
/// What the journal shall say; the daemon finds it in the result.
pub async fn import(root: &Root, tool: &Tool, wanted: Import<'_>) -> Result<(), ImageError> {
    let mut result = Imported { boot_id: host::boot_id(root).unwrap_or_default(), ..Imported::default() };
    let done = import_archive(root, tool, wanted, &mut result).await;
    if let Err(error) = &done {
        result.error = Some(Chain(error).to_string());
    }
    let bytes = serde_json::to_vec(&result)?;
    atomic::write_volatile(root, &paths::imported(wanted.sha256), &bytes, 0o600)?;
    done
}

async fn import_archive(
    root: &Root,
    tool: &Tool,
    Import { sha256, is_local, again, sandbox }: Import<'_>,
    result: &mut Imported,
) -> Result<(), ImageError> {
    let path = paths::image_archive(sha256);
    if !matches!(check::has_digest(root, &path, sha256), Ok(true)) {
        result.is_archive_bad = true;
        return Err(ImageError::Changed(path));
    }
    let mut contents = contents_of(root, &path)?;
    let names = contents.names.clone();
    if names.is_empty() {
        return Err(ImageError::NoName(path));
    }
    if again && remove_once(root, tool, (sha256, &result.boot_id), &names).await? {
        contents = contents_of(root, &path)?;
    }
    let unpacked = if tool.snapshotter == "overlayfs" { contents.unpacked } else { 0 };
    let needed = contents.blobs.saturating_add(unpacked);
    result.is_urgent = sandbox.is_some_and(|sandbox| names.iter().any(|name| name == sandbox));
    room(root, needed, result.is_urgent).map_err(|no_room| {
        result.lacks = Some(needed);
        ImageError::NoRoom(no_room)
    })?;
    run_import(root, tool, &path, is_local)?;
    let client = Client::connect(root).await?;
    let there: BTreeSet<String> = client.images().await?.into_iter().map(|image| image.name).into_set();
    if let Some(missing) = names.iter().find(|name| !there.contains(*name)) {
        return Err(ImageError::Absent(missing.clone()));
    }
    // Unpacked layers are not synced by containerd (containerd#9401).
    root.sync_fs(CONTAINERD_ROOT)?;
    result.images = names;
    Ok(())
}

fn contents_of(root: &Root, path: &str) -> Result<Contents, ImageError> {
    let is_there = |hex: &str| root.exists(&check::blob(hex));
    let contents = archive::contents(&mut Packed::open(root, path)?, &is_there);
    contents.map_err(|source| ImageError::NoArchive { path: path.to_owned(), source })
}

/// Removes what an interrupted import left of these images; whether it did.
/// Once in a boot: an import that fails again and again must not take away
/// each time what came back in between. What runs stays: its layers would stay
/// below it, and a look finds them if they are damaged.
async fn remove_once(
    root: &Root,
    tool: &Tool,
    (sha256, boot_id): (&str, &str),
    names: &[String],
) -> Result<bool, ImageError> {
    let path = paths::images_removed(sha256);
    if root.read_text(&path)?.as_deref() == Some(boot_id) {
        return Ok(false);
    }
    let client = Client::connect(root).await?;
    let images = client.images().await?;
    let running = containers(tool).await?.into_iter().filter(|it| it.has_task).map(|it| it.image);
    let used = alike(&images, &running.collect::<Vec<_>>());
    let free: Vec<&str> = alike(&images, names).into_iter().filter(|name| !used.contains(name)).collect();
    remove_all(&client, tool, &free).await?;
    atomic::write_volatile(root, &path, boot_id.as_bytes(), 0o600)?;
    Ok(true)
}

/// Whether `needed` bytes more leave enough free in containerd's root; what is
/// urgent may take of that too. What is not told is no reason to refuse, and
/// nothing always fits.
pub(super) fn room(root: &Root, needed: u64, is_urgent: bool) -> Result<(), NoRoom> {
    let Ok(told) = machine::space(root, CONTAINERD_ROOT) else { return Ok(()) };
    let (free, total) = (told.available_bytes, told.total_bytes);
    let fits = needed == 0 || (is_urgent && needed <= free) || space::fits(needed, (free, total));
    if fits { Ok(()) } else { Err(NoRoom { needed, free, total, stays: space::floor(total) }) }
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
    remove_all(&client, tool, &alike(&images, names)).await
}

/// Every name of the images that have one of `names`.
fn alike<'a>(images: &'a [Image], names: &[String]) -> Vec<&'a str> {
    let named = images.iter().filter(|image| names.contains(&image.name));
    let targets: BTreeSet<&str> = named.map(|image| image.digest.as_str()).into_set();
    let all = images.iter().filter(|image| targets.contains(image.digest.as_str()));
    all.map(|image| image.name.as_str()).collect()
}

async fn remove_all(client: &Client, tool: &Tool, names: &[&str]) -> Result<(), ImageError> {
    let is_dead = |it: &Container| !it.has_task && names.contains(&it.image.as_str());
    for it in containers(tool).await?.iter().filter(|it| is_dead(it)) {
        ctr(tool, &["containers", "rm", &it.id]).await?;
    }
    for name in names {
        client.delete_image(name).await?;
    }
    Ok(())
}

pub(super) async fn ctr(tool: &Tool, words: &[&str]) -> Result<String, ImageError> {
    let args = [&["-a", CONTAINERD_SOCKET, "-n", "k8s.io"], words].concat();
    let output = exec::run(&tool.ctr, &args, QUICK).await?;
    said(&words.iter().take(2).copied().collect::<Vec<_>>().join(" "), &output)?;
    Ok(output.stdout)
}

struct Container {
    id: String,
    image: String,
    has_task: bool,
}

async fn containers(tool: &Tool) -> Result<Vec<Container>, ImageError> {
    let list = ctr(tool, &["containers", "ls"]).await?;
    let with_tasks = ctr(tool, &["tasks", "ls", "-q"]).await?;
    let with_tasks: BTreeSet<&str> = with_tasks.lines().map(str::trim).into_set();
    let container = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, image) = (words.next()?, words.next()?);
        Some(Container { id: id.to_owned(), image: image.to_owned(), has_task: with_tasks.contains(id) })
    };
    Ok(list.lines().skip(1).filter_map(container).collect())
}

/// Looks at all images of the store, and writes down what it found. What was
/// written before `since` is looked at again only for the images that the host
/// was told to have.
///
/// # Errors
/// When containerd does not answer, also half-way: then nothing is written down.
pub async fn verify(root: &Root, tool: &Tool, since: u64, sandbox: Option<&str>) -> Result<(), ImageError> {
    let client = Client::connect(root).await?;
    let mut by_target: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for image in client.images().await? {
        by_target.entry(image.digest).or_default().push(image.name);
    }
    let told: BTreeSet<String> =
        Inventory::load(root).archives.into_values().flat_map(|it| it.images).collect();
    let mut checked = Checked { boot_id: host::boot_id(root)?, ..Checked::default() };
    let is_told =
        |names: &[String]| names.iter().any(|name| told.contains(name) || Some(name.as_str()) == sandbox);
    // Those first: what is found of their layers counts for all images that share them.
    let (first, others): (Vec<_>, Vec<_>) = by_target.into_iter().partition(|(_, names)| is_told(names));
    let mut seen = Seen::new();
    for (target, names) in first.into_iter().chain(others) {
        let is_told = is_told(&names);
        checked.images += 1;
        let look = Look { root, tool, client: &client, since: if is_told { 0 } else { since }, is_told };
        match look.image(&target, &mut seen).await {
            Ok(()) => {}
            Err(Doubt::Fault(Fault::Damaged { why, chain, blob })) => {
                checked.damaged.push(Damaged { names, why, chain, blob, ..Damaged::default() });
            }
            Err(Doubt::Fault(Fault::Unread(why))) => {
                checked.unread.push(format!("{}: {why}", names.join(", ")));
            }
            Err(Doubt::Lost(error)) => return Err(error),
        }
    }
    note(root, tool, checked).await
}

/// Looks once more who uses what the last check of this boot found damaged, and
/// at nothing else.
///
/// # Errors
/// When there was no check, or containerd does not answer.
pub async fn verify_again(root: &Root, tool: &Tool) -> Result<(), ImageError> {
    let checked = root.read(IMAGES_CHECKED)?.unwrap_or_default();
    note(root, tool, json::read(&checked)?).await
}

async fn note(root: &Root, tool: &Tool, mut checked: Checked) -> Result<(), ImageError> {
    held::by_running(tool, &mut checked.damaged).await?;
    atomic::write_volatile(root, IMAGES_CHECKED, &serde_json::to_vec(&checked)?, 0o600)?;
    Ok(())
}

/// What an act left in this boot.
pub(super) fn left<T: serde::de::DeserializeOwned>(root: &Root, path: &str) -> Option<T> {
    let bytes = root.read(path).ok().flatten()?;
    json::read(&bytes).map_err(|error| tracing::debug!(EDGE_PATH = path, EDGE_REASON = %Chain(&error), "an act's result cannot be read")).ok()
}
