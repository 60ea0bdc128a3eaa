//! A pass on a host whose pinned identity is that of another machine.

use edge_bootstrap::boot::Severity;
use edge_bootstrap::identity;

use super::*;

const OTHER_BOARD: &str = "11111111-2222-4333-8444-555555555555\n";

/// A host that was made true once, with a board and a disk.
async fn pinned() -> (Host, Agent) {
    let host = local();
    disk(&host, "WD-1");
    let mut agent = host.agent();
    no_trouble(&boot::pass(&mut agent, order(Until::Verified, 0)).await);
    host.systemd.calls();
    (host, agent)
}

fn disk(host: &Host, serial: &str) {
    host.write("sys/block/sda/device/serial", &format!("{serial}\n"));
    host.write("sys/block/sda/removable", "0\n");
}

fn board(host: &Host, uuid: &str) {
    host.write("sys/class/dmi/id/product_uuid", uuid);
}

#[tokio::test]
async fn a_copied_disk_changes_no_file_no_unit_and_no_name() {
    let (host, mut agent) = pinned().await;
    board(&host, OTHER_BOARD);
    disk(&host, "SG-9");
    host.write("proc/sys/kernel/hostname", "fresh-host\n");
    let before = host.files();
    for until in [Until::Written, Until::Ready, Until::Verified] {
        let pass = boot::pass(&mut agent, order(until, 5)).await;
        assert!(pass.is_quarantined(), "{:?}", pass.stop);
        let stop = pass.stop.unwrap();
        assert_eq!((stop.why.code.as_str(), stop.kind), ("EB-copied-disk", StopKind::Held));
        assert!(stop.why.reason.contains("WD-1 then, SG-9 now"), "{}", stop.why);
        assert!(pass.assignment.is_none() && pass.plan.is_none(), "the copy was told what to be");
    }
    assert_eq!(host.files(), before);
    let calls = host.systemd.calls();
    let changed = ["Start", "Stop", "Restart", "Reload", "Enable", "SetStaticHostname", "SetHostname"];
    let did = calls.iter().filter(|call| changed.iter().any(|verb| call.contains(verb)));
    assert_eq!(did.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test]
async fn a_copied_disk_asks_the_central_service_for_nothing() {
    let (host, _) = pinned().await;
    let service = Central::start(Signer::new()).await;
    service.assign(assignment());
    host.ask(&service);
    board(&host, OTHER_BOARD);
    disk(&host, "SG-9");
    let pass = boot::pass(&mut host.agent(), order(Until::Verified, 10)).await;
    assert!(pass.is_quarantined());
    assert_eq!(service.lines(), Vec::<String>::new(), "a copy asked in the name of its original");
}

#[tokio::test]
async fn a_replaced_board_is_told_and_goes_on() {
    let (host, mut agent) = pinned().await;
    board(&host, OTHER_BOARD);
    let pass = boot::pass(&mut agent, order(Until::Verified, 0)).await;
    no_trouble(&pass);
    let found = pass.findings.iter().find(|(found, _)| found.code == "EB-hardware-changed").unwrap();
    assert_eq!(found.1, Severity::Warn);
    assert!(found.0.reason.contains("11111111"), "{}", found.0);
    // The node is not healthy here: nothing is recorded anew.
    let recorded = identity::load(&agent.root).unwrap().value().unwrap().fingerprint;
    assert_ne!(recorded.uuid.as_deref(), Some(OTHER_BOARD.trim()));
}

#[tokio::test]
async fn what_a_person_accepts_is_the_machine_from_then_on() {
    let (host, mut agent) = pinned().await;
    board(&host, OTHER_BOARD);
    disk(&host, "SG-9");
    let before = identity::load(&agent.root).unwrap().value().unwrap();
    let after = identity::accepted(&before, &boot::facts(&agent.root).await);
    assert_eq!(identity::changes(&before, &after).len(), 2, "{:?}", identity::changes(&before, &after));
    identity::pin(&agent.root, &after).unwrap();
    no_trouble(&boot::pass(&mut agent, order(Until::Verified, 0)).await);
    board(&host, "4c4c4544-0042-3510-8052-b4c04f4d3132\n");
    disk(&host, "WD-1");
    assert!(
        boot::pass(&mut agent, order(Until::Verified, 0)).await.is_quarantined(),
        "the old one is the copy now"
    );
}
