//! Passes on a host on which a power cut emptied files of k3s.

use super::*;

const UNIT: &str = "k3s-agent.service";
const KEY: &str = "var/lib/rancher/k3s/agent/client-kubelet.key";
const WHOLE: &str = "var/lib/rancher/k3s/agent/client-kubelet.crt";

fn told(pass: &Pass) -> Vec<String> {
    let found = pass.findings.iter().filter(|(finding, _)| finding.code == "EB-k3s-empty");
    found.map(|(finding, _)| finding.reason.clone()).collect()
}

#[tokio::test]
async fn empty_files_go_before_ready_and_stay_while_k3s_runs() {
    let host = local();
    let mut agent = host.agent();
    no_trouble(&boot::pass(&mut agent, order(Until::Verified, 0)).await);
    host.write(KEY, "");
    host.write(WHOLE, "certificate");
    let is_there = |path: &str| host.dir.path().join(path).exists();
    // k3s empties a file itself for a moment, when it writes it.
    host.systemd.unit(UNIT, |unit| *unit = FakeUnit { pid: 5000, ..FakeUnit::up() });
    let running = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    assert_eq!((told(&running).len(), is_there(KEY)), (0, true));
    // The next boot.
    host.systemd.unit(UNIT, |unit| *unit = FakeUnit::dead());
    let before_ready = boot::pass(&mut host.agent(), order(Until::Ready, 0)).await;
    no_trouble(&before_ready);
    let words = "/var/lib/rancher/k3s/agent/client-kubelet.key holds nothing: k3s had not synced what it wrote when the power went";
    assert_eq!(told(&before_ready), [words]);
    assert_eq!((is_there(KEY), is_there(WHOLE)), (false, true));
    assert_eq!(before_ready.mended, [format!("/{KEY}")]);
    assert!(told(&boot::pass(&mut host.agent(), order(Until::Ready, 0)).await).is_empty());
}

/// Nothing of what k3s unpacked is the right thing to start with one program empty,
/// and it unpacks anew only where the whole directory is missing.
#[tokio::test]
async fn what_k3s_unpacked_is_given_back_as_a_whole_where_a_program_is_empty_or_k3s_is_missing() {
    let host = local();
    let data = "var/lib/rancher/k3s/data";
    let [empty, bare, whole] = ["aa", "bb", "cc"].map(|byte| format!("{data}/{}", byte.repeat(32)));
    for build in [&empty, &whole] {
        host.write(&format!("{build}/bin/k3s"), "program");
        host.write(&format!("{build}/bin/aux/mount"), "program");
    }
    host.write(&format!("{empty}/bin/aux/mount"), "");
    host.write(&format!("{bare}/bin/containerd"), "program");
    // Of an earlier cut, while k3s unpacked.
    host.write(&format!("{empty}-tmp/bin/runc"), "");
    let is_there = |path: &str| host.dir.path().join(path).exists();
    let mut agent = host.agent();
    host.systemd.unit(UNIT, |unit| *unit = FakeUnit { pid: 5000, ..FakeUnit::up() });
    no_trouble(&boot::pass(&mut agent, order(Until::Verified, 0)).await);
    assert!(is_there(&empty) && is_there(&bare), "k3s runs from there");
    host.systemd.unit(UNIT, |unit| *unit = FakeUnit::dead());
    let pass = boot::pass(&mut host.agent(), order(Until::Ready, 0)).await;
    no_trouble(&pass);
    assert_eq!(pass.mended, [format!("/{empty}/bin/aux/mount"), format!("/{bare}/bin/k3s")]);
    assert_eq!([&empty, &bare, &whole].map(|build| is_there(build)), [false, false, true]);
    // k3s removes what has this name before it unpacks.
    assert_eq!([&empty, &bare].map(|build| is_there(&format!("{build}-tmp/bin"))), [true, true]);
    assert!(!is_there(&format!("{empty}-tmp/bin/runc")), "two of them in one directory");
    let words = format!(
        "/{empty}/bin/aux/mount, /{bare}/bin/k3s hold nothing: k3s had not synced what it wrote when the power went"
    );
    assert_eq!(told(&pass), [words]);
    assert!(told(&boot::pass(&mut host.agent(), order(Until::Ready, 0)).await).is_empty());
}
