//! The gate and k3s's binary: only what cannot be whole is refused.

use std::os::unix::fs::symlink;

use edge_bootstrap::plan::binary::Record;
use edge_bootstrap::{binary, paths};

use crate::tree::Host;

const VERSION: &str = "v1.36.2+k3s1";
const WHOLE: &str = "a whole binary";

/// A server whose k3s is of our store, as it was when it was verified.
fn host() -> Host {
    let path = paths::k3s_binary(VERSION);
    let host = Host::server().config("server: https://172.16.36.2:6443\n").with(&path, WHOLE);
    let seen = binary::seen(&host.root, &path).unwrap();
    let record = Record { sha256: "ab".repeat(32), seen, boot_id: "this-boot".into() };
    binary::store(&host.root, &path, &record).unwrap();
    host.root.make_dir("/usr/local/bin", 0o755).unwrap();
    symlink(path, host.root.path(paths::K3S_LINK)).unwrap();
    host
}

#[test]
fn a_binary_as_it_was_goes() {
    host().goes();
}

#[test]
fn a_binary_that_is_gone_empty_or_short_is_refused() {
    let path = paths::k3s_binary(VERSION);
    for (host, words) in [
        (host().without(&path), "is gone"),
        (host().with(&path, ""), "is empty"),
        (host().with(&path, "a whole"), "has only 7 of 14 bytes"),
    ] {
        let refusal = host.refused("EB-k3s-damaged");
        assert!(refusal.reason.ends_with(words), "{}", refusal.reason);
        assert!(refusal.next.contains("/var/lib/edge-bootstrap/import"), "{}", refusal.next);
    }
}

#[test]
fn any_other_difference_is_told_and_goes() {
    let host = host();
    let path = paths::k3s_binary(VERSION);
    std::fs::rename(host.root.path(&path), host.root.path("/moved")).unwrap();
    let host = host.with(&path, "another binary!!");
    let verdict = host.goes();
    assert!(verdict.notes.iter().any(|note| note.contains("is not as it was")), "{:?}", verdict.notes);
}

/// After an unclean stop the daemon hashes what looks the same; what it finds outlives
/// that record, until another file lies there.
#[test]
fn a_binary_of_which_the_disk_has_lost_a_part_is_refused_until_another_one_lies_there() {
    let path = paths::k3s_binary(VERSION);
    let host = host();
    let record = binary::record(&host.root, &path).unwrap();
    binary::condemn(&host.root, &path, &record).unwrap();
    let refusal = host.refused("EB-k3s-damaged");
    assert!(refusal.reason.contains("its SHA-256 differs"), "{}", refusal.reason);
    // The daemon gives it a second name before another one takes its place.
    host.root.hard_link(&path, &format!("{path}.replaced")).unwrap();
    host.refused("EB-k3s-damaged");
    std::fs::remove_file(host.root.path(&path)).unwrap();
    let host = host.with(&path, "of a person");
    host.goes();
    binary::store(&host.root, &path, &record).unwrap();
    assert!(!host.root.exists(&format!("{path}.damaged")), "it is brought again");
}

#[test]
fn without_a_record_there_is_nothing_to_compare() {
    let path = paths::k3s_binary(VERSION);
    host().without(&format!("{path}.sha256")).with(&path, "").goes();
}
