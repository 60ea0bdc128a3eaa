//! What an archive of images says about itself, and what a layer holds.
//!
//! Owns the tar format as far as it is needed (POSIX ustar with pax and GNU
//! long names) and the two indexes of image archives: `index.json` of an OCI
//! layout and `manifest.json` of `docker save`. Reads from what it is given and
//! opens nothing.

use std::io::{self, Read};

use serde::Deserialize;
use thiserror::Error;

use crate::wire::json;

/// Size of a tar block, in bytes.
const BLOCK: usize = 512;
/// Longest name or pax header that is believed, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Largest index that is read, in bytes.
const MAX_INDEX: u64 = 4 << 20;
/// How much larger a compressed layer usually is when it is unpacked.
const RATIO: u64 = 3;

/// Why a tar could not be read to its end.
#[derive(Debug, Error)]
pub enum TarError {
    /// It breaks off, or cannot be read.
    #[error("the archive breaks off or cannot be read")]
    Read(#[from] io::Error),
    /// A header is none.
    #[error("the archive is no tar: a header at byte {0} has a wrong checksum")]
    Header(u64),
    /// A name or an index is larger than it may be.
    #[error("the archive has a name or index of {0} bytes")]
    TooLarge(u64),
}

/// What an entry of a tar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with its content.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A hard link, a device, a pipe.
    Other,
}

/// One entry of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path without a leading `./` or `/`.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
}

/// Names and sizes that come before the header that they belong to.
#[derive(Debug, Default)]
struct Ahead {
    path: Option<String>,
    size: Option<u64>,
}

/// Calls `each` for every entry in order, with its content to read; what it
/// leaves unread is skipped.
///
/// # Errors
/// What breaks off, what is no tar, and what `each` says.
pub fn walk<R: Read>(
    reader: &mut R,
    each: &mut dyn FnMut(&Entry, &mut dyn Read) -> Result<(), TarError>,
) -> Result<(), TarError> {
    let mut ahead = Ahead::default();
    let mut at = 0;
    loop {
        let mut block = [0; BLOCK];
        reader.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let (entry, kind) = header(&block, at)?;
        let size = ahead.size.unwrap_or(entry.size);
        at += BLOCK as u64 + size.next_multiple_of(BLOCK as u64);
        let mut content = Read::take(&mut *reader, size);
        match kind {
            b'L' | b'x' => ahead.note(kind, &read_small(&mut content, size, MAX_EXTENSION)?),
            b'g' | b'K' => {}
            _ => {
                let Ahead { path, .. } = std::mem::take(&mut ahead);
                let path = path.map_or(entry.path, |path| plain(&path));
                each(&Entry { path, kind: entry.kind, size }, &mut content)?;
            }
        }
        skip(&mut content, size)?;
        skip_padding(reader, size)?;
    }
}

impl Ahead {
    fn note(&mut self, kind: u8, bytes: &[u8]) {
        if kind == b'L' {
            self.path = Some(text(bytes));
            return;
        }
        for (key, value) in pax(bytes) {
            match key.as_str() {
                "path" => self.path = Some(value),
                "size" => self.size = value.parse().ok(),
                _ => {}
            }
        }
    }
}

/// Records `LENGTH KEY=VALUE\n` of a pax header.
fn pax(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let length = text(&bytes[..space]).parse().unwrap_or(0);
        let Some(record) = bytes.get(space + 1..length) else { break };
        let record = String::from_utf8_lossy(record);
        if let Some((key, value)) = record.trim_end_matches('\n').split_once('=') {
            found.push((key.to_owned(), value.to_owned()));
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    found
}

fn header(block: &[u8; BLOCK], at: u64) -> Result<(Entry, u8), TarError> {
    // The checksum counts its own eight bytes as spaces.
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    if number(&block[148..156]) != Some(sum) {
        return Err(TarError::Header(at));
    }
    let size = number(&block[124..136]).ok_or(TarError::Header(at))?;
    let name = text(&block[..100]);
    let prefix = text(&block[345..500]);
    let is_ustar = block[257..262] == *b"ustar" && block[263] == b'0';
    let name = if is_ustar && !prefix.is_empty() { format!("{prefix}/{name}") } else { name };
    let kind = match block[156] {
        0 | b'0' | b'7' => Kind::File,
        b'5' => Kind::Directory,
        b'2' => Kind::Link,
        _ => Kind::Other,
    };
    // Links and directories have no content, whatever their field says.
    let size = if matches!(block[156], b'1'..=b'6') { 0 } else { size };
    Ok((Entry { path: plain(&name), kind, size }, block[156]))
}

/// Octal text, or GNU's binary form for large numbers.
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let tail = field.get(field.len().saturating_sub(8)..)?;
        return Some(u64::from_be_bytes(tail.try_into().ok()?));
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// Up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn plain(path: &str) -> String {
    path.trim_start_matches("./").trim_matches('/').to_owned()
}

fn read_small(content: &mut dyn Read, size: u64, limit: u64) -> Result<Vec<u8>, TarError> {
    if size > limit {
        return Err(TarError::TooLarge(size));
    }
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads what is left of `content`; less than announced is an archive that breaks off.
fn skip<R: Read>(content: &mut io::Take<R>, size: u64) -> Result<(), TarError> {
    io::copy(content, &mut io::sink())?;
    if size > 0 && content.limit() > 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(())
}

fn skip_padding<R: Read>(reader: &mut R, size: u64) -> Result<(), TarError> {
    let padding = size.next_multiple_of(BLOCK as u64) - size;
    let mut rest = [0; BLOCK];
    let end = usize::try_from(padding).unwrap_or(0);
    reader.read_exact(&mut rest[..end])?;
    Ok(())
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Saved {
    #[serde(default, rename = "RepoTags")]
    tags: Option<Vec<String>>,
}

/// What an archive of images brings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Names of the images, as containerd will call them; empty for a tar that
    /// is none of images.
    pub names: Vec<String>,
    /// Bytes of content that the store does not have yet.
    pub blobs: u64,
    /// What those are when they are unpacked, in bytes: as large as they are
    /// where they are plain, else by the ratio of usual layers.
    pub unpacked: u64,
}

impl Contents {
    fn add(&mut self, size: u64, begin: &[u8]) {
        let ratio = if matches!(begin, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]) { RATIO } else { 1 };
        self.blobs = self.blobs.saturating_add(size);
        self.unpacked = self.unpacked.saturating_add(size.saturating_mul(ratio));
    }
}

/// Reads an archive to its end; `is_there` tells whether the store has the
/// content with this digest (hexadecimal) already.
///
/// # Errors
/// When it breaks off or is no tar.
pub fn contents<R: Read>(reader: &mut R, is_there: &dyn Fn(&str) -> bool) -> Result<Contents, TarError> {
    let mut found = Contents::default();
    walk(reader, &mut |entry, content| {
        let read: fn(&[u8]) -> Vec<String> = match entry.path.as_str() {
            "index.json" => oci_names,
            "manifest.json" => saved_names,
            path if path.strip_prefix("blobs/sha256/").is_some_and(is_there) => return Ok(()),
            _ => {
                let mut begin = Vec::new();
                content.take(4).read_to_end(&mut begin)?;
                found.add(entry.size, &begin);
                return Ok(());
            }
        };
        found.names.extend(read(&read_small(content, entry.size, MAX_INDEX)?));
        Ok(())
    })?;
    found.names.sort();
    found.names.dedup();
    Ok(found)
}

/// containerd's own annotation, else a full name in OCI's (containerd: import.go,
/// `imageName`).
fn oci_names(bytes: &[u8]) -> Vec<String> {
    let index: Index = json::read(bytes).unwrap_or(Index { manifests: Vec::new() });
    let name = |entry: &IndexEntry| {
        let own = entry.annotations.get("io.containerd.image.name");
        let oci = entry.annotations.get("org.opencontainers.image.ref.name");
        own.or(oci.filter(|name| name.contains('/'))).map(|name| full_name(name))
    };
    index.manifests.iter().filter_map(name).collect()
}

fn saved_names(bytes: &[u8]) -> Vec<String> {
    let saved: Vec<Saved> = json::read(bytes).unwrap_or_default();
    saved.into_iter().flat_map(|image| image.tags.unwrap_or_default()).map(|tag| full_name(&tag)).collect()
}

/// A name with its registry and tag: `pause` is `docker.io/library/pause:latest`.
#[must_use]
pub fn full_name(name: &str) -> String {
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
        _ => ("docker.io", name.to_owned()),
    };
    let path = if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    let last = path.rsplit('/').next().unwrap_or_default();
    let tag = if last.contains([':', '@']) { "" } else { ":latest" };
    format!("{host}/{path}{tag}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn block(name: &str, kind: u8, size: usize) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = block(name, kind, content.len());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn tar(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            entries.iter().flat_map(|(name, kind, content)| entry(name, *kind, content)).collect();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn entries(bytes: &[u8]) -> Result<Vec<(String, Kind, u64)>, TarError> {
        let mut found = Vec::new();
        let mut reader = bytes;
        walk(&mut reader, &mut |entry, _| {
            found.push((entry.path.clone(), entry.kind, entry.size));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn long_names_of_both_kinds_and_what_is_left_unread() {
        let long = "d/".repeat(90) + "f";
        let pax = format!("{} path={long}\n", 6 + 4 + long.len());
        let bytes = tar(&[
            ("./a/", b'5', b""),
            ("@LongLink", b'L', long.as_bytes()),
            ("d/d", b'0', b"hello"),
            ("pax", b'x', pax.as_bytes()),
            ("short", b'0', &[7; 600]),
            ("l", b'2', b""),
        ]);
        let found = entries(&bytes).unwrap();
        let wanted = [
            ("a".to_owned(), Kind::Directory, 0),
            (long.clone(), Kind::File, 5),
            (long, Kind::File, 600),
            ("l".to_owned(), Kind::Link, 0),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_breaks_off_and_what_is_no_tar_is_told() {
        let bytes = tar(&[("a", b'0', &[1; 2000])]);
        for cut in [0, 100, 600, 2000, bytes.len() - 2 * BLOCK] {
            assert!(matches!(entries(&bytes[..cut]), Err(TarError::Read(_))), "{cut}");
        }
        let page = [b"<html>".as_slice(), &[b'x'; 600]].concat();
        assert!(matches!(entries(&page), Err(TarError::Header(0))));
    }

    #[test]
    fn names_are_those_that_containerd_gives() {
        let index = br#"{"manifests":[{"annotations":{"io.containerd.image.name":"docker.io/lab/tiny:1","org.opencontainers.image.ref.name":"1"}},{"annotations":{"org.opencontainers.image.ref.name":"2"}},{}]}"#;
        let saved = br#"[{"Config":"x.json","RepoTags":["pause:3","rancher/a:1","reg.example:5000/b"],"Layers":[]},{"RepoTags":null}]"#;
        let bytes = tar(&[("index.json", b'0', index), ("manifest.json", b'0', saved)]);
        let names = contents(&mut bytes.as_slice(), &|_| false).unwrap().names;
        let wanted = [
            "docker.io/lab/tiny:1",
            "docker.io/library/pause:3",
            "docker.io/rancher/a:1",
            "reg.example:5000/b:latest",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn what_an_import_takes_is_what_the_store_has_not_yet_and_its_unpacked_form() {
        let packed = [[0x1f_u8, 0x8b].as_slice(), &[0; 998]].concat();
        let bytes = tar(&[
            ("blobs/sha256/aa", b'0', &packed),
            ("blobs/sha256/bb", b'0', &[1; 100]),
            ("blobs/sha256/cc", b'0', &[1; 5000]),
            ("index.json", b'0', b"{}"),
            ("old/layer.tar", b'0', &[2; 30]),
            ("link/layer.tar", b'2', b""),
        ]);
        let found = contents(&mut bytes.as_slice(), &|hex| hex == "cc").unwrap();
        assert_eq!((found.blobs, found.unpacked), (1000 + 100 + 30, 3000 + 100 + 30));
    }
}
