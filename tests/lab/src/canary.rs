//! Secrets planted by a test must be found nowhere that others can see.
//!
//! Owns the search of a running host: command lines, environments, the
//! journal, the console and every file that an ordinary user may read. Plain
//! text and base64 at any alignment are found; compressed or encrypted text is
//! not. The search itself never puts a secret into a command line.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::host::Host;

/// Larger files are programs and disks of programs, no place where text is written to.
const LARGEST: u64 = 64 << 20;

/// Where nothing is written: kernel file systems and the packages' own files.
const NOT_SEARCHED: &[&str] = &["proc", "sys", "dev", "usr/bin", "usr/lib", "usr/sbin", "usr/share"];

/// Who may read the files that a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Anybody,
    Root,
}

/// Looks for every secret everywhere where it must not be, and says what was
/// found where, one line each; empty means that all is well. Secrets are
/// called by their position in `secrets`, so the lines may be printed.
///
/// # Errors
/// The host is off, or its journal cannot be read.
pub fn scan(host: &Host, secrets: &[&str]) -> Result<Vec<String>> {
    let needles = Needles::new(secrets);
    let mut places = processes(host, &needles)?;
    let journal = host.exec(&["journalctl", "--no-pager", "-o", "export"])?.ok()?;
    places.extend(needles.found("the journal", journal.as_bytes()));
    let console = fs::read(host.console()).unwrap_or_default();
    places.extend(needles.found("the console", &console));
    places.extend(files(host, &needles, Reader::Anybody)?);
    Ok(places)
}

/// Every file, whoever may read it, in which a secret lies: for a test that
/// knows the few right places.
///
/// # Errors
/// The host is off.
pub fn everywhere(host: &Host, secrets: &[&str]) -> Result<Vec<String>> {
    files(host, &Needles::new(secrets), Reader::Root)
}

/// What to look for, with the position of the secret that it stands for.
struct Needles(Vec<(usize, Vec<u8>)>);

impl Needles {
    fn new(secrets: &[&str]) -> Self {
        let forms = |(at, secret): (usize, &&str)| {
            let mut all = vec![secret.as_bytes().to_vec()];
            all.extend((0..3).map(|shift| base64_inside(secret.as_bytes(), shift)));
            all.into_iter().map(move |form| (at, form))
        };
        Self(secrets.iter().enumerate().flat_map(forms).collect())
    }

    fn found(&self, place: &str, text: &[u8]) -> Vec<String> {
        let mut lines: Vec<String> = self
            .0
            .iter()
            .filter(|(_, needle)| contains(text, needle))
            .map(|(at, _)| format!("secret {at} in {place}"))
            .collect();
        lines.dedup();
        lines
    }
}

/// How base64 shows `secret` when it starts `shift` bytes after a multiple of
/// three in a longer text: without the characters that its neighbours decide.
fn base64_inside(secret: &[u8], shift: usize) -> Vec<u8> {
    let mut padded = vec![0; shift];
    padded.extend(secret);
    let whole = padded.len() - padded.len() % 3;
    padded.truncate(whole);
    let text = STANDARD_NO_PAD.encode(padded).into_bytes();
    let first = if shift == 0 { 0 } else { 4 };
    text.get(first..).unwrap_or_default().to_vec()
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    // Short needles would be found by chance.
    needle.len() >= 8 && find(text, needle)
}

/// Skips to each place where the first byte fits before it compares the rest.
fn find(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|part| part.first() == needle.first() && part == needle)
}

fn processes(host: &Host, needles: &Needles) -> Result<Vec<String>> {
    let mut places = Vec::new();
    for pid in host.processes() {
        for file in ["cmdline", "environ"] {
            // A process may end at any moment.
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            places.extend(needles.found(&format!("the {file} of {}", comm.trim()), &text));
        }
    }
    Ok(places)
}

fn files(host: &Host, needles: &Needles, reader: Reader) -> Result<Vec<String>> {
    let root = host.seen_from_outside().with_context(|| format!("{} is off", host.name()))?;
    let mut places = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for path in crate::entries(&dir).into_iter().map(|name| dir.join(name)) {
            let inside = path.strip_prefix(&root).unwrap_or(&path).to_owned();
            match kind(&path, reader) {
                Kind::Directory if !skipped(&inside) => open.push(path),
                Kind::File => {
                    let text = fs::read(&path).unwrap_or_default();
                    places.extend(needles.found(&format!("/{}", inside.display()), &text));
                }
                _ => {}
            }
        }
    }
    places.sort();
    Ok(places)
}

fn skipped(inside: &Path) -> bool {
    NOT_SEARCHED.iter().any(|dir| inside == Path::new(dir))
}

enum Kind {
    Directory,
    File,
    Other,
}

/// What there is at `path`, as far as the reader gets to it.
fn kind(path: &PathBuf, reader: Reader) -> Kind {
    let Ok(found) = fs::symlink_metadata(path) else { return Kind::Other };
    let may = |bit: u32| reader == Reader::Root || found.mode() & bit != 0;
    if found.is_dir() && may(0o001) {
        Kind::Directory
    } else if found.is_file() && !found.file_type().is_fifo() && may(0o004) && found.len() <= LARGEST {
        Kind::File
    } else {
        Kind::Other
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_base64_at_every_alignment() {
        let needles = Needles::new(&["canary-7f3a9c51d2"]);
        for before in ["", "a", "ab", "abc", "{\"token\":\""] {
            let text = STANDARD_NO_PAD.encode(format!("{before}canary-7f3a9c51d2\"}}"));
            assert_eq!(needles.found("x", text.as_bytes()).len(), 1, "after `{before}`");
        }
        assert_eq!(needles.found("x", b"canary-7f3a9c51d"), Vec::<String>::new());
    }
}
