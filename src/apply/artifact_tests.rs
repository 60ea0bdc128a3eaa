//! Tests of bringing files by digest, with scripted downloads.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::cell::RefCell;
use std::io::Write as _;

use super::*;

/// SHA-256 of `abcdef`.
const DIGEST: &str = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";

/// Answers each call with the next script; notes from where it was asked.
struct Scripted(RefCell<Vec<Result<&'static [u8], io::ErrorKind>>>, RefCell<Vec<u64>>);

impl Download for Scripted {
    async fn download(&self, _: &str, url: &str, sink: &mut Sink) -> Result<(), DownloadError> {
        self.1.borrow_mut().push(sink.size);
        let failed = |kind| DownloadError { url: url.to_owned(), source: io::Error::from(kind).into() };
        match self.0.borrow_mut().remove(0) {
            Ok(bytes) => sink.write_all(bytes).map_err(|error| failed(error.kind())),
            Err(io::ErrorKind::BrokenPipe) => {
                sink.write_all(b"abc").unwrap();
                sink.tag = Some("\"v1\"".to_owned());
                Err(failed(io::ErrorKind::BrokenPipe))
            }
            Err(kind) => Err(failed(kind)),
        }
    }
}

fn wanted<'a>(urls: &'a [ArtifactUrl], sha256: &'a Sha256Hex) -> Wanted<'a> {
    Wanted { title: "f", path: "/f", mode: 0o600, urls, sha256, floor: space::floor }
}

struct Case {
    _dir: tempfile::TempDir,
    root: Root,
    download: Scripted,
}

fn case(script: &[Result<&'static [u8], io::ErrorKind>]) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let download = Scripted(RefCell::new(script.to_vec()), RefCell::default());
    Case { root, _dir: dir, download }
}

impl Case {
    fn try_once(&self) -> Result<(), ArtifactError> {
        let urls = ["https://one.example/f?token=canary".parse().unwrap()];
        let sha256 = DIGEST.parse().unwrap();
        let wanted = wanted(&urls, &sha256);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(bring(&self.root, wanted, &self.download))
    }

    fn files(&self) -> Vec<String> {
        self.root.list("/").unwrap()
    }
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let case = case(&[Err(io::ErrorKind::BrokenPipe), Ok(b"def")]);
    let error = case.try_once().unwrap_err();
    assert!(matches!(error, ArtifactError::NoSource { is_wrong: false, .. }));
    assert!(!error.to_string().contains("canary"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(case.files(), ["f.part", "f.part.tag"]);
    case.try_once().unwrap();
    assert_eq!(*case.download.1.borrow(), [0, 3]);
    assert_eq!(case.files(), ["f"]);
    assert_eq!(case.root.read("/f").unwrap().unwrap(), b"abcdef");
}

#[test]
fn bytes_that_do_not_fit_each_other_are_asked_for_anew_once() {
    let case = case(&[Err(io::ErrorKind::BrokenPipe), Ok(b"xyz"), Ok(b"abcdef")]);
    case.try_once().unwrap_err();
    case.try_once().unwrap();
    assert_eq!(*case.download.1.borrow(), [0, 3, 0]);
    assert_eq!(case.files(), ["f"]);
}

#[test]
fn wrong_bytes_and_pages_are_named_and_not_kept() {
    let case = case(&[Ok(b"abc"), Ok(b"\n<!DOCTYPE html>")]);
    let errors = [(), ()].map(|()| case.try_once().unwrap_err());
    assert!(errors.iter().all(|it| matches!(it, ArtifactError::NoSource { is_wrong: true, .. })));
    let [wrong, page] = errors.map(|error| error.to_string());
    assert!(wrong.contains("its SHA-256 is ba7816bf"), "{wrong}");
    assert!(page.contains("a web page came instead of the file"), "{page}");
    assert_eq!(case.files(), [] as [String; 0]);
}

#[test]
fn a_full_disk_is_named_and_nothing_half_stays() {
    let case = case(&[Err(io::ErrorKind::BrokenPipe), Err(io::ErrorKind::StorageFull)]);
    case.try_once().unwrap_err();
    let error = case.try_once().unwrap_err();
    assert!(error.to_string().starts_with("f: no space left on the disk of /f; free some"), "{error}");
    assert_eq!(case.files(), [] as [String; 0]);
}

#[test]
fn what_came_stays_only_while_it_is_in_nobodys_way_and_may_become_whole() {
    const GIB: u64 = 1 << 30;
    for (needed, free, total, is_kept) in [
        // The floor of 2 GiB stands, and a larger disk than now's use is there.
        (9 * GIB, 4 * GIB, 20 * GIB, true),
        // Others have eaten into the floor.
        (9 * GIB, GIB, 20 * GIB, false),
        // It could not be there if nothing else were.
        (18 * GIB, 4 * GIB, 20 * GIB, false),
    ] {
        let case = case(&[Err(io::ErrorKind::BrokenPipe)]);
        case.try_once().unwrap_err();
        let no_room = NoRoom { needed, free, total, stays: space::floor(total) };
        let urls = ["https://one.example/f".parse().unwrap()];
        let sha256 = DIGEST.parse().unwrap();
        let wanted = wanted(&urls, &sha256);
        let error = full(&case.root, wanted, Some(no_room)).unwrap();
        assert_eq!(case.files().is_empty(), !is_kept, "{error}");
        assert_eq!(error.to_string().ends_with("nothing of it was kept"), !is_kept, "{error}");
        assert!(error.to_string().contains(&format!("{needed} bytes more are needed, {free} of {total}")));
    }
}

#[test]
fn the_version_before_is_noted_once_another_one_comes() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    for path in ["/usr/local/bin", paths::K3S_STORE] {
        root.make_dir(path, 0o755).unwrap();
    }
    let previous = || root.read_link(paths::K3S_PREVIOUS).unwrap();
    let mut noted = Vec::new();
    for target in ["/opt/k3s", "v1.35.1+k3s1", "v1.35.1+k3s1", "v1.36.2+k3s1", "v1.36.2+k3s1"] {
        let target = if target.starts_with('/') { target.to_owned() } else { paths::k3s_binary(target) };
        let link = PlannedLink { path: paths::K3S_LINK.to_owned(), target, reason: String::new() };
        keep_previous(&root, &link).unwrap();
        atomic::link(&root, &link.path, &link.target).unwrap();
        noted.push(previous());
    }
    assert_eq!(noted[..3], [None, None, None]);
    assert_eq!(noted[3..], [Some("v1.35.1+k3s1".to_owned()), Some("v1.35.1+k3s1".to_owned())]);
}

#[test]
fn the_record_of_the_file_before_is_gone_before_another_one_comes_to_its_place() {
    let case = case(&[]);
    let other = Record { sha256: "ab".repeat(32), seen: None, boot_id: String::new() };
    // Nothing can be put in the place of a directory: as a cut would leave it.
    case.root.make_dir("/k3s", 0o755).unwrap();
    binary::store(&case.root, "/k3s", &other).unwrap();
    atomic::write(&case.root, "/k3s.new", b"abcdef", 0o600).unwrap();
    put_in_place(&case.root, ("/k3s.new", "/k3s"), &DIGEST.parse().unwrap()).unwrap_err();
    assert_eq!(binary::record(&case.root, "/k3s"), None);
}

#[test]
fn a_local_file_is_copied_and_one_without_room_is_not_begun() {
    let case = case(&[]);
    let try_file = || {
        let urls = ["file:///source".parse().unwrap()];
        let sha256 = DIGEST.parse().unwrap();
        let wanted = wanted(&urls, &sha256);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(bring(&case.root, wanted, &case.download))
    };
    atomic::write(&case.root, "/source", b"", 0o600).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(case.root.path("/source"))
        .unwrap()
        .set_len(8 << 40)
        .unwrap();
    assert!(matches!(try_file().unwrap_err(), ArtifactError::Full { no_room: Some(_), .. }));
    assert_eq!(case.files(), ["source"]);
    atomic::write(&case.root, "/source", b"abcdef", 0o600).unwrap();
    try_file().unwrap();
    assert_eq!(case.files(), ["f", "source"]);
    assert_eq!(case.root.read("/f").unwrap().unwrap(), b"abcdef");
}
