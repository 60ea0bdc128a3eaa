//! Ways in which k3s forks or loses a cluster at start: without the gate they
//! happen, with it they are refused; and what the daemon then mends.
//!
//! The rules are k3s's own (k3s: pkg/cluster/managed.go, bootstrap.go); the same
//! laws hold for the stand-in and for a real k3s.

use std::time::Duration;

use edge_lab::room::{self, LONG};
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::Value;

use crate::hand::{SOON, further_pass, is_active, one_steady, property, status, wait_active, wait_told};

const DB: &str = "/var/lib/rancher/k3s/server/db";
const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// A server that nobody has, in the room's network.
const NOBODY: &str = "server: https://10.77.255.250:6443";

/// What k3s does when nobody stops it.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// A cluster of its own on sqlite.
    Sqlite,
    /// A new, empty cluster on etcd.
    NewEtcd,
    /// It begins anew in another directory.
    Elsewhere,
    /// Its member's directory is moved away, and it is a member no longer.
    Moved,
    /// It waits for ever without READY.
    Hangs,
    /// It ends; not every row is a fork.
    Ends,
}

impl Outcome {
    /// Holds on the host when it has happened.
    fn shell(self) -> String {
        match self {
            Self::Sqlite => format!("test -s {DB}/state.db && ! test -e {DB}/etcd/member/wal"),
            Self::NewEtcd => {
                format!(
                    "test -e {DB}/etcd/member/wal && ! cmp -s {DB}/etcd/name /root/saved/server/db/etcd/name"
                )
            }
            Self::Elsewhere => "test -d /srv/elsewhere/server".to_owned(),
            Self::Moved => format!("ls -d {DB}/etcd-backup-*"),
            Self::Hangs => "journalctl -b -u k3s -o cat | grep -q 'not a member of the etcd cluster' && \
                 test $(systemctl show -P ActiveState k3s) = activating"
                .to_owned(),
            Self::Ends => "test $(systemctl show -P ActiveState k3s) = failed".to_owned(),
        }
    }
}

/// What is broken, what k3s makes of it, and what the gate says.
struct Row {
    what: &'static str,
    broken: String,
    without: Outcome,
    code: &'static str,
}

fn rows() -> Vec<Row> {
    let token = format!(r#"$(sed -n 's/^token-file: *"\?\([^"]*\)"\?$/\1/p' {CONFIG})"#);
    let gone = format!("rm -r {DB}");
    let set = |line: &str| format!("echo '{line}' >>{CONFIG}");
    let tombstone = format!(": >{DB}/etcd/tombstone");
    let unit = |line: &str| {
        format!(
            "printf '[Service]\\n{line}\\n' >/etc/systemd/system/k3s.service.d/50-person.conf; systemctl daemon-reload"
        )
    };
    let row = |what, broken: &[&str], without, code| Row { what, broken: broken.join("; "), without, code };
    let (no_token, init, server) = (format!(": >{token}"), set("cluster-init: true"), set(NOBODY));
    let elsewhere = unit("ExecStart=\\nExecStart=/usr/local/bin/k3s server --data-dir /srv/elsewhere");
    vec![
        row("nothing, and nothing set", &[&gone], Outcome::Sqlite, "EB-datastore-missing"),
        row("nothing, cluster-init", &[&gone, &init], Outcome::NewEtcd, "EB-datastore-missing"),
        row("nothing, server, empty token", &[&gone, &server, &no_token], Outcome::Sqlite, "EB-token-empty"),
        row(
            "nothing, server, empty token, cluster-init",
            &[&gone, &server, &init, &no_token],
            Outcome::Ends,
            "EB-token-empty",
        ),
        row(
            "nothing, a variable says cluster-init",
            &[&gone, "echo K3S_CLUSTER_INIT=true >/etc/default/k3s"],
            Outcome::NewEtcd,
            "EB-datastore-missing",
        ),
        row("tombstone, no server", &[&tombstone], Outcome::Ends, "EB-tombstone"),
        row("tombstone, server does not answer", &[&tombstone, &server], Outcome::Moved, "EB-tombstone"),
        row(
            "tombstone, server, empty token",
            &[&tombstone, &server, &no_token],
            Outcome::Moved,
            "EB-token-empty",
        ),
        row("an empty member name", &[&format!(": >{DB}/etcd/name")], Outcome::Hangs, "EB-datastore-name"),
        row("another data directory", &[&elsewhere], Outcome::Elsewhere, "EB-override"),
    ]
}

/// Stops what runs and keeps what k3s and the agent have on disk.
fn save(host: &Host) {
    host.sh("systemctl stop edge-bootstrap k3s; rm -rf /root/saved; mkdir /root/saved
         cp -a /var/lib/rancher/k3s/server /root/saved/server
         cp -a /etc/rancher /root/saved/rancher
         cp -a /var/lib/edge-bootstrap /root/saved/state")
        .unwrap();
}

fn put_back(host: &Host) {
    host.sh("systemctl stop k3s; systemctl reset-failed k3s || true
         rm -rf /var/lib/rancher/k3s/server /etc/rancher /srv/elsewhere /etc/default/k3s
         rm -f /etc/systemd/system/k3s.service.d/50-person.conf /run/edge-bootstrap/refused-k3s.json
         cp -a /root/saved/server /var/lib/rancher/k3s/server
         cp -a /root/saved/rancher /etc/rancher
         cp -a /root/saved/state/. /var/lib/edge-bootstrap/
         systemctl daemon-reload")
        .unwrap();
}

/// As an operator's `systemctl edit` that empties what runs before k3s.
fn drop_gate(host: &Host) {
    let drop_in = "[Service]\nExecStartPre=\nExecStartPre=-/usr/local/sbin/lab-k3s-prep\nRestart=no\n";
    host.write_file("/run/systemd/system/k3s.service.d/zz-no-gate.conf", drop_in).unwrap();
    host.sh("systemctl daemon-reload; journalctl --rotate --vacuum-time=1s >/dev/null 2>&1 || true").unwrap();
}

fn give_gate_back(host: &Host) {
    host.sh("rm /run/systemd/system/k3s.service.d/zz-no-gate.conf; systemctl daemon-reload").unwrap();
}

/// Code of the refusal in force.
fn refused(host: &Host) -> String {
    let text = host.read_file("/run/edge-bootstrap/refused-k3s.json").unwrap().unwrap_or_default();
    let record: Value = serde_json::from_str(&text).unwrap_or_default();
    record["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn without_the_gate_each_row_forks_or_hangs_and_with_it_each_is_refused() {
    let room = one_steady("f-rows");
    let host = &room.hosts[0];
    save(host);
    for Row { what, broken, without, code } in rows() {
        put_back(host);
        drop_gate(host);
        host.sh(&broken).unwrap();
        host.sh("systemctl start --no-block k3s").unwrap();
        let happened = || Ok(host.exec(&["sh", "-c", &without.shell()])?.success().then_some(()));
        let limit = if room.k3s.real { Duration::from_secs(120) } else { SOON };
        let seen = wait_until(limit, what, happened);
        assert!(seen.is_ok(), "{what}: without the gate {without:?} was not seen\n{}", journal(host));
        put_back(host);
        give_gate_back(host);
        host.sh(&broken).unwrap();
        assert!(!host.exec(&["systemctl", "start", "k3s"]).unwrap().success(), "{what}: k3s started");
        assert_eq!(refused(host), code, "{what}\n{}", journal(host));
        assert!(
            !host.exec(&["sh", "-c", &without.shell()]).unwrap().success()
                || matches!(without, Outcome::Ends | Outcome::Hangs),
            "{what}: it happened in spite of the gate"
        );
        eprintln!("{what}: {without:?} without the gate, {code} with it");
    }
    put_back(host);
    host.sh("systemctl start edge-bootstrap k3s").unwrap();
    room.wait_steady(LONG).unwrap();
}

fn journal(host: &Host) -> String {
    host.sh("journalctl -b -u k3s -o cat --no-pager | tail -20").unwrap_or_default()
}

#[test]
fn a_lost_node_password_and_member_name_are_put_back_before_k3s_starts() {
    let room = one_steady("f-lost");
    let host = &room.hosts[0];
    let (password, name) = ("/etc/rancher/node/password", format!("{DB}/etcd/name"));
    let read = |path: &str| host.sh(&format!("cat {path}")).unwrap();
    let before = (read(password), read(&name));
    assert_eq!(read("/var/lib/edge-bootstrap/backup/node-password"), before.0, "no copy was made");
    assert_eq!(host.sh("stat -c %a /var/lib/edge-bootstrap/backup/node-password").unwrap(), "600");
    let lost = [format!("rm -r /etc/rancher/node; : >{name}"), format!(": >{password}; rm {name}")];
    for how in lost {
        host.sh(&format!("systemctl stop edge-bootstrap k3s; {how}; systemctl start edge-bootstrap"))
            .unwrap();
        assert_eq!((read(password), read(&name)), before, "READY came before `{how}` was mended");
        host.sh("systemctl start k3s").unwrap();
        wait_active(host, "k3s");
        room.wait_steady(LONG).unwrap();
    }
    // Somebody's own password is told and left alone.
    host.sh(&format!("echo 0123456789abcdef0123456789abcdef >{password}")).unwrap();
    further_pass(host);
    assert!(status(host)["findings"].to_string().contains("EB-node-password"), "nobody is told");
    assert_eq!(read(password), "0123456789abcdef0123456789abcdef");
}

#[test]
fn a_drop_in_that_takes_the_gate_away_is_told_and_left_alone() {
    let room = one_steady("f-dropped");
    let host = &room.hosts[0];
    assert!(!status(host)["findings"].to_string().contains("EB-gate-dropped"));
    host.sh("mkdir -p /etc/systemd/system/k3s.service.d
         printf '[Service]\\nExecStartPre=\\n' >/etc/systemd/system/k3s.service.d/override.conf
         systemctl daemon-reload")
        .unwrap();
    further_pass(host);
    assert!(status(host)["findings"].to_string().contains("EB-gate-dropped"), "{}", status(host));
    host.sh("test -e /etc/systemd/system/k3s.service.d/override.conf").unwrap();
    assert!(is_active(host, "k3s"));
}

#[test]
fn a_k3s_outside_its_unit_keeps_the_unit_from_starting_until_it_ends() {
    let room = one_steady("f-orphan");
    let host = &room.hosts[0];
    host.sh("systemctl stop edge-bootstrap k3s; systemd-run --unit orphan /usr/local/bin/k3s server")
        .unwrap();
    wait_until(SOON, "the orphan listens", || {
        Ok(host
            .exec(&["sh", "-c", "grep -q ':192B .* 0A ' /proc/net/tcp /proc/net/tcp6"])?
            .success()
            .then_some(()))
    })
    .unwrap();
    assert!(!host.exec(&["systemctl", "start", "k3s"]).unwrap().success(), "two of them run");
    assert_eq!(refused(host), "EB-orphan", "{}", journal(host));
    let pid = property(host, "orphan", "MainPID");
    wait_told(host, "k3s", &format!("process {pid} "));
    host.sh("systemctl stop orphan").unwrap();
    wait_active(host, "k3s");
}

/// A room of three servers.
pub fn three_servers(name: &str) -> Room {
    let mut room = Room::open(name).unwrap();
    room.add_all(&["n1", "n2", "n3"].map(|name| (name, Suite::Trixie))).unwrap();
    room.wait_steady(LONG).unwrap();
    let servers = || room.hosts.iter().filter(|host| status(host)["role"] == "server").count();
    wait_until(LONG, "three servers", || Ok((servers() == 3).then_some(()))).unwrap();
    room.wait_steady(LONG).unwrap();
    room
}

#[test]
fn a_removed_member_is_moved_aside_by_the_daemon_and_joins_anew() {
    let room = three_servers("f-removed");
    let host = &room.hosts[2];
    let node = host.sh("hostname").unwrap();
    let member = host.sh(&format!("cat {DB}/etcd/name")).unwrap();
    room.hosts[0].sh(&format!("k3s kubectl annotate node {node} etcd.k3s.cattle.io/remove=true")).unwrap();
    wait_until(LONG, "the tombstone", || {
        Ok(host.exec(&["test", "-e", &format!("{DB}/etcd/tombstone")])?.success().then_some(()))
    })
    .unwrap();
    // A person restarts it, as k3s's own message asks for.
    let _ = host.exec(&["systemctl", "restart", "k3s"]).unwrap();
    wait_until(LONG, "a new member name", || {
        let name = host.exec(&["cat", &format!("{DB}/etcd/name")])?.stdout;
        let name = name.trim();
        Ok((!name.is_empty() && name != member && is_active(host, "k3s")).then_some(()))
    })
    .unwrap();
    room::steady(host, LONG).unwrap();
    assert_eq!(host.sh(&format!("cat {DB}/etcd.quarantine-1/name")).unwrap(), member, "the old one is kept");
    host.sh(&format!("! ls -d {DB}/etcd-backup-*")).unwrap();
    let shown = host.sh("edge-bootstrap identity show").unwrap();
    let name = host.sh(&format!("cat {DB}/etcd/name")).unwrap();
    assert!(shown.contains(&name), "the new name is not pinned: {shown}");
    room.wait_steady(LONG).unwrap();
}
