//! The ways past the agent that a person has: pause, resume, and letting one
//! refusal of the gate pass, with the daemon alive and dead.

use edge_lab::room::{LONG, steady};
use edge_lab::{Host, wait_until};
use serde_json::Value;

use crate::hand::{SOON, further_pass, is_active, one_steady, status, status_text, told, wait_active};

const MOTD: &str = "/run/motd.d/50-edge-bootstrap";
/// The file that holds the server's token.
const TOKEN: &str = r#"$(sed -n 's/^token-file: *"\?\([^"]*\)"\?$/\1/p' /etc/rancher/k3s/config.yaml)"#;
const K3S_CONFIG: &str = "/etc/rancher/k3s/config.yaml";

/// Starts k3s again, and says what systemd answers.
fn restarts(host: &Host) -> bool {
    host.exec(&["systemctl", "restart", "k3s"]).unwrap().success()
}

/// The daemon does not run and does not come back, at a boot neither.
fn kill_daemon(host: &Host) {
    host.sh("systemctl mask --now edge-bootstrap; sync").unwrap();
    assert!(!is_active(host, "edge-bootstrap"));
}

/// A person who became root by sudo.
fn by_wang(host: &Host, command: &str) -> (bool, String) {
    let script = format!("SUDO_USER=wang edge-bootstrap {command} 2>&1");
    let output = host.exec(&["sh", "-c", &script]).unwrap();
    (output.success(), output.stdout)
}

/// The value of `status` that begins with `name`.
fn line(text: &str, name: &str) -> String {
    text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

fn motd(host: &Host) -> String {
    host.read_file(MOTD).unwrap().unwrap_or_default()
}

fn codes(host: &Host) -> Vec<String> {
    let text = host.exec(&["edge-bootstrap", "status", "--json"]).unwrap().stdout;
    let status: Value = serde_json::from_str(&text).unwrap();
    let findings = status["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn gate_allow_lets_exactly_its_refusal_pass_with_the_daemon_dead_and_through_a_power_cut() {
    let room = one_steady("h-allow");
    let host = &room.hosts[0];
    kill_daemon(host);
    host.sh("hostname drifted; echo drifted >/etc/hostname; sync").unwrap();
    assert!(!restarts(host), "k3s started under another name");
    wait_until(SOON, "the way out is told", || {
        Ok((told(host, "k3s", "to let it pass: edge-bootstrap gate allow --code EB-hostname") == 1)
            .then_some(()))
    })
    .unwrap();
    // Another code's allowance is none for this one.
    assert!(by_wang(host, "gate allow --code EB-ip-absent --for 1h --reason cable").0);
    assert!(!restarts(host), "the allowance for another code let it pass");
    let (given, said) = by_wang(host, "gate allow --code EB-hostname --for 1h --reason 'name is known'");
    assert!(given && said.contains("EB-hostname is let pass until"), "{said}");
    wait_active(host, "k3s");
    host.sh("journalctl --sync").unwrap();
    assert_eq!(told(host, "k3s", "let pass by wang (name is known): EB-hostname"), 1);
    assert_eq!(told(host, "edge-bootstrap", "EB-hostname is let pass until"), 1);
    assert!(motd(host).contains("EB-hostname") && motd(host).contains("gate revoke"), "{}", motd(host));
    let text = status_text(host);
    assert!(text.starts_with("edge-bootstrap is not running"), "{text}");
    assert!(text.contains("name is known (used once in this boot"), "{text}");
    host.cut().unwrap();
    host.boot().unwrap();
    assert_eq!(host.sh("hostname").unwrap(), "drifted");
    wait_active(host, "k3s");
    let text = status_text(host);
    assert!(line(&text, "allowed     EB-hostname").contains("used once in this boot"), "{text}");
    // What is not allowed is still refused, beside what is.
    host.sh(&format!("test -s {TOKEN}; : >{TOKEN}")).unwrap();
    assert!(!restarts(host), "an empty token passed");
    let (given, said) = by_wang(host, "gate allow --code EB-token-empty --for 1h --reason hurry");
    assert!(!given && said.contains("second, empty cluster") && said.contains("--i-accept"), "{said}");
    let (given, said) = by_wang(host, "gate allow --code EB-token-emty --for 1h --reason hurry");
    assert!(!given && said.contains("did you mean EB-token-empty?"), "{said}");
    assert!(!is_active(host, "k3s"));
    host.sh("systemctl unmask edge-bootstrap; systemctl start edge-bootstrap").unwrap();
    wait_active(host, "k3s");
    steady(host, LONG).unwrap();
    assert!(codes(host).contains(&"EB-allowed".to_owned()), "{:?}", codes(host));
    assert!(motd(host).contains("EB-hostname"), "the daemon does not keep the text at login");
    let codes_given = ["EB-hostname", "EB-ip-absent"];
    for code in codes_given {
        assert!(by_wang(host, &format!("gate revoke --code {code}")).0);
    }
    wait_until(SOON, "the text at login goes", || Ok(motd(host).is_empty().then_some(()))).unwrap();
    wait_until(SOON, "the finding goes", || {
        Ok((!codes(host).contains(&"EB-allowed".to_owned())).then_some(()))
    })
    .unwrap();
}

#[test]
fn an_allowance_ends_by_itself_and_a_risky_one_needs_its_flag() {
    let room = one_steady("h-ends");
    let host = &room.hosts[0];
    let name = host.sh("hostname").unwrap();
    kill_daemon(host);
    host.sh("hostname drifted").unwrap();
    assert!(by_wang(host, "gate allow --code EB-hostname --for 10s --reason quick").0);
    assert!(restarts(host), "it did not pass");
    // systemd would end a row of quick starts by itself: the gate is asked alone.
    let asked =
        || Ok((host.exec(&["edge-bootstrap", "gate", "--unit", "k3s.service"])?.code == 1).then_some(()));
    wait_until(SOON, "the end of the allowance", asked).unwrap();
    assert!(!restarts(host), "it passes after its end");
    assert!(!status_text(host).contains("allowed"), "{}", status_text(host));
    host.sh(&format!("hostname {name}")).unwrap();
    wait_active(host, "k3s");
    for nonsense in ["--for 0s --reason x", "--for 31d --reason x", "--for 1h --reason ' '", "--for 1h"] {
        assert!(!by_wang(host, &format!("gate allow --code EB-hostname {nonsense}")).0, "{nonsense}");
    }
    // The member's own data is there: who accepts the loss starts it without a token.
    host.sh(&format!("test -s {TOKEN}; : >{TOKEN}")).unwrap();
    assert!(!restarts(host), "an empty token passed");
    let wish = "gate allow --code EB-token-empty --for 1h --reason 'the room is empty'";
    let (given, said) = by_wang(host, wish);
    assert!(!given && said.contains("second, empty cluster"), "{said}");
    let (given, said) = by_wang(host, &format!("{wish} --i-accept-data-loss"));
    assert!(given, "{said}");
    wait_active(host, "k3s");
}

#[test]
fn a_refusal_is_explained_where_no_daemon_ever_ran_in_this_boot() {
    let room = one_steady("h-silent");
    let host = &room.hosts[0];
    let (name, address) = (host.sh("hostname").unwrap(), host.address().to_string());
    kill_daemon(host);
    host.sh("echo drifted >/etc/hostname; sync").unwrap();
    host.cut().unwrap();
    host.boot().unwrap();
    wait_until(SOON, "a refusal", || Ok(status_text(host).contains("refused").then_some(()))).unwrap();
    let text = status_text(host);
    assert!(text.starts_with("edge-bootstrap has said nothing in this boot"), "{text}");
    assert!(
        line(&text, "refused").contains(&format!(
            "k3s.service: EB-hostname: the hostname is drifted, this host is pinned as {name}"
        )),
        "{text}"
    );
    assert!(line(&text, "next").contains("hostnamectl set-hostname"), "{text}");
    assert!(line(&text, "let pass").contains("gate allow --code EB-hostname"), "{text}");
    assert!(line(&text, "node").contains(&address), "{text}");
    // Others see the refusal, and that the rest is root's.
    let others = host.exec(&["runuser", "-u", "nobody", "--", "edge-bootstrap", "status"]).unwrap();
    assert_eq!(others.code, 1, "{}", others.stdout);
    assert!(others.stdout.contains("can be read by root only"), "{}", others.stdout);
    assert!(line(&others.stdout, "refused").contains("EB-hostname"), "{}", others.stdout);
    let json = host.exec(&["edge-bootstrap", "status", "--json"]).unwrap();
    let seen: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((seen["phase"].as_str(), seen["running"].as_bool()), (Some("silent"), Some(false)));
    assert_eq!(seen["refused"][0]["code"], "EB-hostname");
    host.sh("systemctl unmask edge-bootstrap; systemctl start edge-bootstrap").unwrap();
    steady(host, LONG).unwrap();
    assert_eq!(status(host)["refused"], serde_json::json!([]));
}

#[test]
fn a_pause_set_with_the_daemon_dead_keeps_a_persons_edits_through_a_reboot_until_resume() {
    let room = one_steady("h-pause");
    let host = &room.hosts[0];
    host.sh("systemctl stop edge-bootstrap").unwrap();
    let (paused, said) = by_wang(host, "pause --for 2h --reason 'cluster-reset by hand'");
    assert!(paused && said.contains("by wang"), "{said}");
    assert!(motd(host).contains("edge-bootstrap resume"), "{}", motd(host));
    host.sh(&format!("systemctl stop k3s; printf '# by hand\\ndebug: true\\n' >>{K3S_CONFIG}; sync"))
        .unwrap();
    let edited = host.read_file(K3S_CONFIG).unwrap();
    host.cut().unwrap();
    host.boot().unwrap();
    wait_until(SOON, "it is paused", || Ok((status(host)["phase"] == "paused").then_some(()))).unwrap();
    wait_active(host, "k3s");
    further_pass(host);
    assert_eq!(host.read_file(K3S_CONFIG).unwrap(), edited, "a paused agent wrote the file");
    assert!(motd(host).contains("cluster-reset by hand"), "nobody is told at login: {}", motd(host));
    assert!(line(&status_text(host), "paused").contains("by wang until"), "{}", status_text(host));
    assert!(codes(host).contains(&"EB-paused".to_owned()), "{:?}", codes(host));
    // The way out works with the daemon dead, too.
    host.sh("systemctl stop edge-bootstrap").unwrap();
    assert!(by_wang(host, "resume").0);
    assert_eq!(motd(host), "");
    assert_eq!(host.read_file(K3S_CONFIG).unwrap(), edited);
    host.sh("systemctl start edge-bootstrap").unwrap();
    assert_ne!(host.read_file(K3S_CONFIG).unwrap(), edited, "READY came before the file was put back");
    steady(host, LONG).unwrap();
    assert!(!codes(host).contains(&"EB-paused".to_owned()), "{:?}", codes(host));
}
