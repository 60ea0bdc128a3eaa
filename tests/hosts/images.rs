//! Images without a registry: archives by digest that come, are imported, run,
//! and come back after everything that can happen in between.

use edge_lab::room::{LONG, VERSION};
use edge_lab::{Bind, Host, HostSpec, Lab, Profile, Suite, programs, wait_until};
use serde_json::{Value, json};

use crate::hand::{SOON, is_active, property, status, status_text, told};

const ASSIGNMENT: &str = "/etc/edge-bootstrap/assignment.toml";
const IMAGE: &str = "registry.lab/tool:1";
const IMPORT: &str = "edge-bootstrap-act-import-images";
/// Stands between the agent and containerd's own program: waits before an
/// import while /srv/before is there, after it while /srv/after is, and before it
/// shows a layer while /srv/look is.
const WAITING_CTR: &str = r#"#!/bin/sh
wait_for() { while [ -e "/srv/$1" ]; do touch "/run/$1"; sleep 0.1; done; }
case "$*" in *" import "*) wait_for before ;; *" view "*) wait_for look ;; esac
/usr/bin/ctr.real "$@"
code=$?
case "$*" in *" import "*) wait_for after ;; esac
exit $code
"#;

/// A host with the package and everything that an assignment needs, and no
/// assignment yet; and the digest of its archive.
fn host(lab: &Lab, suite: Suite, packing: &str) -> (Host, String) {
    let package = programs::package(Profile::Dev, "").unwrap();
    let k3s = programs::k3s().unwrap();
    let spec =
        HostSpec { binds: vec![Bind::read_only(k3s.path, "/srv/k3s")], ..HostSpec::new(suite.name(), suite) };
    let host = lab.host(spec).unwrap();
    host.boot().unwrap();
    host.write_file("/srv/archive.sh", edge_lab::MAKE_ARCHIVE).unwrap();
    host.write_file("/srv/serve.pl", include_str!("images/serve.pl")).unwrap();
    let server = "[Service]\nExecStart=/usr/bin/perl /srv/serve.pl\n[Install]\nWantedBy=multi-user.target\n";
    host.write_file("/etc/systemd/system/lab-images.service", server).unwrap();
    host.sh("systemctl -q enable --now lab-images; sync -f /etc").unwrap();
    let archive = host.sh(&format!("sh /srv/archive.sh {IMAGE} 64 {packing}")).unwrap();
    host.write_file(
        "/etc/edge-bootstrap/config.d/20-site.toml",
        format!("[central]\nassignment-file = \"{ASSIGNMENT}\"\n"),
    )
    .unwrap();
    host.install(&package).unwrap();
    (host, archive)
}

/// Puts a program that can be made to wait in the place of containerd's own.
fn let_ctr_wait(host: &Host) {
    host.sh("mv /usr/bin/ctr /usr/bin/ctr.real").unwrap();
    host.write_file_mode("/usr/bin/ctr", WAITING_CTR, 0o755).unwrap();
}

/// Writes the assignment; `images` are names below the server, with digests.
fn assign(host: &Host, images: &[(&str, &str)]) {
    let k3s = host.sh("sha256sum /srv/k3s | cut -d' ' -f1").unwrap();
    let ip = host.address();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let images: Vec<Value> = images
        .iter()
        .map(|(name, sha256)| json!({"url": format!("http://127.0.0.1:8000/{name}"), "sha256": sha256}))
        .collect();
    let assignment = json!({
        "schema": 1, "site": "hz-017", "role": "server",
        "node": {"name": ip.to_string().replace('.', "-"), "ip": ip},
        "cluster": {"name": "hz-017", "init": true},
        "join": {"server_token": "server-canary-0001"},
        "k3s": {"version": VERSION, "artifacts": {arch: {"urls": ["file:///srv/k3s"], "sha256": k3s}}},
        "runtime": {"sandbox_image": IMAGE, "images": images},
    });
    host.write_file_mode(ASSIGNMENT, toml::to_string(&assignment).unwrap(), 0o600).unwrap();
    host.sh("systemctl reload-or-restart edge-bootstrap").unwrap();
}

/// Waits until the record says that the images of `archive` are there and synced.
fn wait_imported(host: &Host, archive: &str) {
    wait_until(LONG, "the archive is recorded", || {
        let text = host.exec(&["cat", "/var/lib/edge-bootstrap/inventory.json"])?.stdout;
        let inventory: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok((!inventory["body"]["archives"][archive].is_null()).then_some(()))
    })
    .unwrap();
}

/// Runs a container of the image; its program looks at every file of it. A host
/// without controllers takes no limits.
fn runs(host: &Host) -> bool {
    let run = format!("ctr -n k8s.io run --cpu-shares 0 --rm {IMAGE} look-$$ </dev/null");
    host.exec(&["sh", "-c", &run]).unwrap().success()
}

fn images(host: &Host) -> Vec<String> {
    let text = host.sh("ctr -n k8s.io images ls").unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

/// Files of unpacked layers that are empty and should not be.
fn empty_files(host: &Host) -> usize {
    let script = "find /var/lib/containerd -path '*/snapshots/*/fs/*' -type f -size 0 | wc -l";
    host.sh(script).unwrap().parse().unwrap()
}

/// How often an import was begun in this boot.
fn imports(host: &Host) -> usize {
    let id = "7d4958e842da4a758f6c1cdc7b36dcc5";
    let script = format!("journalctl -b -o cat --no-pager MESSAGE_ID={id} UNIT={IMPORT}.service | wc -l");
    host.sh(&script).unwrap().parse().unwrap()
}

fn wait_for_file(host: &Host, path: &str) {
    wait_until(LONG, path, || Ok(host.exec(&["test", "-e", path])?.success().then_some(()))).unwrap();
}

#[test]
fn archives_come_over_a_link_that_breaks_and_what_has_another_digest_is_never_imported() {
    let lab = Lab::open("i-fetch").unwrap();
    // Compressed: no containerd imports that by itself.
    let (host, archive) = host(&lab, Suite::Sid, "gz");
    let other = host.sh("sh /srv/archive.sh registry.lab/tool:2 1").unwrap();
    let wrong = host.sh("cp /srv/images/2.tar /srv/images/3.tar; echo x >>/srv/images/3.tar; echo page | sha256sum | cut -d' ' -f1").unwrap();
    host.sh("touch /srv/break /srv/before").unwrap();
    let_ctr_wait(&host);
    assign(&host, &[("1.tar", &archive), ("3.tar", &other), ("page.html", &wrong)]);
    // The daemon dies in the middle of the import: that goes on.
    wait_for_file(&host, "/run/before");
    // ctr stands still, and the pass under way may be an older one.
    wait_until(SOON, "status tells of the import", || {
        let is_it = |line: &str| line.starts_with("images") && line.contains("0 of 3, 1.tar is imported");
        Ok(status_text(&host).lines().any(is_it).then_some(()))
    })
    .unwrap();
    host.sh("systemctl kill -s KILL --kill-whom=main edge-bootstrap").unwrap();
    wait_until(SOON, "another daemon", || {
        Ok((property(&host, "edge-bootstrap", "NRestarts") == "1").then_some(()))
    })
    .unwrap();
    assert!(is_active(&host, "containerd"));
    host.sh("rm /srv/before").unwrap();
    wait_imported(&host, &archive);
    assert_eq!(imports(&host), 1, "the import did not outlive the daemon");
    let requests = host.read_file("/srv/requests").unwrap().unwrap();
    let of_first: Vec<&str> = requests.lines().filter(|line| line.starts_with("1.tar ")).collect();
    let half = host.sh("stat -c %s /srv/images/1.tar").unwrap().parse::<u64>().unwrap() / 2;
    assert_eq!(of_first, ["1.tar - 200 OK".to_owned(), format!("1.tar {half} 206 Partial Content")]);
    assert!(runs(&host), "the image does not run");
    let text = wait_until(SOON, "both others are told", || {
        let text = status(&host)["findings"].to_string();
        Ok((text.contains("its SHA-256 is") && text.contains("a web page came instead")).then_some(text))
    });
    assert!(text.unwrap().contains("EB-image-fetch"));
    let images = images(&host);
    assert!(images.iter().all(|line| !line.contains("tool:2")), "{images:#?}");
    let pinned = |line: &&String| line.starts_with(IMAGE) && line.contains("io.cri-containerd.pinned=pinned");
    assert!(images.iter().any(|line| pinned(&line)), "{images:#?}");
    assert_eq!(host.sh("ls /var/lib/edge-bootstrap/images").unwrap(), format!("{archive}.tar"));
    assert_eq!(status(&host)["images"]["imported"], 1);
    let apply = host.exec(&["edge-bootstrap", "apply"]).unwrap();
    assert_eq!(apply.code, 75, "{}{}", apply.stdout, apply.stderr);
    assert!(apply.stderr.contains("images: 1 of 3 archives are imported"), "{}", apply.stderr);
    // A boot after a good end has nothing to verify.
    host.off().unwrap();
    host.boot().unwrap();
    wait_until(SOON, "a round ended", || {
        Ok((told(&host, "edge-bootstrap", "images are not complete") > 0).then_some(()))
    })
    .unwrap();
    assert_eq!(told(&host, "edge-bootstrap", "images were verified"), 0);
    assert!(runs(&host));
}

#[test]
fn images_come_back_whole_after_a_power_cut_before_they_were_synced_and_after_files_were_lost() {
    let lab = Lab::open("i-cut").unwrap();
    let (host, archive) = host(&lab, Suite::Bookworm, "");
    let_ctr_wait(&host);
    host.sh("touch /srv/after; sync -f /srv").unwrap();
    assign(&host, &[("1.tar", &archive)]);
    wait_for_file(&host, "/run/after");
    host.cut().unwrap();
    let lost = host
        .edit("rm srv/after; find var/lib/containerd -path '*/snapshots/*/fs/*' -type f -size 0 | wc -l")
        .unwrap();
    assert_ne!(lost.trim(), "0", "the cut lost nothing");
    host.boot().unwrap();
    wait_imported(&host, &archive);
    assert_eq!(empty_files(&host), 0);
    assert!(runs(&host), "the image does not run after the cut");

    // Files are lost although they were synced once; something of the image is
    // left behind, and a person has stopped k3s.
    host.sh(&format!("ctr -n k8s.io containers create {IMAGE} left-behind")).unwrap();
    host.sh("systemctl stop k3s containerd").unwrap();
    host.sh("truncate -s 0 $(find /var/lib/containerd -path '*/snapshots/*/fs/data/7') && sync").unwrap();
    host.cut().unwrap();
    host.edit("touch srv/look").unwrap();
    host.boot().unwrap();
    // Something runs from it before it is looked at: told, and not taken away in vain.
    wait_for_file(&host, "/run/look");
    let run = format!("ctr -n k8s.io run -d --cpu-shares 0 {IMAGE} held sleep 3600 </dev/null; rm /srv/look");
    host.sh(&run).unwrap();
    wait_until(LONG, "the damage is told", || {
        let text = status(&host)["findings"].to_string();
        Ok((text.contains("instead of 262144 bytes; in use by container held;")).then_some(()))
    })
    .unwrap();
    assert!(images(&host).iter().any(|line| line.starts_with(IMAGE)), "it was taken from what runs");
    host.sh("ctr -n k8s.io tasks rm -f held; systemctl restart edge-bootstrap").unwrap();
    let damaged = || Ok((told(&host, "edge-bootstrap", "image is damaged") > 0).then_some(()));
    wait_until(LONG, "it is removed", damaged).unwrap();
    wait_until(LONG, "the image is imported again", || {
        Ok((empty_files(&host) == 0 && runs(&host)).then_some(()))
    })
    .unwrap();
    wait_imported(&host, &archive);
    // Somebody removes it, with k3s stopped: it comes back by the next look.
    host.sh(&format!(
        "systemctl stop k3s; ctr -n k8s.io images rm {IMAGE}; systemctl restart edge-bootstrap"
    ))
    .unwrap();
    wait_until(LONG, "the image is back", || Ok(runs(&host).then_some(()))).unwrap();
    // The act has ended: it would leave that it succeeded after the next removal.
    wait_imported(&host, &archive);
    assert!(!is_active(&host, "k3s"));
    // Without the daemon a person brings it here and now.
    host.sh(&format!("systemctl stop edge-bootstrap; ctr -n k8s.io images rm {IMAGE}")).unwrap();
    let apply = host.exec(&["edge-bootstrap", "apply"]).unwrap();
    assert_eq!(apply.code, 0, "{}{}", apply.stdout, apply.stderr);
    assert!(apply.stderr.contains("images: 1 of 1 archives are imported"), "{}", apply.stderr);
    assert!(runs(&host), "the image does not run after `apply`");
}
