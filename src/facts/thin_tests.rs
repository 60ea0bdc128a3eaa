//! Tests of the parser of device-mapper's and LVM's words, with lines as they were printed.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;

use super::*;

#[test]
fn a_name_of_device_mapper_is_a_group_and_a_volume() {
    let pair = |group: &str, volume: &str| Some((group.to_owned(), volume.to_owned()));
    assert_eq!(volume_of("edge-thinpool"), pair("edge", "thinpool"));
    assert_eq!(volume_of("edge--x-thin--pool"), pair("edge-x", "thin-pool"));
    assert_eq!(volume_of("a---b"), pair("a-", "b"));
    for none in ["", "pool", "edge--pool", "edge-", "-pool", "a-b-c", "--a-b"] {
        assert_eq!(volume_of(none), None, "{none}");
    }
}

#[test]
fn a_status_is_read_from_the_left_on_old_and_new_kernels() {
    let new =
        pool("0 1843200 thin-pool 0 140/4096 512/14400 - rw discard_passdown error_if_no_space - 1024 ");
    let new = new.unwrap();
    assert_eq!((new.metadata, new.data, new.mode.as_str()), ((140, 4096), (512, 14400), "rw"));
    assert!(new.active && !new.needs_check);
    let old = pool("0 409600 thin-pool 0 19/1024 0/3200 - ro no_discard_passdown").unwrap();
    assert_eq!((old.mode.as_str(), old.needs_check), ("ro", false));
    let sick = "0 8192 thin-pool 1 10/1024 64/64 - ro no_discard_passdown queue_if_no_space needs_check 512";
    assert!(pool(sick).unwrap().needs_check);
    assert_eq!(pool("0 8192 thin-pool Fail").unwrap().mode, "fail");
    assert_eq!(pool("0 8192 thin-pool Error").unwrap().mode, "fail");
    assert_eq!(pool("0 8192 linear"), None);
    assert_eq!(pool(""), None);
}

#[test]
fn reports_of_lvm_are_columns() {
    let group =
        groups("  edge|wz--n-|1069547520|54525952|4194304|edge-bootstrap,edge-bootstrap-unfinished\n");
    assert_eq!(group.len(), 1);
    assert_eq!((group[0].free, group[0].extent, group[0].is_partial), (54_525_952, 4_194_304, false));
    assert_eq!(group[0].tags, ["edge-bootstrap", "edge-bootstrap-unfinished"]);
    assert!(groups("  vg0|wz-pn-|10B|0B|4B|\n")[0].is_partial);
    let volume = volumes(
        "  edge|[lvol0_pmspare]|ewi-------|16777216||\n  edge|thinpool|twi-a-t---|905969664|16777216|\n",
    );
    assert_eq!((volume[0].name.as_str(), volume[0].is_thin_pool()), ("lvol0_pmspare", false));
    assert_eq!((volume[1].metadata_size, volume[1].is_thin_pool()), (16_777_216, true));
    assert_eq!((volume[0].is_hidden, volume[1].is_hidden), (true, false));
    let disk = disks("  /dev/vdb|edgebo-otst-rap0-aaaa-aaaa-aaaa-aaaaaa||\n");
    assert_eq!((disk[0].group.as_ref(), disk[0].path.as_str()), (None, "/dev/vdb"));
    assert!(groups("  WARNING: a line that is no row\n").is_empty());
}

#[test]
fn only_hidden_volumes_named_after_a_pool_are_its_parts() {
    for (name, is_part) in [
        ("[thinpool_tdata]", true),
        ("[thinpool_tmeta]", true),
        ("[thinpool_tdata_rimage_0]", true),
        ("[thinpool_tmeta_rmeta_1]", true),
        ("[lvol0_pmspare]", true),
        ("[thinpool_tools_tdata]", false),
        ("[thinpool_tdatabase]", false),
        ("thinpool_tools", false),
        ("thinpool_tdata_old", false),
        ("thinpool_tdata", false),
        ("my_pmspare", false),
        ("thinpool_meta0", false),
        ("[other_tdata]", false),
    ] {
        let volume = volumes(&format!("  edge|{name}|ewi-ao----|16777216||\n"));
        assert_eq!(volume[0].is_part_of("thinpool"), is_part, "{name}");
    }
}

#[test]
fn signatures_are_named_by_both_programs() {
    assert_eq!(probed("DEVNAME=/dev/vdb\nUUID=1\nTYPE=ext4\nUSAGE=filesystem\n"), ["ext4"]);
    assert_eq!(probed("DEVNAME=/dev/vdb\nPTTYPE=gpt\n"), ["partition table gpt"]);
    assert_eq!(signatures("# offset,uuid,label,type\n0x438,2b,,ext4\n0x1fe,,,dos\n"), ["ext4", "dos"]);
    assert!(signatures("").is_empty());
}

#[test]
fn the_kernels_tables_tell_who_uses_a_disk() {
    let swap = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n/dev/vdb partition 1 0 -2\n";
    assert_eq!(swaps(swap), ["/dev/vdb"]);
    let md = "Personalities : [raid1]\nmd127 : active (auto-read-only) raid1 vdc[1] vdb[0]\n      1 blocks\n";
    assert_eq!(arrays(md, "vdb"), ["md127"]);
    assert!(arrays(md, "vd").is_empty());
    let mounted = "36 35 254:16 / /mnt/data rw,noatime - ext4 /dev/vdb rw\n";
    assert_eq!(mounts(mounted, "254:16"), ["/mnt/data"]);
    assert!(mounts(mounted, "254:1").is_empty());
}

proptest! {
    #[test]
    fn every_volume_is_found_again_by_its_name(
        group in "[a-z0-9+_.][a-z0-9+_.-]{0,8}", volume in "[a-z0-9+_.][a-z0-9+_.-]{0,8}",
    ) {
        prop_assert_eq!(volume_of(&name_of(&group, &volume)), Some((group, volume)));
    }

    #[test]
    fn no_text_stops_a_parser(text in "\\PC{0,200}", rows in "([a-z0-9|,\\[\\]/:=. -]{0,60}\n){0,6}") {
        for text in [text.as_str(), rows.as_str()] {
            let _ = (volume_of(text), pool(text), groups(text), volumes(text), disks(text));
            let _ = (probed(text), signatures(text), swaps(text), arrays(text, "vdb"), mounts(text, "254:0"));
        }
    }

    #[test]
    fn a_status_cut_anywhere_is_no_wrong_number(cut in 0_usize..90) {
        let line = "0 1843200 thin-pool 0 140/4096 512/14400 - rw discard_passdown error_if_no_space - 1024";
        if let Some(found) = line.get(..cut).and_then(pool) {
            prop_assert!(found.mode == "fail" || found.data == (512, 14_400));
        }
    }
}
