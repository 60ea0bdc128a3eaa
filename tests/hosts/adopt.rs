//! `edge-bootstrap adopt`: a k3s that its own installer put on a host is taken
//! over while it runs, and comes back as itself.

use edge_lab::room::{LONG, steady};
use edge_lab::{Host, Room, Suite, wait_until};

use crate::hand::{further_pass, invocations, property, status_text};

/// The command line of the field. `--flannel-backend none` stands for `--no-flannel`,
/// which k3s does not know any more since v1.26; the address is one. A real kubelet
/// ends where the machine's cgroups are of version 1, unless it is told not to.
fn field(room: &Room, host: &Host) -> String {
    let is_v1 = room.k3s.real && host.exec(&["test", "-e", "/sys/fs/cgroup/cpu"]).unwrap().success();
    let kubelet = if is_v1 { " --kubelet-arg fail-cgroupv1=false" } else { "" };
    let ip = host.address().to_string();
    let name = ip.replace('.', "-");
    format!(
        "--disable coredns,servicelb,traefik,local-storage,metrics-server --disable-kube-proxy \
         --disable-network-policy --flannel-backend none --cluster-init --cluster-cidr 10.253.0.0/16 \
         --service-cidr 10.254.0.0/16 --container-runtime-endpoint unix:///run/containerd/containerd.sock \
         --node-name {name} --node-ip {ip}{kubelet}"
    )
}

const NODES: &str = "k3s kubectl get nodes -o name";
const UNIT: &str = "/etc/systemd/system/k3s.service";

/// The unit as the installer leaves it: each argument quoted, in a line of its own.
fn unit(arguments: &str) -> String {
    let arguments: String = arguments.split_whitespace().map(|word| format!("\t'{word}' \\\n")).collect();
    format!(
        "[Unit]\nDescription=Lightweight Kubernetes\nDocumentation=https://k3s.io\nWants=network-online.target\n\
         After=network-online.target\n\n[Install]\nWantedBy=multi-user.target\n\n[Service]\nType=notify\n\
         EnvironmentFile=-/etc/default/%N\nEnvironmentFile=-/etc/sysconfig/%N\nEnvironmentFile=-{UNIT}.env\n\
         KillMode=process\nDelegate=yes\nUser=root\nLimitNOFILE=1048576\nLimitNPROC=infinity\nLimitCORE=infinity\n\
         TasksMax=infinity\nTimeoutStartSec=0\nRestart=always\nRestartSec=5s\n\
         ExecStartPre=-/sbin/modprobe br_netfilter\nExecStartPre=-/sbin/modprobe overlay\n\
         ExecStart=/usr/local/bin/k3s \\\n    server \\\n{arguments}\n"
    )
}

/// A host on which the installer was run, without our package.
fn installed(room: &Room) -> Host {
    let host = room.bare("n1", Suite::Trixie).unwrap();
    host.boot().unwrap();
    host.copy_in(&room.k3s.path, "/usr/local/bin/k3s").unwrap();
    host.write_file(UNIT, unit(&field(room, &host))).unwrap();
    let variables = "K3S_TOKEN='of-the-field'\nNO_PROXY=10.0.0.0/8\n";
    host.write_file_mode(&format!("{UNIT}.env"), variables, 0o600).unwrap();
    host.sh("chmod 755 /usr/local/bin/k3s; ln -s k3s /usr/local/bin/kubectl
         systemctl daemon-reload; systemctl start containerd; systemctl enable --now k3s")
        .unwrap();
    host
}

/// Who it is in its cluster, and the main processes that must go on.
fn itself(host: &Host) -> [String; 4] {
    let read = |path: &str| host.read_file(path).unwrap().unwrap_or_default();
    [
        read("/var/lib/rancher/k3s/server/db/etcd/name"),
        read("/var/lib/rancher/k3s/server/token"),
        read("/etc/rancher/node/password"),
        host.sh(NODES).unwrap(),
    ]
}

fn processes(host: &Host) -> [String; 2] {
    ["k3s", "containerd"].map(|unit| property(host, unit, "MainPID"))
}

#[test]
fn a_k3s_of_its_own_installer_is_taken_over_while_it_runs_and_comes_back_as_itself_after_a_cut() {
    let mut room = Room::open("adopt").unwrap();
    let host = installed(&room);
    room.hosts.push(host);
    let host = &room.hosts[0];
    let is_there = || Ok(host.sh(NODES).is_ok_and(|nodes| nodes.starts_with("node/")).then_some(()));
    wait_until(LONG, "its node is there", is_there).unwrap();
    let who = itself(host);
    host.install(room.package()).unwrap();
    let command = it_is_left_alone_until_a_person_says_so(&room, host);
    let command: Vec<&str> = command.split(' ').collect();
    a_cut_in_the_middle_starts_the_same_k3s(&room, &command, &who);
    let before = (itself(host), processes(host), invocations(host));
    let said = host.exec(&command).unwrap();
    assert!(matches!(said.code, 0 | 75), "{}{}", said.stdout, said.stderr);
    steady(host, LONG).unwrap();
    further_pass(host);
    assert_eq!((itself(host), processes(host), invocations(host)), before, "something was started again");
    it_is_ours(host);
    room.cut().unwrap();
    room.boot().unwrap();
    room.wait_steady(LONG).unwrap();
    assert_eq!(itself(host), who, "another node after the cut");
    it_is_ours(host);
}

/// The take-over ends at the environment file, which nothing can replace while it is
/// a mount, and then the power goes. k3s would not start with a network that is on
/// its command line and in its file.
fn a_cut_in_the_middle_starts_the_same_k3s(room: &Room, command: &[&str], who: &[String; 4]) {
    let host = &room.hosts[0];
    host.sh(&format!("mount --bind {UNIT}.env {UNIT}.env")).unwrap();
    let said = host.exec(command).unwrap();
    assert!(said.code == 1 && said.stderr.contains("k3s.service.env"), "{}{}", said.stdout, said.stderr);
    room.cut().unwrap();
    room.boot().unwrap();
    let is_up = || Ok(host.sh(NODES).is_ok_and(|nodes| nodes == who[3]).then_some(()));
    wait_until(LONG, "the same node after a cut in the middle", is_up).unwrap();
    assert_eq!(itself(host), *who, "another node after a cut in the middle");
    let environment = format!("tr '\\0' '\\n' </proc/{}/environ", processes(host)[0]);
    let variables = host.sh(&environment).unwrap();
    assert!(variables.contains("K3S_CONFIG_FILE=/etc/rancher/k3s/adopt.yaml"), "{variables}");
    let waits = || Ok(status_text(host).contains("EB-adopt-needed").then_some(()));
    wait_until(LONG, "a person is asked for again", waits).unwrap();
}

/// Gives the command that does it, as it was printed.
fn it_is_left_alone_until_a_person_says_so(room: &Room, host: &Host) -> String {
    let theirs = unit(&field(room, host));
    let shown = host.exec(&["edge-bootstrap", "adopt", "--site", "hz-017"]).unwrap();
    assert_eq!(shown.code, 2, "{}{}", shown.stdout, shown.stderr);
    for words in ["--cluster-init", "K3S_TOKEN=(secret)", "NO_PROXY", "restart nothing"] {
        assert!(shown.stdout.contains(words), "{words} is not in\n{}", shown.stdout);
    }
    let json = host.exec(&["edge-bootstrap", "adopt", "--site", "hz-017", "--json"]).unwrap().stdout;
    assert!(!shown.stdout.contains("of-the-field") && !json.contains("of-the-field"), "a secret is shown");
    assert_eq!(host.read_file(UNIT).unwrap().unwrap(), theirs);
    assert_eq!(host.read_file("/etc/rancher/k3s/config.yaml").unwrap(), None);
    let line = shown.stdout.lines().find_map(|line| line.strip_prefix("to take it over: "));
    line.unwrap_or_else(|| panic!("no command in\n{}", shown.stdout)).to_owned()
}

/// Nothing is left to do, and what was on the command line is in our file.
fn it_is_ours(host: &Host) {
    let plan = host.exec(&["edge-bootstrap", "plan"]).unwrap();
    assert_eq!(plan.code, 0, "{}{}\n{}", plan.stdout, plan.stderr, status_text(host));
    let read = |path: &str| host.read_file(path).unwrap().unwrap_or_default();
    let (unit, config) = (read(UNIT), read("/etc/rancher/k3s/config.yaml"));
    assert!(unit.contains("Written by edge-bootstrap") && !unit.contains("--cluster"), "{unit}");
    for line in ["cluster-cidr: \"10.253.0.0/16\"", "disable-kube-proxy: true", "flannel-backend: \"none\""] {
        assert!(config.contains(line), "{line} is not in\n{config}");
    }
    let left = read(&format!("{UNIT}.env"));
    assert!(left.contains("NO_PROXY=10.0.0.0/8") && !left.contains("K3S_"), "{left}");
    let listed = host.sh("ls /etc/rancher/k3s /etc/systemd/system/k3s.service.d").unwrap();
    assert!(!listed.contains("adopt"), "what is left of the take-over:\n{listed}");
}
