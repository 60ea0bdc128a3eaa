//! A renamed host gets its name back within seconds, for good, and says who did
//! it: by hand, by DHCP, by cloud-init, alone and all hosts of a room at once.

use std::time::{Duration, Instant};

use edge_lab::room::{LONG, steady};
use edge_lab::{Host, HostSpec, Room, Suite, wait_until};

use crate::hand::{SOON, further_pass, one_steady, status, told, wait_active};

/// How long a wrong name may stay.
const LIMIT: Duration = Duration::from_secs(5);
/// Programs that name hosts, as Debian 12 has them.
const WRITERS: &[&str] = &["cloud-init", "isc-dhcp-client", "network-manager"];

fn names(host: &Host) -> String {
    host.sh("hostname; cat /etc/hostname").unwrap()
}

/// Waits until both names are `name` again; gives how long that took from `since` on.
fn is_back(host: &Host, name: &str, since: Instant) -> Duration {
    let right = format!("{name}\n{name}");
    let back = || {
        Ok((host.exec(&["sh", "-c", "hostname; cat /etc/hostname"])?.stdout.trim() == right).then_some(()))
    };
    wait_until(SOON, "the name is back", back).unwrap();
    let taken = since.elapsed();
    println!("{}: {name} is back after {:.2} s", host.name(), taken.as_secs_f32());
    taken
}

/// One of three rounds ends within the limit: other programs may have the processors
/// for a while.
fn soon(host: &Host, round: impl Fn() -> Duration) {
    let is_soon = (0..3).any(|_| {
        further_pass(host);
        round() < LIMIT
    });
    assert!(is_soon, "it took longer than {LIMIT:?}, three times");
}

/// The finding about a change of the name, once it says `what`.
fn finding(host: &Host, what: &str) -> String {
    let found = || {
        let findings = status(host)["findings"].as_array().cloned().unwrap_or_default();
        let mut texts = findings.iter().filter(|it| it["code"] == "EB-hostname-changed");
        let text = texts.next().and_then(|it| it["text"].as_str()).unwrap_or_default().to_owned();
        Ok(text.contains(what).then_some(text))
    };
    let text = wait_until(SOON, &format!("a finding with `{what}`"), found).unwrap();
    println!("{}: {text}", host.name());
    text
}

/// The power goes, and the disk has the right name: nothing puts it back meanwhile.
fn survives_a_cut(host: &Host, name: &str) {
    host.cut().unwrap();
    assert_eq!(host.read_file("/etc/hostname").unwrap().as_deref(), Some(format!("{name}\n").as_str()));
    host.boot().unwrap();
    assert_eq!(names(host), format!("{name}\n{name}"));
    steady(host, LONG).unwrap();
}

#[test]
fn a_name_changed_by_hand_is_back_within_5_s_for_good_and_the_way_is_told() {
    let room = one_steady("h-hand");
    let host = &room.hosts[0];
    let name = host.sh("hostname").unwrap();
    assert!(
        !status(host)["findings"].to_string().contains("EB-hostname-changed"),
        "the first name is no change"
    );
    let ways = [
        ("hostname by-sethostname", "by-sethostname", "as sethostname(2) leaves it"),
        ("hostnamectl hostname by-hostnamed", "by-hostnamed", "a caller of hostnamed that is not known"),
        ("echo by-file >/etc/hostname", "by-file", "/etc/hostname was changed at"),
        ("rm /etc/hostname", "gone from /etc/hostname", "/etc/hostname was gone"),
    ];
    for (act, found, who) in ways {
        soon(host, || {
            let since = Instant::now();
            host.sh(act).unwrap();
            is_back(host, &name, since)
        });
        let text = finding(host, who);
        assert!(text.contains(found), "{text}");
        survives_a_cut(host, &name);
        finding(host, who);
    }
}

#[test]
fn a_managed_file_changed_by_hand_is_back_within_5_s_and_then_it_is_quiet() {
    let room = one_steady("h-file");
    let host = &room.hosts[0];
    for path in ["/etc/hosts", "/etc/rancher/k3s/config.yaml", "/etc/containerd/edge-bootstrap.toml"] {
        let before = host.read_file(path).unwrap();
        soon(host, || {
            let since = Instant::now();
            host.sh(&format!("sed -i '$d' {path}")).unwrap();
            wait_until(SOON, path, || Ok((host.read_file(path)? == before).then_some(()))).unwrap();
            println!("{path} is back after {:.2} s", since.elapsed().as_secs_f32());
            since.elapsed()
        });
    }
    // A pass that wakes itself by its own writes would never be quiet for so long.
    let mut seen = (Instant::now(), status(host)["last_pass"].clone());
    wait_until(LONG, "6 s without a pass, with much going on in /etc", || {
        host.sh("echo x >/etc/noise; mv /etc/noise /etc/noise.2; chmod 600 /etc/noise.2")?;
        let now = status(host)["last_pass"].clone();
        if now != seen.1 {
            seen = (Instant::now(), now);
        }
        Ok((seen.0.elapsed() > Duration::from_secs(6)).then_some(()))
    })
    .unwrap();
}

/// When the daemon put the name back in this boot, in microseconds of the clock, as the kernel took the line.
fn put_back_at(host: &Host) -> u64 {
    let lines = host.sh("journalctl -b -u edge-bootstrap -o json --no-pager").unwrap();
    let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let line = lines.find(|line| line["MESSAGE"].as_str().is_some_and(|text| text.contains("put back")));
    line.expect("no line says it")["_SOURCE_REALTIME_TIMESTAMP"].as_str().unwrap().parse().unwrap()
}

/// When k3s was first started in this boot, by the same clock.
fn k3s_began_at(host: &Host) -> u64 {
    let property =
        "/org/freedesktop/systemd1/unit/k3s_2eservice org.freedesktop.systemd1.Unit InactiveExitTimestamp";
    let said = host.sh(&format!("busctl get-property org.freedesktop.systemd1 {property}")).unwrap();
    said.trim_start_matches("t ").parse().unwrap()
}

fn rename_without_agent(host: &Host, other: &str) {
    host.sh(&format!(
        "systemctl kill -s STOP edge-bootstrap
         hostnamectl hostname {other}; sync /etc/hostname /etc"
    ))
    .unwrap();
    assert_eq!(names(host), format!("{other}\n{other}"));
}

#[test]
fn a_name_changed_behind_a_dead_agent_is_right_after_the_power_cut_before_k3s_starts() {
    let room = one_steady("h-dead");
    let host = &room.hosts[0];
    let name = host.sh("hostname").unwrap();
    rename_without_agent(host, "while-dead");
    host.sh("journalctl --sync").unwrap();
    host.cut().unwrap();
    assert_eq!(host.read_file("/etc/hostname").unwrap().as_deref(), Some("while-dead\n"));
    host.boot().unwrap();
    steady(host, LONG).unwrap();
    assert_eq!(names(host), format!("{name}\n{name}"));
    assert_eq!(told(host, "k3s", "EB-hostname"), 0, "k3s was tried under the wrong name");
    assert!(put_back_at(host) < k3s_began_at(host));
    // The lines of the boot before are found by the time at which the file was changed.
    let text = finding(host, "a caller of hostnamed that is not known");
    assert!(text.contains("while-dead") && text.contains("changed before boot"), "{text}");
}

#[test]
fn a_room_whose_hosts_are_renamed_alone_and_all_at_once_comes_back_by_itself_after_power_cuts() {
    let mut room = Room::open("h-room").unwrap();
    room.add_all(&["n1", "n2", "n3"].map(|name| (name, Suite::Trixie))).unwrap();
    room.wait_steady(LONG).unwrap();
    let right: Vec<String> = room.hosts.iter().map(names).collect();
    let alone: Vec<Vec<usize>> = (0..3).map(|at| vec![at]).collect();
    for renamed in alone.into_iter().chain([vec![0, 1, 2]]) {
        for at in &renamed {
            rename_without_agent(&room.hosts[*at], &format!("other-{at}"));
        }
        room.cut().unwrap();
        room.boot().unwrap();
        for host in &room.hosts {
            host.wait_booted(LONG).unwrap();
        }
        room.wait_steady(LONG).unwrap();
        assert_eq!(room.hosts.iter().map(names).collect::<Vec<_>>(), right);
        for at in renamed {
            finding(&room.hosts[at], &format!("other-{at}"));
        }
    }
}

/// A room whose host has the programs that name hosts. NetworkManager does not
/// run: it would take the lab's own interface over.
fn with_writers(name: &str) -> Room {
    let mut room = Room::open(name).unwrap();
    let spec = HostSpec { packages: WRITERS, ..HostSpec::new("n1", Suite::Bookworm) };
    let host = room.lab.host(spec).unwrap();
    host.edit(
        "ln -s /dev/null etc/systemd/system/NetworkManager.service
         ln -s /dev/null etc/systemd/system/NetworkManager-wait-online.service
         : >etc/cloud/cloud-init.disabled
         echo 'network: {config: disabled}' >etc/cloud/cloud.cfg.d/10-lab.cfg
         mkdir -p var/lib/cloud/seed/nocloud
         printf 'instance-id: i-1\\nlocal-hostname: by-cloud\\n' >var/lib/cloud/seed/nocloud/meta-data
         printf '#cloud-config\\nmanage_etc_hosts: true\\n' >var/lib/cloud/seed/nocloud/user-data
         printf 'datasource_list: [NoCloud]\\n' >etc/cloud/cloud.cfg.d/11-lab.cfg",
    )
    .unwrap();
    host.boot().unwrap();
    room.configure(&host).unwrap();
    host.install(room.package()).unwrap();
    room.hosts.push(host);
    room.wait_steady(LONG).unwrap();
    room
}

/// Lets `act` happen while the daemon stands still and our files against it are
/// away, as on a host where somebody removed them; gives the moment in which
/// the daemon goes on.
fn behind_its_back(host: &Host, file: &str, act: &str) -> Instant {
    host.sh(&format!("systemctl kill -s STOP edge-bootstrap; mv {file} /root/away; {act}")).unwrap();
    let since = Instant::now();
    host.sh("systemctl kill -s CONT edge-bootstrap").unwrap();
    since
}

#[test]
fn cloud_init_is_kept_from_naming_the_host_and_put_right_and_named_where_it_did() {
    let room = with_writers("h-cloud");
    let host = &room.hosts[0];
    let name = host.sh("hostname").unwrap();
    let file = "/etc/cloud/cloud.cfg.d/99-edge-bootstrap.cfg";
    host.sh(&format!("test -s {file}; cloud-init init --local; cloud-init init")).unwrap();
    let single = "cloud-init single --frequency always --name";
    host.sh(&format!("{single} set_hostname; {single} update_hostname")).unwrap();
    assert_eq!(names(host), format!("{name}\n{name}"), "cloud-init named the host all the same");
    let act = format!("{single} set_hostname; test \"$(hostname)\" = by-cloud");
    let since = behind_its_back(host, file, &act);
    is_back(host, &name, since);
    finding(host, "by cloud-init: its log at");
    // User data wins over files in /etc: our block of the hosts file comes back.
    host.sh(&format!("echo '192.0.2.9 somebody' >>/etc/hosts; {single} update_etc_hosts")).unwrap();
    wait_until(SOON, "the names of the room are back", || {
        let now = host.read_file("/etc/hosts")?.unwrap_or_default();
        Ok((now.contains("# BEGIN edge-bootstrap") && now.contains(&name)).then_some(()))
    })
    .unwrap();
    let now = host.read_file("/etc/hosts").unwrap().unwrap();
    assert!(!now.contains("somebody"), "cloud-init did not write the file");
    survives_a_cut(host, &name);
}

/// A host of the room that hands out addresses, and with each the name `given`.
fn dhcp_server(room: &Room) -> Host {
    let server = room.bare("dhcp", Suite::Trixie).unwrap();
    server.boot().unwrap();
    server
}

/// dhclient writes a lease down at most every 15 s: they must last longer than that.
fn serve(server: &Host, given: &str) {
    let address = server.address();
    let network = format!(
        "[Match]\nName=eth0\n[Network]\nAddress={address}/16\nDHCPServer=yes\nLinkLocalAddressing=no\n\
         [DHCPServer]\nPoolOffset=1000\nPoolSize=50\nEmitDNS=no\nEmitRouter=no\nDefaultLeaseTimeSec=36\nMaxLeaseTimeSec=36\n\
         SendOption=12:string:{given}\n"
    );
    server.write_file("/etc/systemd/network/10-eth0.network", network).unwrap();
    server.sh("systemctl restart systemd-networkd").unwrap();
    wait_active(server, "systemd-networkd");
}

/// Waits for a renewal in which dhclient was given this name.
fn given(host: &Host, name: &str) {
    let line = format!("option host-name \"{name}\"");
    wait_until(SOON * 2, &line, || {
        let leases = host.sh("cat /var/lib/dhcp/dhclient.leases")?;
        let last = leases.rsplit("lease {").next().unwrap_or_default();
        Ok(last.contains(&line).then_some(()))
    })
    .unwrap();
}

#[test]
fn dhclient_is_kept_from_naming_the_host_and_put_right_and_named_where_it_did() {
    let room = with_writers("h-dhcp");
    let host = &room.hosts[0];
    let name = host.sh("hostname").unwrap();
    let server = dhcp_server(&room);
    // Debian's script renames only a host that has the name of its last lease.
    serve(&server, &name);
    host.sh("timeout 60 dhclient -v eth0").unwrap();
    serve(&server, "by-dhcp");
    given(host, "by-dhcp");
    assert_eq!(names(host), format!("{name}\n{name}"), "dhclient named the host all the same");
    serve(&server, &name);
    given(host, &name);
    let hook = "/etc/dhcp/dhclient-enter-hooks.d/edge-bootstrap";
    // It stands still for longer than its watchdog bears.
    host.write_file("/etc/systemd/system/edge-bootstrap.service.d/50-dog.conf", "[Service]\nWatchdogSec=0\n")
        .unwrap();
    host.sh("systemctl daemon-reload; systemctl restart edge-bootstrap").unwrap();
    steady(host, LONG).unwrap();
    host.sh(&format!("systemctl kill -s STOP edge-bootstrap; mv {hook} /root/away")).unwrap();
    serve(&server, "by-dhcp-2");
    // dhclient sets the name first, and then writes the lease.
    given(host, "by-dhcp-2");
    wait_until(SOON * 2, "dhclient names the host", || {
        Ok((host.sh("hostname")? == "by-dhcp-2").then_some(()))
    })
    .unwrap();
    let since = Instant::now();
    host.sh("systemctl kill -s CONT edge-bootstrap").unwrap();
    is_back(host, &name, since);
    finding(host, "by dhclient (DHCP): its lease /var/lib/dhcp/dhclient.leases gives this name");
    host.sh("pkill -x dhclient").unwrap();
    survives_a_cut(host, &name);
}
