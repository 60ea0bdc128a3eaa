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
