//! Files by digest: k3s's binary, archives of images.
//!
//! Owns the rule that nothing becomes executable, or gets its final name,
//! before its SHA-256 was right, and what is kept of a download that broke off:
//! the next try goes on from there. A program is put in force only after it said
//! who it is. How bytes travel is the caller's [`Download`].

use std::io;

use thiserror::Error;

use super::program;
use crate::binary;
use crate::error::{Chain, ErrorKind, io_cause};
use crate::ordered::sort_by;
use crate::paths;
use crate::plan::binary::Record;
use crate::plan::{PlannedArtifact, PlannedLink};
use crate::role::words::{ArtifactUrl, Sha256Hex};
use crate::sys::root::FileError;
use crate::sys::sink::{NoRoom, Sink};
use crate::sys::{Root, atomic, fault, host, sink, space};
use crate::wire::secret::without_credentials;

/// Where a download stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all, when the other side said so.
    pub total: Option<u64>,
}

/// Brings the bytes of a URL.
pub trait Download {
    /// Asked before anything is done for the file of this digest from `url`.
    ///
    /// # Errors
    /// While it is too early to ask for it again.
    fn ready(&self, url: &str, sha256: &str) -> Result<(), DownloadError> {
        let _ = (url, sha256);
        Ok(())
    }

    /// Told that `url` gave a whole file, and another one than that of this digest.
    fn gave_another(&self, url: &str, sha256: &str) {
        let _ = (url, sha256);
    }

    /// Feeds the bytes of `url` to `sink`, from where it stands if the other
    /// side can, else from the begin of an emptied one. Names their version in
    /// `sink.tag`.
    fn download(
        &self,
        title: &str,
        url: &str,
        sink: &mut Sink,
    ) -> impl Future<Output = Result<(), DownloadError>>;

    /// A file with this digest that is on the host already, by its path.
    fn at_hand(&self, _root: &Root, _sha256: &str) -> impl Future<Output = Option<String>> {
        async { None }
    }
}

/// A download that did not come to its end.
#[derive(Debug, Error)]
#[error("download {}", without_credentials(url))]
pub struct DownloadError {
    /// What was asked for.
    pub url: String,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why an artifact is not there.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// No URL gave the right bytes.
    #[error("{title} could not be fetched: {}", tried.join("; "))]
    NoSource {
        /// What it is.
        title: String,
        /// What each URL gave.
        tried: Vec<String>,
        /// One of them gave a whole file that is another one: no link's fault.
        is_wrong: bool,
    },
    /// There is no room for it.
    #[error("{title}: no space left on the disk of {path}{}; free some, {}", numbers(no_room.as_ref()), kept(*is_kept))]
    Full {
        /// What it is.
        title: String,
        /// Where it should lie.
        path: String,
        /// How much is needed, and how much is free; `None` when the disk itself
        /// took no more.
        no_room: Option<NoRoom>,
        /// What came stays for the next try.
        is_kept: bool,
    },
    /// It has the right digest, and is not the program that was meant.
    #[error("{title}: {why}; what was in force stays so")]
    Unfit {
        /// What it is.
        title: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
}

fn numbers(no_room: Option<&NoRoom>) -> String {
    no_room.map(|it| format!(": {it}")).unwrap_or_default()
}

fn kept(is_kept: bool) -> &'static str {
    if is_kept { "what came stays for the next try" } else { "nothing of it was kept" }
}

impl ArtifactError {
    /// Category of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSource { .. } => ErrorKind::Transient,
            Self::Full { .. } | Self::Unfit { .. } | Self::File(_) => ErrorKind::Environment,
        }
    }

    /// `EB-…`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        if matches!(self, Self::Unfit { .. }) { "EB-k3s-unfit" } else { "EB-apply" }
    }
}

/// A file by digest, and where it shall lie.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What it is, for progress.
    pub title: &'a str,
    /// Where it belongs.
    pub path: &'a str,
    /// Its permission bits.
    pub mode: u32,
    /// Tried in order.
    pub urls: &'a [ArtifactUrl],
    /// SHA-256 that decides.
    pub sha256: &'a Sha256Hex,
    /// Bytes that stay free on a file system of so many bytes.
    pub floor: fn(u64) -> u64,
}

/// Makes sure that the program lies at its place, with its record beside it. It
/// comes under another name, is asked who it is, and only then takes its place.
pub(super) async fn ensure(
    root: &Root,
    artifact: &PlannedArtifact,
    download: &impl Download,
) -> Result<(), ArtifactError> {
    let PlannedArtifact { title, path, urls, sha256, .. } = artifact;
    let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory);
    root.make_dir(directory, 0o755)?;
    // One that is there may be somebody's, with a mode that is theirs to choose.
    if !root.exists(paths::IMPORT) {
        root.make_dir(paths::IMPORT, 0o700)?;
    }
    let new = format!("{path}.new");
    // A file of others has a mode that only they may set: it is not taken up.
    let ours = |at: &&str| atomic::publish(root, at, at, 0o755).is_ok();
    let at = match already(root, [path, &new], sha256).await.filter(ours) {
        Some(at) => at.to_owned(),
        None => {
            let floor = space::program_floor;
            bring(root, Wanted { title, path: &new, mode: 0o600, urls, sha256, floor }, download).await?;
            atomic::publish(root, &new, &new, 0o755)?;
            new.clone()
        }
    };
    if let Err(why) = program::fits(root, artifact, &at).await {
        if at == new {
            // It stays for the next try, and nobody can start it.
            atomic::publish(root, &new, &new, 0o600)?;
        }
        return Err(ArtifactError::Unfit { title: title.clone(), why });
    }
    put_in_place(root, (&at, path), sha256)
}

/// Where the file lies already: a cut came before its record was written, or it
/// was refused before. One that cannot be read is none.
async fn already<'a>(root: &Root, places: [&'a str; 2], sha256: &Sha256Hex) -> Option<&'a str> {
    for place in places.into_iter().filter(|place| root.exists(place)) {
        if sink::digest_beside(root, place).await.is_ok_and(|digest| digest == sha256.as_str()) {
            return Some(place);
        }
    }
    None
}

/// What had the place before is kept beside it: a person may have put it there.
fn put_in_place(root: &Root, (at, path): (&str, &str), sha256: &Sha256Hex) -> Result<(), ArtifactError> {
    if at != path && root.plain_size(path)?.is_some_and(|size| size > 0) {
        // A file of others may not be linked (proc(5): protected_hardlinks).
        let _ = root.hard_link(path, &format!("{path}.replaced"));
    }
    if at != path {
        // A record of the file before it would make the new one a damaged one.
        binary::forget(root, path)?;
    }
    let _ = fault::point("artifact-forgotten");
    atomic::publish(root, at, path, 0o755)?;
    // The record comes last: a binary without it counts as absent.
    let _ = fault::point("artifact-published");
    let record = Record {
        sha256: sha256.to_string(),
        seen: binary::seen(root, path)?,
        boot_id: host::boot_id(root).unwrap_or_default(),
    };
    binary::store(root, path, &record)?;
    Ok(())
}

/// Before another version comes into force, the one before it is noted: it is
/// what a way back needs, and stays.
pub(super) fn keep_previous(root: &Root, link: &PlannedLink) -> Result<(), FileError> {
    let version = |target: &str| {
        let version = target.strip_prefix(paths::K3S_STORE)?.strip_prefix('/')?.strip_suffix("/k3s")?;
        (!version.contains('/')).then(|| version.to_owned())
    };
    if link.path != paths::K3S_LINK {
        return Ok(());
    }
    let now = root.read_link(&link.path)?.filter(|now| *now != link.target);
    match now.as_deref().and_then(version) {
        Some(version) => atomic::link(root, paths::K3S_PREVIOUS, &version).map(|_| ()),
        None => Ok(()),
    }
}

/// Brings the file and gives it its name. What came of a broken download stays
/// as `.part` for the next try; its directory must be there.
///
/// # Errors
/// When no URL gives the right bytes, or the disk does not take them.
pub async fn bring(root: &Root, wanted: Wanted<'_>, download: &impl Download) -> Result<(), ArtifactError> {
    let part = format!("{}.part", wanted.path);
    let mut tried = Vec::new();
    let mut is_wrong = false;
    let at_hand = download.at_hand(root, wanted.sha256.as_str()).await.map(|path| format!("file://{path}"));
    for url in at_hand.as_deref().into_iter().chain(in_order(root, wanted)) {
        match attempt(root, wanted, url, download).await {
            Ok(()) => {
                atomic::publish(root, &part, wanted.path, wanted.mode)?;
                root.remove_file(&tag_file(&part))?;
                return Ok(());
            }
            Err(why) => match fullness(&*why) {
                Some(no_room) => return Err(full(root, wanted, no_room)?),
                None => {
                    is_wrong |= why.is::<Wrong>();
                    tried.push(format!("{}: {}", without_credentials(url), Chain(&*why)));
                }
            },
        }
    }
    Err(ArtifactError::NoSource { title: wanted.title.to_owned(), tried, is_wrong })
}

/// The URL that an earlier try got something from goes first: any other might
/// begin anew, and a list with a bad one in it would never come to its end.
fn in_order<'a>(root: &Root, wanted: Wanted<'a>) -> Vec<&'a str> {
    let tag = root.read_text(&tag_file(&format!("{}.part", wanted.path))).ok().flatten().unwrap_or_default();
    let mut urls: Vec<&str> = wanted.urls.iter().map(ArtifactUrl::as_str).collect();
    let is_tagged = |url: &str| Some(url) == tag.lines().next();
    sort_by(&mut urls, |one, other| is_tagged(one) && !is_tagged(other));
    urls
}

/// What came stays only while it takes nothing of what must stay free, and could
/// lead to the whole one day; else the host has its space back.
fn full(root: &Root, wanted: Wanted<'_>, no_room: Option<NoRoom>) -> Result<ArtifactError, FileError> {
    let part = format!("{}.part", wanted.path);
    let came = root.stat(&part)?.map_or(0, |stat| stat.size);
    let is_kept = came > 0 && no_room.is_some_and(|it| may_fit(it, came));
    if !is_kept {
        drop_part(root, &part)?;
    }
    let (title, path) = (wanted.title.to_owned(), wanted.path.to_owned());
    Ok(ArtifactError::Full { title, path, no_room, is_kept })
}

fn may_fit(NoRoom { needed, free, total, stays }: NoRoom, came: u64) -> bool {
    space::leaves(0, free, stays) && space::leaves(needed.saturating_add(came), total, stays)
}

/// A whole file came, and it is another one.
#[derive(Debug, Error)]
enum Wrong {
    #[error("a web page came instead of the file")]
    Page,
    #[error("its SHA-256 is {found}, wanted {wanted}")]
    Digest { found: String, wanted: String },
}

type Why = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of an earlier try that led to a wrong digest are not to blame on this
/// URL: it is asked once more for the whole.
async fn attempt(root: &Root, wanted: Wanted<'_>, url: &str, download: &impl Download) -> Result<(), Why> {
    // What lies there may be large, and is read in full.
    download.ready(url, wanted.sha256.as_str())?;
    let part = format!("{}.part", wanted.path);
    let mut sink = take_up(root, &part).await?;
    sink.floor = wanted.floor;
    let had = sink.size;
    if had > 0 && sink.is(wanted.sha256.as_str()) {
        return Ok(sink.sync().await?);
    }
    let came = fill(root, (wanted.title, url), &mut sink, download).await;
    if sink.size != had {
        remember_tag(root, &part, (url, &sink))?;
    }
    came?;
    if had > 0 && !sink.is(wanted.sha256.as_str()) {
        sink.clear()?;
        fill(root, (wanted.title, url), &mut sink, download).await?;
    }
    if sink.is(wanted.sha256.as_str()) {
        // Its name is given on the event loop: nothing may be left to sync then.
        return Ok(sink.sync().await?);
    }
    let begin = sink.begin(64).unwrap_or_default();
    let found = sink.digest();
    drop_part(root, &part)?;
    download.gave_another(url, wanted.sha256.as_str());
    let wanted = wanted.sha256.to_string();
    Err(if is_page(&begin) { Wrong::Page } else { Wrong::Digest { found, wanted } }.into())
}

async fn fill(
    root: &Root,
    (title, url): (&str, &str),
    sink: &mut Sink,
    download: &impl Download,
) -> Result<(), Why> {
    let Some(path) = url.strip_prefix("file://") else {
        return Ok(download.download(title, url, sink).await?);
    };
    sink.clear()?;
    Ok(sink.copy(root, path).await?)
}

/// What an earlier try left, hashed again.
async fn take_up(root: &Root, part: &str) -> Result<Sink, Why> {
    let mut sink = Sink::resume(root, part)?;
    sink.catch_up().await?;
    let tag = root.read_text(&tag_file(part)).ok().flatten().filter(|_| sink.size > 0);
    sink.tag = tag.and_then(|tag| tag.lines().nth(1).map(str::to_owned)).filter(|tag| !tag.is_empty());
    Ok(sink)
}

fn tag_file(part: &str) -> String {
    format!("{part}.tag")
}

/// Where it came from, and which version of the file it is of.
fn remember_tag(root: &Root, part: &str, (url, sink): (&str, &Sink)) -> Result<(), FileError> {
    if sink.size == 0 {
        return root.remove_file(&tag_file(part)).map(|_| ());
    }
    let text = format!("{url}\n{}", sink.tag.as_deref().unwrap_or_default());
    atomic::write(root, &tag_file(part), text.as_bytes(), 0o600).map(|_| ())
}

fn drop_part(root: &Root, part: &str) -> Result<(), FileError> {
    root.remove_file(&tag_file(part))?;
    root.remove_file(part)?;
    Ok(())
}

fn is_page(begin: &[u8]) -> bool {
    let text = String::from_utf8_lossy(begin).trim_start().to_ascii_lowercase();
    text.starts_with("<!doctype") || text.starts_with("<html")
}

/// Whether the cause is a full disk, and what it lacks where that is known.
#[must_use]
pub fn fullness(why: &(dyn std::error::Error + 'static)) -> Option<Option<NoRoom>> {
    let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    io_cause(why, &is_full).map(|error| error.get_ref().and_then(|inner| inner.downcast_ref()).copied())
}

#[cfg(test)]
#[path = "artifact_tests.rs"]
mod tests;
