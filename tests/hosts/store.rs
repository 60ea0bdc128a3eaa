//! containerd's store: damaged for real, set aside whole, and never erased.

use std::time::Duration;

use edge_lab::room::LONG;
use edge_lab::{Host, HostSpec, Lab, Room, Suite, wait_until};

use crate::hand::{SOON, further_pass, is_active, property, status, status_text, wait_active};

const STORE: &str = "/var/lib/containerd";
/// What is mounted there on a host with a data disk.
const DISK: &str = "/var/data";
const META: &str = "io.containerd.metadata.v1.bolt/meta.db";
const SNAPSHOTS: &str = "io.containerd.snapshotter.v1.overlayfs/metadata.db";
const BLOBS: &str = "io.containerd.content.v1.content/blobs/sha256";
const OURS: &str = "/etc/containerd/edge-bootstrap.toml";
const IMAGE: &str = "docker.io/lab/store:1";
/// The archive of it.
const ARCHIVE: &str = "/srv/images/1.tar";

/// Makes an image that can sleep, and imports it as a person would.
fn import(host: &Host) {
    host.write_file("/srv/archive.sh", edge_lab::MAKE_ARCHIVE).unwrap();
    host.sh(&format!(
        "sh /srv/archive.sh {IMAGE} 1; ctr -n k8s.io images import {ARCHIVE} >/dev/null; sync -f {STORE}"
    ))
    .unwrap();
    assert_eq!(images(host), 1, "{}: the image is not there", host.name());
}

/// Puts the store on a mount of its own, as a data disk is one.
fn on_a_disk_of_its_own(host: &Host) {
    host.sh(&format!(
        "systemctl stop edge-bootstrap k3s containerd; mv {STORE} {DISK}; mkdir -m 711 {STORE}; \
         echo '{DISK} {STORE} none bind 0 0' >>/etc/fstab; systemctl daemon-reload; mount {STORE}; sync; \
         systemctl start edge-bootstrap; edge-bootstrap apply >/dev/null || true"
    ))
    .unwrap();
    ["containerd", "k3s"].into_iter().for_each(|unit| wait_active(host, unit));
}

fn images(host: &Host) -> usize {
    let names = host.sh("ctr -n k8s.io images ls -q").unwrap();
    names.lines().filter(|name| *name == IMAGE).count()
}

fn blobs(host: &Host, store: &str) -> usize {
    host.sh(&format!("ls {store}/{BLOBS} | wc -l")).unwrap().parse().unwrap()
}

/// Where stores that were set aside lie.
fn kept(host: &Host) -> Vec<String> {
    let found =
        host.sh(&format!("ls -d {STORE}/.quarantine* {STORE}.quarantine* 2>/dev/null || true")).unwrap();
    found.lines().map(str::to_owned).collect()
}

/// The record names the image: an empty database has lost it. containerd is
/// started anew so that its lists are asked at once.
fn wait_recorded(host: &Host) {
    host.sh("systemctl restart containerd").unwrap();
    further_pass(host);
    let named = "grep -q lab/store /var/lib/edge-bootstrap/inventory.json";
    wait_until(SOON, "the record names the image", || {
        Ok(host.exec(&["sh", "-c", named])?.success().then_some(()))
    })
    .unwrap();
}

fn says(host: &Host, code: &str) -> bool {
    let status = status(host);
    status["findings"].as_array().is_some_and(|all| all.iter().any(|finding| finding["code"] == code))
}

fn wait_says(host: &Host, code: &str) {
    let seen = wait_until(SOON, code, || Ok(says(host, code).then_some(())));
    assert!(seen.is_ok(), "{} does not say {code}:\n{}", host.name(), status_text(host));
}

/// What a power cut may leave of a database: nothing in it, its first part, or
/// not even its name.
const DAMAGES: [(&str, Option<u32>); 5] = [
    (META, Some(0)),
    (META, Some(10_000)),
    (SNAPSHOTS, Some(0)),
    (SNAPSHOTS, Some(10_000)),
    (SNAPSHOTS, None),
];

/// The store of before lies aside whole, and containerd runs on a new one.
fn is_cured(host: &Host, what: &str, blobs_before: usize) {
    let what = format!("{} with {what}", host.name());
    wait_says(host, "EB-store-damaged");
    let kept = kept(host);
    assert_eq!(kept.len(), 1, "{what}: {kept:?}");
    assert_eq!(blobs(host, &kept[0]), blobs_before, "{what}: not every blob lies in {}", kept[0]);
    assert!(is_active(host, "containerd") && is_active(host, "k3s"), "{what}");
    assert_eq!(property(host, "containerd", "NRestarts"), "0", "{what}: containerd began on the old store");
    host.sh("ctr -n k8s.io images ls -q").unwrap();
    assert_eq!(host.sh(&format!("test -s {STORE}/{META}; echo $?")).unwrap(), "0", "{what}");
}

#[test]
fn each_damage_of_a_store_sets_it_aside_whole_and_containerd_comes_up_without_a_person() {
    let mut room = Room::open("s-store").unwrap();
    room.add_all(&[("bw", Suite::Bookworm), ("tx", Suite::Trixie), ("sid", Suite::Sid)]).unwrap();
    room.wait_steady(LONG).unwrap();
    on_a_disk_of_its_own(&room.hosts[1]);
    let place = |at: usize| if at == 1 { DISK } else { STORE };
    for host in &room.hosts {
        import(host);
        further_pass(host);
        assert!(!says(host, "EB-store-damaged"), "{}: a whole store is called damaged", host.name());
    }
    room.cut().unwrap();
    room.hosts.iter().for_each(|host| host.keep_disk().unwrap());
    for turn in 0..DAMAGES.len() {
        // Another damage on each host, and on one of them an empty configuration beside it.
        let damage = |at: usize| DAMAGES[(turn + at) % DAMAGES.len()];
        let mut before = Vec::new();
        for (at, host) in room.hosts.iter().enumerate() {
            host.put_disk_back().unwrap();
            let (file, length) = damage(at);
            let store = place(at);
            let harm = length.map_or_else(|| "rm".to_owned(), |length| format!("truncate -s {length}"));
            let blobs = format!("{harm} .{store}/{file}; ls .{store}/{BLOBS} | wc -l");
            before.push(host.edit(&blobs).unwrap().trim().parse().unwrap());
            if turn == at {
                host.edit(&format!("truncate -s 0 .{OURS}")).unwrap();
            }
        }
        room.boot().unwrap();
        room.wait_steady(LONG).unwrap();
        for (at, host) in room.hosts.iter().enumerate() {
            is_cured(host, &format!("{:?}", damage(at)), before[at]);
            assert!(!host.read_file(OURS).unwrap().unwrap_or_default().is_empty());
        }
        room.cut().unwrap();
    }
}

#[test]
fn a_store_is_set_aside_once_in_a_boot_and_twice_in_a_day_and_never_under_a_container() {
    let mut room = Room::open("s-again").unwrap();
    room.add("n1", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    let host = &room.hosts[0];
    import(host);
    // A container lives on without containerd; the store is not taken away from under it.
    host.sh(&format!(
        "ctr -n k8s.io run --cpu-shares 0 -d {IMAGE} c1 /bin/sleep 600 </dev/null; \
         systemctl stop edge-bootstrap k3s containerd; truncate -s 10000 {STORE}/{META}; \
         systemctl start edge-bootstrap"
    ))
    .unwrap();
    wait_says(host, "EB-store-damaged");
    assert!(status_text(host).contains("reboot the host"), "{}", status_text(host));
    assert_eq!((kept(host).len(), host.sh("pgrep -c sleep").unwrap().as_str()), (0, "1"));
    for turn in 1..=2 {
        host.cut().unwrap();
        host.edit(&format!("truncate -s 0 .{STORE}/{META}")).unwrap();
        host.boot().unwrap();
        room.wait_steady(LONG).unwrap();
        assert_eq!(kept(host).len(), turn, "{:?}", kept(host));
        import(host);
        wait_recorded(host);
    }
    host.cut().unwrap();
    host.edit(&format!("truncate -s 0 .{STORE}/{META}")).unwrap();
    host.boot().unwrap();
    wait_says(host, "EB-store-again");
    assert_eq!(kept(host).len(), 2, "{:?}", kept(host));
    wait_says(host, "EB-store-kept");
}

#[test]
fn containerd_is_refused_on_an_empty_database_and_on_a_wrong_disk_and_comes_back_by_itself() {
    let mut room = Room::open("s-gate").unwrap();
    room.add("n1", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    let host = &room.hosts[0];
    on_a_disk_of_its_own(host);
    import(host);
    wait_recorded(host);
    // The daemon is dead: nobody else stands between containerd and its empty database.
    host.sh(&format!(
        "systemctl stop edge-bootstrap k3s containerd; cp {STORE}/{META} /root/meta.db; \
         truncate -s 0 {STORE}/{META}; systemctl start --no-block containerd"
    ))
    .unwrap();
    wait_until(SOON, "the refusal", || Ok(status_text(host).contains("EB-store-empty").then_some(())))
        .unwrap();
    assert_eq!(host.sh(&format!("stat -c %s {STORE}/{META}")).unwrap(), "0");
    host.sh(&format!("cp /root/meta.db {STORE}/{META}")).unwrap();
    wait_active(host, "containerd");
    assert_eq!(images(host), 1);
    // The data disk does not come up, and systemd knows no other: nothing is begun below its place.
    host.sh(&format!(
        "systemctl stop containerd; sed -i '\\|{STORE}|d' /etc/fstab; systemctl daemon-reload; umount {STORE}; \
         systemctl start --no-block containerd"
    ))
    .unwrap();
    wait_until(SOON, "the refusal", || Ok(status_text(host).contains("EB-storage-root").then_some(())))
        .unwrap();
    assert_eq!(host.sh(&format!("ls {STORE}")).unwrap(), "");
    host.sh(&format!("mount --bind {DISK} {STORE}")).unwrap();
    wait_active(host, "containerd");
    assert_eq!(images(host), 1);
}

/// Puts the store on a disk whose loss systemd sees by itself, as it sees that of
/// a real one: a unit stands for the device.
fn on_a_disk_that_can_go(host: &Host) {
    on_a_disk_of_its_own(host);
    host.sh(&format!(
        r"cd /etc/systemd/system
        printf '[Service]\nExecStart=/bin/sleep infinity\n' >lab-disk.service
        systemctl daemon-reload; systemctl start lab-disk
        printf '[Unit]\nBindsTo=lab-disk.service\nAfter=lab-disk.service\n[Mount]\nWhat={DISK}\nWhere={STORE}\nType=none\nOptions=bind\n' \
            >var-lib-containerd.mount
        systemctl daemon-reload"
    ))
    .unwrap();
}

/// containerd is left as a person wants it, and the daemon knows.
fn wait_left_alone(host: &Host) {
    let named = |status: &serde_json::Value| {
        let left = status["left_alone"].as_array();
        left.is_some_and(|left| left.iter().any(|one| one["unit"] == "containerd.service"))
    };
    let seen = wait_until(SOON, "containerd is left alone", || Ok(named(&status(host)).then_some(())));
    assert!(seen.is_ok(), "{}", status_text(host));
    assert!(!is_active(host, "containerd"));
}

#[test]
fn containerd_that_went_with_its_disk_comes_back_and_its_store_is_set_aside_while_k3s_runs() {
    let mut room = Room::open("s-disk").unwrap();
    room.add("n1", Suite::Trixie).unwrap();
    room.wait_steady(LONG).unwrap();
    let host = &room.hosts[0];
    on_a_disk_that_can_go(host);
    let (k3s, before) = (property(host, "k3s", "MainPID"), property(host, "containerd", "MainPID"));
    // The disk is pulled: systemd unmounts, and stops containerd for it.
    host.sh("systemctl kill -s KILL lab-disk").unwrap();
    wait_until(SOON, "another containerd", || {
        let now = property(host, "containerd", "MainPID");
        Ok((is_active(host, "containerd") && now != before).then_some(()))
    })
    .unwrap();
    assert!(is_active(host, "lab-disk") && is_active(host, "var-lib-containerd.mount"));
    // A person unmounts it: nobody mounts it before the person does. A stop of what no pass has
    // seen up yet would be none of a person's.
    further_pass(host);
    host.sh("systemctl stop var-lib-containerd.mount").unwrap();
    wait_left_alone(host);
    assert!(!is_active(host, "var-lib-containerd.mount"));
    host.sh("systemctl start var-lib-containerd.mount; systemctl reload edge-bootstrap").unwrap();
    wait_active(host, "containerd");
    // A person stops containerd itself, and unmounts later: it stays down also with its mount.
    further_pass(host);
    host.sh("systemctl stop containerd").unwrap();
    wait_left_alone(host);
    host.sh("umount /var/lib/containerd; systemctl start var-lib-containerd.mount; systemctl reload edge-bootstrap")
        .unwrap();
    wait_left_alone(host);
    // Damage of a store whose containerd starts beside the agent is mended without a reboot, and
    // without k3s, whether a pass finds it before READY or after it.
    host.sh(&format!(
        "systemctl stop edge-bootstrap; truncate -s 10000 {STORE}/{META}; systemctl start --no-block containerd; \
         systemctl start edge-bootstrap"
    ))
    .unwrap();
    wait_until(SOON, "the store is set aside", || Ok((kept(host).len() == 1).then_some(()))).unwrap();
    wait_active(host, "containerd");
    assert_eq!(property(host, "k3s", "MainPID"), k3s, "k3s was restarted");
}

/// The control: what the law about an empty database is for.
#[test]
fn without_the_agent_containerd_begins_on_an_empty_database_and_deletes_every_blob() {
    let lab = Lab::open("s-control").unwrap();
    let host = lab.host(HostSpec::new("n1", Suite::Trixie)).unwrap();
    host.boot().unwrap();
    wait_active(&host, "containerd");
    import(&host);
    let before = blobs(&host, STORE);
    host.cut().unwrap();
    host.edit(&format!("truncate -s 0 .{STORE}/{META}")).unwrap();
    host.boot().unwrap();
    wait_active(&host, "containerd");
    assert_eq!(images(&host), 0, "containerd begins as if nothing had been there");
    // One that was collected before the cut may be back.
    assert!(blobs(&host, STORE) >= before, "a blob is lost already");
    // Any change lets it collect what its database does not name.
    host.sh(&format!(
        "ctr -n other images import {ARCHIVE} >/dev/null; ctr -n other images rm --sync {IMAGE} >/dev/null"
    ))
    .unwrap();
    let gone = wait_until(Duration::from_secs(20), "blobs are deleted", || {
        Ok((blobs(&host, STORE) < before).then_some(()))
    });
    assert!(gone.is_ok(), "{} blobs of {before} are there", blobs(&host, STORE));
}
