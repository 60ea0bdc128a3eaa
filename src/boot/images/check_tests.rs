//! Tests of judging images, with files broken by hand.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and breaks files by hand"
)]

use std::fs;

use super::*;

struct Store {
    _dir: tempfile::TempDir,
    root: Root,
    target: String,
    layer: String,
}

fn put(root: &Root, bytes: &[u8]) -> (String, usize) {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = root.path(&blob(&digest));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    (format!("sha256:{digest}"), bytes.len())
}

/// A layer with `bin/run` of three bytes, and a link `sbin`.
fn tar() -> Vec<u8> {
    let entry = |name: &str, kind: u8, content: &[u8]| {
        let mut block = vec![0_u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[156] = kind;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block.extend(content);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    };
    [
        entry("bin/", b'5', b""),
        entry("bin/run", b'0', b"abc"),
        entry("bin/empty", b'0', b""),
        entry("sbin", b'2', b""),
        entry("sbin/other", b'0', b"abcd"),
        entry(".wh.gone", b'0', b"x"),
        vec![0; 1024],
    ]
    .concat()
}

fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let (layer, layer_size) = put(&root, &tar());
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{layer}"]}}}}"#);
    let (config, config_size) = put(&root, config.as_bytes());
    let manifest = format!(
        r#"{{"config":{{"digest":"{config}","size":{config_size}}},"layers":[{{"digest":"{layer}","size":{layer_size}}}]}}"#
    );
    let (target, _) = put(&root, manifest.as_bytes());
    fs::create_dir_all(root.path("/s/bin")).unwrap();
    fs::create_dir_all(root.path("/s/usr")).unwrap();
    fs::write(root.path("/s/bin/run"), "abc").unwrap();
    std::os::unix::fs::symlink("usr", root.path("/s/sbin")).unwrap();
    Store { _dir: dir, root, target, layer }
}

/// The one reading that there is.
fn only(root: &Root, target: &str) -> Result<Reading, Fault> {
    let mut all = readings(root, target, false)?;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// An index of these manifests; each with its platform, if any.
fn index(root: &Root, entries: &[(&str, Option<(&str, &str)>)]) -> String {
    let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entry = |(digest, platform): &(&str, Option<(&str, &str)>)| {
        let platform = platform.map(|(architecture, variant)| {
            let architecture = if architecture == "here" { here } else { architecture };
            let os = if architecture == "unknown" { "unknown" } else { "linux" };
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#)
        });
        format!(r#"{{"digest":"{digest}","size":7{}}}"#, platform.unwrap_or_default())
    };
    let entries: Vec<String> = entries.iter().map(entry).collect();
    put(root, format!(r#"{{"manifests":[{}]}}"#, entries.join(",")).as_bytes()).0
}

const GONE: &str = "sha256:00";

#[test]
fn of_several_manifests_for_this_machine_those_count_that_are_here() {
    let store = store();
    let (plain, newer) = (Some(("here", "")), Some(("here", "v3")));
    for entries in [
        vec![(GONE, newer), (store.target.as_str(), plain)],
        vec![(GONE, plain), (store.target.as_str(), newer)],
        vec![(GONE, Some(("unknown", ""))), (store.target.as_str(), plain), (GONE, None)],
        vec![(GONE, None), (store.target.as_str(), None)],
        vec![(GONE, Some(("s390x", ""))), (store.target.as_str(), plain)],
    ] {
        let target = index(&store.root, &entries);
        let reading = only(&store.root, &target).unwrap();
        reading.whole(&store.root, 0).unwrap();
        assert_eq!(reading.layers.len(), 1, "{entries:?}");
    }
    let both = index(&store.root, &[(&store.target, plain), (&store.target, newer)]);
    assert_eq!(readings(&store.root, &both, false).unwrap().len(), 2);
}

#[test]
fn of_several_readings_one_must_be_whole() {
    let store = store();
    let here = Some(("here", ""));
    let whole = |entries: &[(&str, _)]| {
        let readings = readings(&store.root, &index(&store.root, entries), false).unwrap();
        one_whole(&store.root, &readings, 0)
    };
    let (chart, _) = put(&store.root, br#"{"x":1}"#);
    let several = [(chart.as_str(), here), (store.target.as_str(), here), (store.target.as_str(), here)];
    assert_eq!(whole(&several), Ok(()));
    assert!(matches!(whole(&[several[0], several[0]]), Err(Fault::Unread(_))));
    fs::write(store.root.path(&blob(&store.layer)), "").unwrap();
    let fault = whole(&several);
    assert!(matches!(&fault, Err(Fault::Damaged { blob: Some(it), .. }) if *it == store.layer), "{fault:?}");
    assert_eq!(one_whole(&store.root, &[], 0), Ok(()), "an image of other machines");
}

#[test]
fn an_index_of_which_nothing_is_here_is_damaged_only_where_something_must_be() {
    let store = store();
    let told = |entries: &[_], must_be| {
        readings(&store.root, &index(&store.root, entries), must_be).map(|all| all.len())
    };
    let fault = |entries: &[_]| told(entries, false);
    let (plain, newer) = (Some(("here", "v1")), Some(("here", "v3")));
    for entries in [vec![(GONE, plain)], vec![(GONE, newer), (GONE, plain)]] {
        assert!(matches!(fault(&entries), Err(Fault::Damaged { why, .. }) if why.ends_with("is gone")));
    }
    for entries in [vec![(GONE, newer)], vec![(GONE, None)]] {
        assert!(matches!(fault(&entries), Err(Fault::Unread(_))), "{entries:?}");
    }
    assert_eq!(fault(&[(GONE, Some(("s390x", "")))]), Ok(0), "of another machine");
    let foreign = [(GONE, plain), (store.target.as_str(), Some(("s390x", "")))];
    assert!(matches!(fault(&foreign), Err(Fault::Unread(_))), "pulled for another machine on purpose");
    assert!(matches!(told(&foreign, true), Err(Fault::Damaged { .. })), "this host was told to have it");
    let attested = [(GONE, plain), (store.target.as_str(), Some(("unknown", "")))];
    assert!(matches!(fault(&attested), Err(Fault::Damaged { .. })), "an attestation is of no machine");
}

#[test]
fn what_is_no_image_of_a_container_is_not_judged_and_a_cut_off_one_is_damage() {
    let store = store();
    let (config, size) = put(&store.root, b"{}");
    let manifest = format!(
        r#"{{"artifactType":"x/chart","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":{size}}},"layers":[{{"digest":"{}","size":1}}]}}"#,
        store.layer
    );
    let (artifact, _) = put(&store.root, manifest.as_bytes());
    assert!(matches!(only(&store.root, &artifact), Err(Fault::Unread(_))));
    let image = index(&store.root, &[(&artifact, None), (&store.target, None)]);
    let readings = readings(&store.root, &image, false).unwrap();
    assert!(matches!(readings.as_slice(), [Err(Fault::Unread(_)), Ok(_)]), "{readings:?}");
    for cut in [b"".as_slice(), &manifest.as_bytes()[..20]] {
        fs::write(store.root.path(&blob(&artifact)), cut).unwrap();
        assert!(matches!(super::readings(&store.root, &artifact, false), Err(Fault::Damaged { .. })));
    }
}

#[test]
fn a_whole_image_is_found_whole() {
    let store = store();
    let reading = only(&store.root, &store.target).unwrap();
    reading.whole(&store.root, 0).unwrap();
    assert_eq!(reading.layers, [Layer { blob: store.layer.clone(), chain: store.layer.clone() }]);
    layer(&store.root, &store.layer, "/s").unwrap();
}

#[test]
fn blobs_that_are_short_gone_or_changed_are_damage() {
    let store = store();
    let path = store.root.path(&blob(&store.layer));
    let look = |since| only(&store.root, &store.target).unwrap().whole(&store.root, since);
    let damage = |since| look(since).unwrap_err();
    let mut other = tar();
    other[600] ^= 1;
    fs::write(&path, other).unwrap();
    assert!(matches!(damage(0), Fault::Damaged { why, .. } if why.ends_with("has another content")));
    assert!(look(u64::MAX).is_ok(), "an old one is hashed again");
    fs::write(&path, "").unwrap();
    assert!(matches!(damage(u64::MAX), Fault::Damaged { why, .. } if why.contains("has 0 bytes instead")));
    fs::remove_file(&path).unwrap();
    assert!(matches!(damage(u64::MAX), Fault::Damaged { why, .. } if why.ends_with("is gone")));
}

#[test]
fn empty_and_missing_files_of_a_layer_are_damage() {
    let store = store();
    fs::write(store.root.path("/s/bin/run"), "").unwrap();
    let damage = || layer(&store.root, &store.layer, "/s").unwrap_err();
    assert!(
        matches!(damage(), Fault::Damaged { why, .. } if why.ends_with("/bin/run has 0 bytes instead of 3 bytes"))
    );
    fs::remove_file(store.root.path("/s/bin/run")).unwrap();
    assert!(
        matches!(damage(), Fault::Damaged { why, .. } if why.ends_with("/bin/run has no file instead of 3 bytes"))
    );
    fs::remove_dir(store.root.path("/s/bin")).unwrap();
    assert!(matches!(damage(), Fault::Damaged { why, .. } if why.ends_with("the directory /bin is gone")));
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
    let second = format!("sha256:{}", hex("sha256:a sha256:b"));
    assert_eq!(chain_ids(&ids), ["sha256:a".to_owned(), second]);
}
