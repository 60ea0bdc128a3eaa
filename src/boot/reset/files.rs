//! Files of a life that is left: moved into the backup, or removed.
//!
//! Owns the places of the backup. What is moved goes by one rename, so that it
//! is in one place or the other; on another file system it stays there, in
//! `.edge-bootstrap-reset-N`. A mount is never followed and never emptied: of a
//! disk that a person gave k3s for its data, k3s's own parts are moved aside on
//! that disk. What is gone already was done before a cut.

use std::io::ErrorKind;

use super::look;
use crate::enrol::cache::{self, Stored};
use crate::plan::reset::{self as plan, mounts};
use crate::sys::root::FileError;
use crate::sys::statefile;
use crate::sys::{Root, atomic, trees};
use crate::{enrol, paths};

/// Where boot links of units are.
const BOOT_LINKS: &str = "/etc/systemd/system/multi-user.target.wants";
/// Made by mkfs in the first directory of a disk.
const LOST: &str = "lost+found";

/// Backup directory of the reset with this number.
#[must_use]
pub(super) fn backup(number: u64) -> String {
    format!("{}/reset-{number}", paths::BACKUP)
}

/// On another file system than our own state.
fn beside(top: &str, number: u64) -> String {
    format!("{top}/.edge-bootstrap-reset-{number}")
}

/// One more than any reset before.
///
/// # Errors
/// When the backups cannot be listed.
pub(super) fn next_number(root: &Root) -> Result<u64, FileError> {
    let names = root.list(paths::BACKUP)?;
    let numbers = names.iter().filter_map(|name| name.strip_prefix("reset-")?.parse::<u64>().ok());
    Ok(numbers.max().unwrap_or(0) + 1)
}

/// What is there and goes into the backup. A file at one of our places that we
/// did not write stays.
#[must_use]
pub(super) fn to_move(root: &Root) -> Vec<String> {
    let agent = root.list(&format!("{}/agent", paths::K3S_DATA)).unwrap_or_default();
    let there = plan::moved(&agent).into_iter().filter(|path| root.exists(path));
    let goes = |path: &String| path != paths::K3S_CONFIG || is_ours(root, path);
    there.filter(goes).filter(|path| !is_moved_already(root, path)).collect()
}

/// A disk at its place keeps the directory that it is mounted on; what is left
/// in it is the disk's own.
fn is_moved_already(root: &Root, path: &str) -> bool {
    let rooms = rooms(root);
    is_or_leads_to(&rooms, path) && parts(root, &rooms, path).is_empty()
}

/// What is there and is removed.
#[must_use]
pub(super) fn to_remove(root: &Root) -> Vec<String> {
    let mut all: Vec<String> = plan::REMOVED.iter().map(|path| (*path).to_owned()).collect();
    let results = root.list(plan::CNI_RESULTS).unwrap_or_default().into_iter();
    let own = results.filter(|name| plan::network::is_own_result(name));
    all.extend(own.map(|name| format!("{}/{name}", plan::CNI_RESULTS)));
    all.extend(plan::BOOT_RECORDS.map(str::to_owned));
    all.extend(own_files(root));
    let is_left = |path: &String| root.exists(path) && !is_empty_place(root, path);
    all.into_iter().filter(is_left).collect()
}

/// A disk of its own at `/var/lib/kubelet` stays mounted, and empty; a link to
/// one stays too.
fn is_empty_place(root: &Root, path: &str) -> bool {
    if is_linked(root, path) {
        return own_names(root, path).is_ok_and(|names| names.is_empty());
    }
    let mounts = look::mount_table(root).unwrap_or_default();
    let is_place = mounts.iter().any(|mount| mount.mount_point == path);
    is_place && root.list(path).is_ok_and(|names| names.iter().all(|name| name == LOST))
}

/// What is the kubelet's in a place that a link leads to.
fn own_names(root: &Root, path: &str) -> Result<Vec<String>, FileError> {
    let names = root.list(path)?.into_iter();
    Ok(names.filter(|name| plan::KUBELETS.contains(&name.as_str())).collect())
}

/// Whether a person gave it another disk by a link.
fn is_linked(root: &Root, path: &str) -> bool {
    let is_link = root.read_link(path).ok().flatten().is_some();
    is_link && root.stat(path).ok().flatten().is_some_and(|stat| stat.is_dir)
}

/// Files of ours that are there, with those of registries.
fn own_files(root: &Root) -> Vec<String> {
    let registries = root.list(paths::CONTAINERD_CERTS).unwrap_or_default();
    let hosts = registries.into_iter().map(|name| format!("{}/{name}/hosts.toml", paths::CONTAINERD_CERTS));
    hosts.chain(plan::own_files()).filter(|path| is_ours(root, path)).collect()
}

fn is_ours(root: &Root, path: &str) -> bool {
    root.read_text(path).ok().flatten().is_some_and(|text| plan::is_ours(path, &text))
}

/// Moves all of it into the backup.
///
/// # Errors
/// When something cannot be moved; it is then still in its place.
pub(super) fn move_aside(root: &Root, number: u64) -> Result<(), FileError> {
    root.make_dir(paths::BACKUP, 0o700)?;
    root.make_dir(&backup(number), 0o700)?;
    let rooms = rooms(root);
    for path in to_move(root) {
        if is_or_leads_to(&rooms, &path) {
            let parts = parts(root, &rooms, &path);
            parts.iter().try_for_each(|part| move_one(root, &rooms, (part, number)))?;
        } else {
            move_one(root, &rooms, (&path, number))?;
        }
    }
    Ok(())
}

/// Disks that a person mounted to give k3s room.
fn rooms(root: &Root) -> Vec<String> {
    let points = look::mount_table(root).unwrap_or_default().into_iter().map(|mount| mount.mount_point);
    points.filter(|point| mounts::is_room(point)).collect()
}

fn is_or_leads_to(rooms: &[String], path: &str) -> bool {
    rooms.iter().any(|room| room == path || mounts::is_below(room, path))
}

/// The parts of a directory that can be moved by one rename each: neither a
/// mount point nor on the way to one.
fn parts(root: &Root, rooms: &[String], path: &str) -> Vec<String> {
    let names = root.list(path).unwrap_or_default().into_iter();
    let own = names.filter(|name| name != LOST && !name.starts_with(".edge-bootstrap-reset-"));
    let inside = own.map(|name| format!("{path}/{name}"));
    inside
        .flat_map(|part| if is_or_leads_to(rooms, &part) { parts(root, rooms, &part) } else { vec![part] })
        .collect()
}

fn move_one(root: &Root, rooms: &[String], (path, number): (&str, u64)) -> Result<(), FileError> {
    let target = format!("{}{path}", backup(number));
    match rename(root, path, &target) {
        Err(error) if error.source.kind() == ErrorKind::CrossesDevices => {
            if root.plain_size(path)?.is_some() {
                return copy(root, path, &target);
            }
            let room = rooms.iter().filter(|room| mounts::is_below(path, room)).max_by_key(|room| room.len());
            let top = room.map_or_else(|| top_of(path), String::as_str);
            rename(root, path, &format!("{}{}", beside(top, number), path.strip_prefix(top).unwrap_or(path)))
        }
        other => other,
    }
}

/// A file on another file system: the copy is durable before it goes.
fn copy(root: &Root, path: &str, target: &str) -> Result<(), FileError> {
    let bytes = root.read(path)?.unwrap_or_default();
    atomic::write(root, &free_name(root, target), &bytes, 0o600)?;
    root.remove_file(path).map(|_| ())
}

/// The directory in which a part on another file system finds its place.
fn top_of(path: &str) -> &str {
    let data = mounts::is_below(path, paths::K3S_DATA).then_some(paths::K3S_DATA);
    data.unwrap_or_else(|| path.rsplit_once('/').map_or("", |(parent, _)| parent))
}

/// To the first free name; nothing is overwritten.
fn rename(root: &Root, path: &str, target: &str) -> Result<(), FileError> {
    if let Some((directory, _)) = target.rsplit_once('/') {
        root.make_dir(directory, 0o700)?;
    }
    root.rename(path, &free_name(root, target))
}

fn free_name(root: &Root, target: &str) -> String {
    let mut names =
        (1..).map(|again| if again == 1 { target.to_owned() } else { format!("{target}.{again}") });
    names.find(|name| !root.exists(name)).unwrap_or_else(|| target.to_owned())
}

/// Removes k3s's state of one host and boot. Gives mounts that were in the way:
/// nothing in them was touched.
///
/// # Errors
/// When something cannot be removed.
pub(super) fn remove(root: &Root) -> Result<Vec<String>, FileError> {
    let mut met = Vec::new();
    let own = own_files(root);
    for path in to_remove(root).into_iter().filter(|path| !own.contains(path)) {
        if !is_linked(root, &path) {
            met.extend(trees::remove(root, &path)?);
            continue;
        }
        for name in own_names(root, &path)? {
            met.extend(trees::remove(root, &format!("{path}/{name}"))?);
        }
    }
    Ok(met)
}

/// Removes our own files, the gate's line last, and our block in `/etc/hosts`.
///
/// # Errors
/// When one cannot be removed.
pub(super) fn remove_own(root: &Root) -> Result<(), FileError> {
    let hosts = root.read_text(paths::HOSTS)?;
    if let Some(text) = hosts.as_deref().and_then(plan::hosts_after) {
        let mode = root.stat(paths::HOSTS)?.map_or(0o644, |stat| stat.mode);
        atomic::write(root, paths::HOSTS, text.as_bytes(), mode)?;
    }
    for path in own_files(root) {
        root.remove_file(&path)?;
        if let Some((directory, _)) = path.rsplit_once('/') {
            root.sync_dir(directory)?;
            let is_drop_in = directory.ends_with(".service.d") || path.ends_with("/hosts.toml");
            let _ = is_drop_in && root.remove_empty_dir(directory);
        }
    }
    Ok(())
}

/// A link that was removed comes back with a cut, until its directory is synced.
pub(super) fn sync_boot_links(root: &Root) {
    if let Err(error) = root.sync_dir(BOOT_LINKS) {
        super::told("boot links are not durable yet", &error);
    }
}

/// Drops the assignment, and keeps whom this host believes: a new claim reaches
/// the service also when its key has changed since the settings were written.
///
/// # Errors
/// When it cannot be stored.
pub(super) fn drop_assignment(root: &Root, number: u64) -> Result<(), FileError> {
    let loaded = match statefile::load::<Stored>(root, paths::ASSIGNMENT) {
        Ok(loaded) => loaded.value(),
        // Nobody can tell the trust in it from the tokens.
        Err(_) if root.exists(paths::ASSIGNMENT) => {
            move_one(root, &[], (paths::ASSIGNMENT, number))?;
            None
        }
        Err(_) => None,
    };
    if let Some(stored) = loaded.filter(|stored| stored.envelope.is_some()) {
        let kept = Stored { trust: stored.trust, ..Stored::default() };
        cache::store(root, &kept).map_err(unstored)?;
    }
    // It holds the tokens too.
    root.remove_file(&format!("{}.prev", paths::ASSIGNMENT))?;
    Ok(())
}

fn unstored(error: enrol::EnrolError) -> FileError {
    FileError::new("write", paths::ASSIGNMENT, std::io::Error::other(error))
}

/// Drops who this host is.
///
/// # Errors
/// When something cannot be removed.
pub(super) fn forget(root: &Root) -> Result<(), FileError> {
    for path in plan::forgotten() {
        trees::remove(root, &path)?;
    }
    if root.exists(paths::BACKUP) {
        root.sync_dir(paths::BACKUP)?;
    }
    root.sync_dir(paths::STATE_DIR)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const K3S: &str = "/var/lib/rancher/k3s";
    const OURS: &str = "# Written by edge-bootstrap.\n[Unit]\n";

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, text) in files {
            root.ensure_dir(path.rsplit_once('/').unwrap().0).unwrap();
            atomic::write(&root, path, text.as_bytes(), 0o600).unwrap();
        }
        (dir, root)
    }

    fn node() -> (tempfile::TempDir, Root) {
        host(&[
            ("/var/lib/rancher/k3s/server/db/etcd/name", "a-1"),
            ("/var/lib/rancher/k3s/server/tls/server-ca.crt", "ca"),
            ("/var/lib/rancher/k3s/agent/client-kubelet.key", "key"),
            ("/var/lib/rancher/k3s/agent/images/pause.tar", "image"),
            ("/var/lib/rancher/k3s/storage/pvc/data", "of people"),
            ("/etc/rancher/node/password", "password"),
            (paths::K3S_CONFIG, "# Written by edge-bootstrap; changes here are put back.\n"),
            ("/etc/rancher/k3s/config.yaml.d/site.yaml", "of people"),
            ("/var/lib/edge-bootstrap/generations/3/server-token", "token"),
            (paths::NODE_KEY, "node key"),
            (paths::K3S_UNIT, OURS),
            ("/etc/systemd/system/k3s.service.d/10-edge-bootstrap.conf", OURS),
            ("/etc/systemd/system/k3s.service.d/20-site.conf", "of people"),
            ("/etc/systemd/system/k3s-agent.service", "[Unit]\nof install.sh"),
            ("/etc/cni/net.d/10-other.conflist", "of others"),
            (paths::CNI_LOOPBACK, "{\"name\":\"edge-loopback\"}"),
            ("/var/lib/cni/results/podman-1-eth0", "of others"),
            ("/var/lib/cni/results/cbr0-1-eth0", "k3s"),
            ("/var/lib/kubelet/pods/1/etc-hosts", "pod"),
            ("/run/k3s/containerd/state", "k3s"),
            (paths::HOSTS, "127.0.0.1 localhost\n# BEGIN edge-bootstrap\n10.0.0.1 a\n# END edge-bootstrap\n"),
        ])
    }

    fn reset(root: &Root, number: u64) {
        move_aside(root, number).unwrap();
        assert!(remove(root).unwrap().is_empty());
        remove_own(root).unwrap();
    }

    #[test]
    fn what_is_k3ss_goes_into_the_backup_and_what_is_of_others_stays() {
        let (_dir, root) = node();
        assert_eq!(next_number(&root).unwrap(), 1);
        reset(&root, 1);
        let text = |path: &str| root.read_text(path).unwrap();
        let kept = |path: &str| text(&format!("{}{path}", backup(1)));
        for (path, content) in [
            ("/var/lib/rancher/k3s/server/db/etcd/name", "a-1"),
            ("/var/lib/rancher/k3s/server/tls/server-ca.crt", "ca"),
            ("/var/lib/rancher/k3s/agent/client-kubelet.key", "key"),
            ("/var/lib/edge-bootstrap/generations/3/server-token", "token"),
        ] {
            assert_eq!((text(path), kept(path).as_deref()), (None, Some(content)), "{path}");
        }
        for path in [
            "/var/lib/rancher/k3s/agent/images/pause.tar",
            "/var/lib/rancher/k3s/storage/pvc/data",
            "/etc/rancher/node/password",
            "/etc/rancher/k3s/config.yaml.d/site.yaml",
            paths::NODE_KEY,
            "/etc/systemd/system/k3s.service.d/20-site.conf",
            "/etc/systemd/system/k3s-agent.service",
            "/etc/cni/net.d/10-other.conflist",
            "/var/lib/cni/results/podman-1-eth0",
        ] {
            assert!(root.exists(path), "{path}");
        }
        for path in [
            paths::K3S_CONFIG,
            paths::K3S_UNIT,
            "/etc/systemd/system/k3s.service.d/10-edge-bootstrap.conf",
            paths::CNI_LOOPBACK,
            "/var/lib/cni/results/cbr0-1-eth0",
            plan::KUBELET,
            plan::K3S_RUN,
        ] {
            assert!(!root.exists(path), "{path}");
        }
        assert_eq!(text(paths::HOSTS).as_deref(), Some("127.0.0.1 localhost\n"));
        assert!(to_move(&root).is_empty() && to_remove(&root).is_empty());
        assert_eq!(next_number(&root).unwrap(), 2);
    }

    #[test]
    fn a_second_time_changes_nothing_and_overwrites_nothing() {
        let (_dir, root) = node();
        reset(&root, 1);
        reset(&root, 1);
        root.make_dir(&format!("{K3S}/server"), 0o700).unwrap();
        atomic::write(&root, &format!("{K3S}/server/token"), b"new", 0o600).unwrap();
        reset(&root, 1);
        let kept = |name: &str| root.read_text(&format!("{}{K3S}/{name}", backup(1))).unwrap();
        assert_eq!(kept("server/db/etcd/name").as_deref(), Some("a-1"));
        assert_eq!(kept("server.2/token").as_deref(), Some("new"));
    }

    #[test]
    fn of_a_disk_for_the_database_only_its_parts_are_moved() {
        let (_dir, root) = node();
        let table = "25 1 8:2 / / rw - ext4 /dev/sda2 rw\n\
                     30 25 8:3 / /var/lib/rancher/k3s/server/db rw - ext4 /dev/sdb1 rw\n";
        root.ensure_dir("/proc/self").unwrap();
        atomic::write(&root, "/proc/self/mountinfo", table.as_bytes(), 0o644).unwrap();
        root.make_dir(&format!("{K3S}/server/db/lost+found"), 0o700).unwrap();
        reset(&root, 1);
        assert!(root.exists(&format!("{K3S}/server/db/lost+found")));
        assert!(!root.exists(&format!("{K3S}/server/db/etcd")) && !root.exists(&format!("{K3S}/server/tls")));
        assert!(root.exists(&format!("{}{K3S}/server/db/etcd/name", backup(1))));
        assert!(to_move(&root).is_empty());
    }

    #[test]
    fn a_link_to_another_disk_stays_and_what_is_behind_it_goes() {
        let (dir, root) = node();
        root.make_dir("/data", 0o755).unwrap();
        for (place, real) in [(plan::KUBELET, "/data/kubelet"), ("/var/lib/rancher", "/data/rancher")] {
            root.rename(place, real).unwrap();
            std::os::unix::fs::symlink(root.path(real), dir.path().join(place.trim_start_matches('/')))
                .unwrap();
        }
        let table = "25 1 8:2 / / rw - ext4 /dev/sda2 rw\n\
                     30 25 0:3 / /data/kubelet/pods/1/token rw - tmpfs none rw\n\
                     31 25 8:3 / /data/rancher/k3s/server/db rw - ext4 /dev/sdb1 rw\n";
        root.ensure_dir("/proc/self").unwrap();
        atomic::write(&root, "/proc/self/mountinfo", table.as_bytes(), 0o644).unwrap();
        root.make_dir("/data/kubelet/of-people", 0o755).unwrap();
        assert_eq!(look::to_unmount(&root), ["/var/lib/kubelet/pods/1/token"]);
        reset(&root, 1);
        assert!(root.exists(plan::KUBELET) && root.list("/data/kubelet").unwrap() == ["of-people"]);
        assert!(root.exists(&format!("{K3S}/server/db")) && !root.exists("/data/rancher/k3s/server/tls"));
        assert!(root.exists(&format!("{}{K3S}/server/db/etcd/name", backup(1))));
        assert!(to_move(&root).is_empty() && to_remove(&root).is_empty());
    }

    #[test]
    fn a_damaged_assignment_keeps_no_token_behind() {
        let (_dir, root) = host(&[(paths::ASSIGNMENT, "{ torn, with a K10 token")]);
        for _ in 0..2 {
            drop_assignment(&root, 4).unwrap();
            assert!(
                !root.exists(paths::ASSIGNMENT)
                    && root.exists(&format!("{}{}", backup(4), paths::ASSIGNMENT))
            );
        }
    }

    #[test]
    fn who_is_forgotten_has_no_key_and_no_password() {
        let (_dir, root) = node();
        forget(&root).unwrap();
        for path in plan::forgotten() {
            assert!(!root.exists(&path), "{path}");
        }
        assert!(root.exists("/var/lib/rancher/k3s/agent/images/pause.tar"));
    }

    #[test]
    fn the_assignment_goes_with_its_earlier_copy_and_the_trust_stays() {
        let (_dir, root) = host(&[]);
        root.make_dir(paths::STATE_DIR, 0o700).unwrap();
        let envelope = r#"{"payload":"QQ==","key_id":"k","signature":"QQ=="}"#;
        let Ok(envelope) = serde_json::from_str(envelope) else { panic!("the shape of an envelope changed") };
        let stored = Stored { envelope: Some(envelope), ..Stored::default() };
        cache::store(&root, &stored).unwrap();
        for _ in 0..2 {
            drop_assignment(&root, 1).unwrap();
            let now = statefile::load::<Stored>(&root, paths::ASSIGNMENT).unwrap().value().unwrap();
            assert_eq!((now.envelope, now.trust), (None, stored.trust.clone()));
            assert!(!root.exists("/var/lib/edge-bootstrap/assignment.json.prev"));
        }
    }
}
