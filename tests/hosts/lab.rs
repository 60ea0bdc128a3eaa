//! The lab itself: what later laws take for granted about hosts, power cuts and the network.

use std::time::{Duration, Instant};

use edge_lab::{Central, Fs, HostSpec, Lab, Service, Suite, canary, programs, wait_until};

const HOSTNAMED: &str = "busctl call org.freedesktop.hostname1 /org/freedesktop/hostname1 \
    org.freedesktop.hostname1 SetStaticHostname sb drifted false";

#[test]
fn every_suite_boots_with_dbus_and_containerd() {
    let lab = Lab::open("suites").unwrap();
    for suite in Suite::ALL {
        let host = lab.host(HostSpec::new(suite.name(), suite)).unwrap();
        assert_eq!(host.boot().unwrap(), "running", "{suite:?}");
        assert_eq!(host.sh("hostnamectl hostname").unwrap(), suite.name());
        let plugins =
            wait_until(Duration::from_secs(20), "containerd answers", || Ok(host.sh("ctr plugins ls").ok()));
        let overlay = plugins
            .unwrap()
            .lines()
            .any(|line| line.contains(" overlayfs ") && line.trim_end().ends_with("ok"));
        assert!(overlay, "{suite:?}: the overlayfs snapshotter is not ok");
    }
}

#[test]
fn a_power_cut_loses_what_was_not_synced() {
    let lab = Lab::open("cut").unwrap();
    for (name, fs) in [("ext4", Fs::Ext4), ("xfs", Fs::Xfs)] {
        let host = lab.host(HostSpec { fs, ..HostSpec::new(name, Suite::Trixie) }).unwrap();
        host.boot().unwrap();
        host.write_file("/etc/kept", "synced").unwrap();
        host.sh(HOSTNAMED).unwrap();
        assert_eq!(host.read_file("/etc/hostname").unwrap().as_deref(), Some("drifted\n"));
        host.cut().unwrap();
        assert_eq!(host.read_file("/etc/hostname").unwrap(), None, "{name}: hostnamed does not sync");
        assert_eq!(host.read_file("/etc/kept").unwrap().as_deref(), Some("synced"));
        host.boot().unwrap();
        host.sh(&format!("{HOSTNAMED}; sync /etc/hostname /etc")).unwrap();
        host.cut().unwrap();
        assert_eq!(host.read_file("/etc/hostname").unwrap().as_deref(), Some("drifted\n"), "{name}");
    }
}

#[test]
fn cut_and_boot_again_take_less_than_five_seconds() {
    let lab = Lab::open("quick").unwrap();
    let host = lab.host(HostSpec::new("n1", Suite::Trixie)).unwrap();
    host.boot().unwrap();
    // The best of many: other programs may have the processors for a while.
    let cycle = |_| {
        let began = Instant::now();
        host.cut().unwrap();
        host.boot().unwrap();
        began.elapsed()
    };
    let taken: Vec<Duration> =
        (0..20).map(cycle).take_while(|took| *took >= Duration::from_secs(5)).collect();
    assert!(taken.len() < 20, "cut and boot took {taken:?}");
}

#[test]
fn hosts_reach_each_other_until_a_cable_is_out() {
    let lab = Lab::open("two").unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(HostSpec::new(name, Suite::Bookworm)).unwrap());
    a.boot_no_wait().unwrap();
    b.boot().unwrap();
    a.wait_booted(Duration::from_secs(60)).unwrap();
    let ping = format!("ping -c 1 -W 1 {}", b.address());
    a.sh(&ping).unwrap();
    lab.net().unplug("b").unwrap();
    assert!(a.sh(&ping).is_err());
    lab.net().plug("b").unwrap();
    wait_until(Duration::from_secs(10), "the cable is in again", || Ok(a.sh(&ping).ok())).unwrap();
}

#[test]
fn a_host_reboots_by_itself_and_goes_off_in_good_order() {
    let lab = Lab::open("reboot").unwrap();
    let host = lab.host(HostSpec::new("n1", Suite::Trixie)).unwrap();
    host.boot().unwrap();
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let before = host.sh(boot_id).unwrap();
    std::thread::scope(|scope| {
        // What the lab runs inside meanwhile ends with the host and does not hold it up.
        let inside = scope.spawn(|| host.exec(&["sleep", "1000"]).unwrap());
        let entered = || Ok(host.sh("pgrep -x sleep").ok());
        wait_until(Duration::from_secs(10), "a program runs inside", entered).unwrap();
        host.sh("touch /root/unsynced; systemctl reboot").unwrap();
        let now = || Ok(host.sh(boot_id).ok().filter(|now| *now != before));
        wait_until(Duration::from_secs(30), "another boot", now).unwrap();
        assert_ne!(inside.join().unwrap().code, 0);
    });
    host.wait_booted(Duration::from_secs(30)).unwrap();
    host.off().unwrap();
    assert!(!host.is_on());
    assert_eq!(host.read_file("/root/unsynced").unwrap().as_deref(), Some(""));
}

#[test]
fn a_planted_secret_is_found_wherever_others_can_see_it() {
    let lab = Lab::open("canary").unwrap();
    let host = lab.host(HostSpec::new("n1", Suite::Trixie)).unwrap();
    host.boot().unwrap();
    let [open, hidden] = ["canary-open-5d1f", "canary-hidden-77ae"];
    host.write_file_mode("/etc/mine", hidden, 0o600).unwrap();
    host.write_file_mode("/var/lib/closed/inside", hidden, 0o644).unwrap();
    host.sh("chmod 700 /var/lib/closed").unwrap();
    assert_eq!(canary::scan(&host, &[open, hidden]).unwrap(), Vec::<String>::new());
    host.write_file("/etc/yours", open).unwrap();
    host.sh(&format!("systemd-run -q -E T={open} sleep {}", 1000)).unwrap();
    host.sh(&format!("systemd-run -q sh -c 'sleep 1000; : {open}'")).unwrap();
    let places = ["the environ of sleep", "the cmdline of sh", "the journal", "/etc/yours"];
    // systemd-run returns before its process has become the other program.
    let found = wait_until(Duration::from_secs(10), "every place is found", || {
        let found = canary::scan(&host, &[open, hidden])?.join("\n");
        Ok(places.iter().all(|place| found.contains(&format!("secret 0 in {place}"))).then_some(found))
    })
    .unwrap();
    assert!(!found.contains("secret 1"), "{found}");
    let all = canary::everywhere(&host, &[hidden]).unwrap();
    assert_eq!(all, ["secret 0 in /etc/mine", "secret 0 in /var/lib/closed/inside"]);
}

#[test]
fn a_fault_on_a_port_of_the_bridge_lasts_until_it_is_healed() {
    let lab = Lab::open("fault").unwrap();
    let host = lab.host(HostSpec::new("n1", Suite::Trixie)).unwrap();
    host.boot().unwrap();
    let serve = "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 8443, Listen => 5); while ($c = $s->accept) { close $c }";
    let mut service = Service::start(&lab, "echo", &["perl", "-e", serve]).unwrap();
    service.wait_listening(8443, Duration::from_secs(10)).unwrap();
    let connect = ["bash", "-c", "timeout 2 bash -c '</dev/tcp/10.77.0.1/8443'"];
    assert_eq!(host.exec(&connect).unwrap().code, 0);
    lab.net().fault(8443, "reject with tcp reset").unwrap();
    assert_eq!(host.exec(&connect).unwrap().code, 1);
    lab.net().heal().unwrap();
    lab.net().fault(8443, "drop").unwrap();
    assert_eq!(host.exec(&connect).unwrap().code, 124);
    lab.net().heal().unwrap();
    assert_eq!(host.exec(&connect).unwrap().code, 0);
}

#[test]
fn central_keeps_its_state_and_its_pin_over_a_kill() {
    let lab = Lab::open("central").unwrap();
    let mut central = Central::start(&lab).unwrap();
    let k3s = programs::k3s().unwrap();
    central.add_site("hz-001", &k3s, "v1.36.2+k3s1").unwrap();
    let token = central.token("hz-001", 3, true).unwrap();
    assert!(!token.is_empty());
    let pin = central.pin().unwrap();
    central.kill();
    central.start_again().unwrap();
    assert_eq!(central.pin().unwrap(), pin);
    assert!(central.run(&["site", "show", "hz-001"]).unwrap().success());
    assert!(central.nodes().unwrap().is_empty());
    central.stop().unwrap();
}

#[test]
fn a_host_for_a_kubelet_has_limits_and_own_kernel_settings() {
    let lab = Lab::open("kubelet").unwrap();
    let host = lab.host(HostSpec::with_kubelet("n1", Suite::Bookworm)).unwrap();
    let machines = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    assert_eq!(host.boot().unwrap(), "running");
    host.sh("dd if=/dev/kmsg of=/dev/null bs=8192 count=1").unwrap();
    host.sh("echo 77 >/proc/sys/kernel/panic").unwrap();
    assert_eq!(host.sh("cat /proc/sys/kernel/panic").unwrap(), "77");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/panic").unwrap(), machines);
    host.sh("ip address add 10.77.9.9/32 dev eth0").unwrap();
    let tree = if host.sh("stat -fc %T /sys/fs/cgroup").unwrap() == "cgroup2fs" { "" } else { "/memory" };
    host.sh(&format!("mkdir /sys/fs/cgroup{tree}/limited && rmdir /sys/fs/cgroup{tree}/limited")).unwrap();
}

#[test]
fn a_power_cut_at_any_moment_of_a_boot_leaves_a_host_that_boots() {
    let lab = Lab::open("moments").unwrap();
    let host = lab.host(HostSpec::new("n1", Suite::Trixie)).unwrap();
    for moment in [0, 20, 50, 100, 200, 400, 800] {
        host.boot_no_wait().unwrap();
        // The moment is what is tested; nothing is awaited.
        std::thread::sleep(Duration::from_millis(moment));
        host.cut().unwrap();
        assert!(!host.is_on());
    }
    host.boot_no_wait().unwrap();
    host.kill().unwrap();
    host.boot().unwrap();
}
