//! `edge-bootstrap reset`: what is k3s's goes, what is of others stays, and the
//! host comes back as itself.

use edge_lab::room::LONG;
use edge_lab::{Host, Room, Suite, wait_until};
use serde_json::Value;

use crate::hand::{SOON, further_pass, is_active, property, status};

const IMAGE: &str = "docker.io/lab/reset:1";
const POD: &str = "/var/lib/kubelet/pods/1/volumes";
/// A name space of containerd that is somebody else's.
const OTHERS: &str = "ctr -n others";

/// k3s under another name, which a person once set up.
const UNIT: &str = "/usr/local/lib/systemd/system/k3s-old.service";

/// What of k3s a node with a pod network would have, and what somebody else has.
const NETWORK: &str = "
    set -e
    ip link add cni0 type bridge; ip link add veth-pod type veth peer name veth-pod2; ip link set veth-pod master cni0
    ip link add br-other type bridge; ip link add veth-other type veth peer name veth-other2
    ip link set veth-other master br-other
    ip netns add cni-1; ip netns add other
    iptables -N KUBE-SERVICES; iptables -A KUBE-SERVICES -s 10.254.0.1 -j ACCEPT; iptables -I INPUT -j KUBE-SERVICES
    iptables -N OTHER; iptables -A OTHER -s 192.0.2.1 -j DROP; iptables -A INPUT -j OTHER
    nft add table ip others
    mkdir -p /var/lib/cni/results; echo x >/var/lib/cni/results/podman-1-eth0; echo x >/var/lib/cni/results/cbr0-1-eth0
    echo '{\"name\":\"other\",\"type\":\"bridge\",\"bridge\":\"br-other\"}' >/etc/cni/net.d/99-z-other.conf
";

/// Rules of the legacy kind and sets of addresses, as the programs tell and take them:
/// the kernel of the computer under the lab need not have either.
const PROGRAMS: [(&str, &str); 3] = [
    ("iptables-legacy-save", "cat /srv/legacy"),
    (
        "iptables-legacy-restore",
        "test \"$1\" = --noflush && cat >/srv/legacy.told && sed -i /KUBE-/d /srv/legacy",
    ),
    // As the kernel does it: a set that a rule may name stays.
    (
        "ipset",
        "cd /srv/sets; case $1 in list) ls;; destroy) ! { iptables-save; cat /srv/legacy; } | grep -q KUBE- && rm $2;; esac",
    ),
];
const LEGACY: &str = "*filter
:INPUT ACCEPT [0:0]
:KUBE-LEGACY - [0:0]
:OTHER - [0:0]
-A INPUT -j KUBE-LEGACY
-A INPUT -j OTHER
-A KUBE-LEGACY -m set --match-set KUBE-CLUSTER-IP dst -j ACCEPT
COMMIT
";
const SETS: [&str; 3] = ["KUBE-CLUSTER-IP", "inet6:KUBE-SRC-1", "blocklist"];

/// Puts all of it on the host: an image, a container of the CRI and one of
/// somebody else, mounts of a pod, and a directory of the host in the pod, in
/// which a person then mounts a disk: the kernel shows that one in the pod too.
fn furnish(host: &Host) {
    host.write_file("/srv/archive.sh", edge_lab::MAKE_ARCHIVE).unwrap();
    host.sh(&format!(
        "set -e; sh /srv/archive.sh {IMAGE} 1 >/dev/null
         for name in k8s.io others; do
           ctr -n $name images import /srv/images/1.tar >/dev/null
           ctr -n $name run -d --cpu-shares 0 {IMAGE} held sleep 3600 </dev/null
         done
         mkdir -p {POD}/host {POD}/token /srv/data; echo precious >/srv/data/file
         mount --bind /srv/data {POD}/host; mount -t tmpfs none {POD}/token; echo secret >{POD}/token/token
         mkdir /srv/data/disk; mount -t tmpfs none /srv/data/disk; echo precious >/srv/data/disk/file
         grep -q precious {POD}/host/disk/file
         sleep 3600 </dev/null >/dev/null 2>&1 3<{POD}/token/token & "
    ))
    .unwrap();
    host.sh(NETWORK).unwrap();
    host.write_file(
        UNIT,
        "[Service]\nExecStart=/usr/local/bin/k3s agent\n[Install]\nWantedBy=multi-user.target\n",
    )
    .unwrap();
    host.sh("systemctl daemon-reload && systemctl enable k3s-old").unwrap();
}

/// What the images of k3s name, by digest, place and time: nothing of it comes again.
/// What no image names (the index of an archive, say) containerd removes when it likes.
fn images(host: &Host) -> Vec<String> {
    let blobs = host.sh("
        set -e; cd /var/lib/containerd/io.containerd.content.v1.content/blobs/sha256
        for image in $(ctr -n k8s.io images ls | grep -Eo 'sha256:[0-9a-f]{64}' | cut -d: -f2); do
          echo $image; grep -Eo 'sha256:[0-9a-f]{64}' $image | cut -d: -f2
        done | sort -u | xargs stat -c '%n %i %Y'");
    blobs.unwrap().lines().map(str::to_owned).collect()
}

fn is_there(host: &Host, command: &str) -> bool {
    host.exec(&["sh", "-c", command]).unwrap().success()
}

/// What is somebody else's, and what a node needs to be itself again.
fn assert_kept(host: &Host) {
    for command in [
        "grep -q precious /srv/data/file",
        "mountpoint -q /srv/data/disk && grep -q precious /srv/data/disk/file",
        "ip link show br-other && ip link show veth-other && ip netns list | grep -q other",
        "iptables -S INPUT | grep -q -- '-j OTHER' && iptables -S OTHER | grep -q 192.0.2.1",
        "nft list table ip others",
        "test -s /etc/cni/net.d/99-z-other.conf && test -s /var/lib/cni/results/podman-1-eth0",
        "test -x /usr/local/bin/k3s && test -s /etc/rancher/node/password && test -s /var/lib/edge-bootstrap/node.key",
        &format!("ctr -n k8s.io images ls -q | grep -q {IMAGE}"),
        &format!("{OTHERS} tasks ls | grep -q RUNNING"),
    ] {
        assert!(is_there(host, command), "is gone: {command}");
    }
}

fn assert_gone(host: &Host) {
    for command in [
        "pgrep -x k3s-agent || pgrep -x k3s-server || pgrep -x k3s",
        "grep -E '/var/lib/kubelet|/run/k3s|/k8s.io/' /proc/1/mountinfo",
        "ip link show cni0 || ip link show veth-pod || ip netns list | grep cni-",
        "iptables-save | grep KUBE-",
        "ctr -n k8s.io tasks ls | grep RUNNING",
        "ls -d /var/lib/kubelet /var/lib/rancher/k3s/server /etc/rancher/k3s/config.yaml",
        "ls -d /etc/systemd/system/k3s* /etc/containerd/edge-bootstrap.toml /var/lib/edge-bootstrap/generations",
        "ls /etc/systemd/system/multi-user.target.wants | grep k3s",
        "grep edge-bootstrap /etc/hosts",
    ] {
        let seen = host.exec(&["sh", "-c", &format!("({command}) 2>/dev/null")]).unwrap();
        assert_eq!(seen.stdout, "", "is there: {command}");
    }
}

fn node_id(host: &Host) -> Value {
    serde_json::from_str::<Value>(&host.sh("edge-bootstrap identity show --json").unwrap()).unwrap()["node_id"].clone()
}

fn wait_code(host: &Host, code: &str) {
    wait_until(SOON, code, || Ok((status(host)["waiting_on"]["code"] == code).then_some(()))).unwrap();
}

#[test]
fn a_reset_takes_what_is_k3ss_leaves_what_is_others_and_the_node_joins_again_as_itself() {
    let mut room = Room::open("reset").unwrap();
    for name in ["n1", "n2"] {
        room.add(name, Suite::Trixie).unwrap();
        room.wait_steady(LONG).unwrap();
    }
    let host = &room.hosts[1];
    for_habit_everything_ends_and_nothing_is_removed(host);
    furnish(host);
    what_must_not_begin_is_refused(&room);
    let before = (node_id(host), host.sh("stat -Lc '%i %Y' /usr/local/bin/k3s").unwrap());
    let held = images(host);
    let password = host.sh("cat /etc/rancher/node/password").unwrap();
    nothing_is_changed_without_yes(host);
    a_chain_that_no_program_tells_of_is_left(host);
    rules_of_the_other_kind_and_sets_are_shown(host);
    let said = host.exec(&["edge-bootstrap", "reset", "--yes"]).unwrap();
    assert!(said.success(), "{}{}", said.stdout, said.stderr);
    assert!(!said.stderr.contains("not looked at"), "{}", said.stderr);
    for word in ["this host was reset", "backup/reset-1", "edge-bootstrap apply"] {
        assert!(said.stdout.contains(word), "{word} is not in\n{}", said.stdout);
    }
    assert_gone(host);
    assert_kept(host);
    rules_of_the_other_kind_and_sets_are_gone(host);
    wait_code(host, "EB-reset");
    it_stays_out_over_a_power_cut(host);
    host.sh("edge-bootstrap apply").unwrap();
    room.wait_steady(LONG).unwrap();
    assert_eq!((node_id(host), host.sh("stat -Lc '%i %Y' /usr/local/bin/k3s").unwrap()), before);
    assert_eq!(host.sh("cat /etc/rancher/node/password").unwrap(), password);
    assert!(is_there(host, &format!("ctr -n k8s.io images ls -q | grep -q {IMAGE}")), "the image is gone");
    let holds = images(host);
    // A manifest, its configuration and its layer.
    assert!(held.len() >= 3 && held == holds, "{held:?} became {holds:?}");
    assert!(is_there(
        host,
        "test -d /var/lib/edge-bootstrap/backup/reset-1/var/lib/edge-bootstrap/generations"
    ));
    a_reset_that_is_killed_keeps_k3s_down_and_goes_on(host);
    forgotten_it_has_no_key(host);
}

fn for_habit_everything_ends_and_nothing_is_removed(host: &Host) {
    host.sh("k3s-killall.sh").unwrap();
    further_pass(host);
    assert!(!is_active(host, "k3s-agent") && is_there(host, "test -s /etc/rancher/k3s/config.yaml"));
    host.sh("edge-bootstrap resume").unwrap();
    wait_until(LONG, "k3s is up again", || Ok(is_active(host, "k3s-agent").then_some(()))).unwrap();
}

/// Beside another Kubernetes; paused. The only server is told what ends with it.
fn what_must_not_begin_is_refused(room: &Room) {
    let refused = |host: &Host, command: &[&str], word: &str| {
        let running = property(host, "k3s*", "InvocationID");
        let said = host.exec(command).unwrap();
        assert!(!said.success() && said.stderr.contains(word), "{command:?}: {}{}", said.stdout, said.stderr);
        assert_eq!(property(host, "k3s*", "InvocationID"), running);
    };
    let (server, agent) = (&room.hosts[0], &room.hosts[1]);
    let shown = server.sh("edge-bootstrap reset").unwrap();
    assert!(!shown.contains("REFUSED") && shown.contains("the only server of its cluster"), "{shown}");
    agent.sh("cp /bin/sleep /srv/kubelet && systemd-run -p Type=exec --unit=other /srv/kubelet 600").unwrap();
    refused(agent, &["edge-bootstrap", "reset", "--yes"], "another Kubernetes");
    refused(agent, &["k3s-killall.sh"], "another Kubernetes");
    agent.sh("systemctl stop other && edge-bootstrap pause --for 1h --reason test").unwrap();
    refused(agent, &["edge-bootstrap", "reset", "--yes"], "edge-bootstrap resume");
    agent.sh("edge-bootstrap resume").unwrap();
}

fn nothing_is_changed_without_yes(host: &Host) {
    let running = property(host, "k3s-agent", "InvocationID");
    let shown = host.sh("edge-bootstrap reset").unwrap();
    for word in ["k3s-agent.service", "/var/lib/kubelet", "cni0", "KUBE-SERVICES", "reset-1", "keep:"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
    assert!(!shown.contains("br-other") && !shown.contains("OTHER"), "{shown}");
    let json: Value = serde_json::from_str(&host.sh("edge-bootstrap reset --json").unwrap()).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(property(host, "k3s-agent", "InvocationID"), running);
    assert_kept(host);
}

/// Without iptables the kernel itself is asked, and the reset is not finished.
fn a_chain_that_no_program_tells_of_is_left(host: &Host) {
    host.sh("mkdir /srv/away && mv /usr/sbin/*tables* /srv/away").unwrap();
    let said = host.exec(&["edge-bootstrap", "reset", "--yes"]).unwrap();
    host.sh("mv /srv/away/* /usr/sbin").unwrap();
    assert!(
        !said.success() && said.stderr.contains("KUBE-SERVICES of table filter"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    let begun = host.read_file("/var/lib/edge-bootstrap/reset.json").unwrap().unwrap_or_default();
    assert!(begun.contains("\"finished\":false"), "{begun}");
}

fn rules_of_the_other_kind_and_sets_are_shown(host: &Host) {
    for (name, text) in PROGRAMS {
        host.write_file(&format!("/usr/local/sbin/{name}"), format!("#!/bin/sh\n{text}\n")).unwrap();
    }
    host.write_file("/srv/legacy", LEGACY).unwrap();
    let sets = SETS.join(" ");
    host.sh(&format!("chmod 755 /usr/local/sbin/*; mkdir /srv/sets; cd /srv/sets; touch {sets}")).unwrap();
    let shown = host.sh("edge-bootstrap reset").unwrap();
    for word in ["KUBE-LEGACY", "ipset KUBE-CLUSTER-IP", "ipset inet6:KUBE-SRC-1"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
    assert!(!shown.contains("OTHER") && !shown.contains("blocklist"), "{shown}");
}

fn rules_of_the_other_kind_and_sets_are_gone(host: &Host) {
    assert_eq!(host.sh("ls /srv/sets").unwrap().trim(), "blocklist");
    let told = host.sh("cat /srv/legacy.told; rm /usr/local/sbin/*").unwrap();
    assert!(told.contains("-X KUBE-LEGACY") && !told.contains("OTHER"), "{told}");
}

fn it_stays_out_over_a_power_cut(host: &Host) {
    host.cut().unwrap();
    host.boot().unwrap();
    wait_code(host, "EB-reset");
    further_pass(host);
    assert!(!is_there(host, "ls /etc/rancher/k3s/config.yaml || pgrep -x k3s"));
}

fn a_reset_that_is_killed_keeps_k3s_down_and_goes_on(host: &Host) {
    for moment in ["0.05", "0.2", "0.5", "1"] {
        // The moment is what is tested; nothing is awaited.
        let _ = host.exec(&["timeout", "-s", "KILL", moment, "edge-bootstrap", "reset", "--yes"]).unwrap();
        let record = host.read_file("/var/lib/edge-bootstrap/reset.json").unwrap().unwrap_or_default();
        if record.contains("\"finished\":false") {
            // The kill may have come before k3s was stopped.
            let _ = host.exec(&["systemctl", "restart", "k3s-agent"]).unwrap();
            further_pass(host);
            assert!(!is_active(host, "k3s-agent"), "k3s started after a kill at {moment} s");
        }
    }
    host.sh("edge-bootstrap reset --yes").unwrap();
    assert_gone_again(host);
    host.sh("edge-bootstrap apply").unwrap();
    edge_lab::room::steady(host, LONG).unwrap();
}

/// What an ordinary node has; the rest was gone before.
fn assert_gone_again(host: &Host) {
    assert!(!is_there(
        host,
        "ls -d /var/lib/kubelet /etc/rancher/k3s/config.yaml 2>/dev/null || pgrep -x k3s"
    ));
}

fn forgotten_it_has_no_key(host: &Host) {
    host.sh("edge-bootstrap reset --yes --forget").unwrap();
    further_pass(host);
    assert!(!is_there(
        host,
        "cd /var/lib/edge-bootstrap && ls node.key node.crt identity.json assignment.json"
    ));
    assert!(!is_there(host, "ls /etc/rancher/node/password"));
}
