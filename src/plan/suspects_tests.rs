//! Judgements on traces as the programs really leave them.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;

use super::*;
use crate::facts::Fact;

const NOW: u64 = 1_795_310_000;

fn rename() -> Rename {
    Rename {
        at: NOW,
        last: NOW,
        times: 1,
        boot_began: NOW - 3600,
        kernel: Some("web-7".to_owned()),
        to: "172-16-36-1".to_owned(),
        ..Rename::default()
    }
}

fn line(unit: &str, program: &str, message: &str) -> String {
    serde_json::json!({
        "__REALTIME_TIMESTAMP": format!("{NOW}000000"), "_SYSTEMD_UNIT": unit, "_EXE": program,
        "MESSAGE": message, "_PID": "7",
    })
    .to_string()
}

fn judged(journal: &[String]) -> Who {
    let traces = Traces { journal: Fact::Known(entries(&journal.join("\n"))), ..Traces::default() };
    judge(&rename(), &traces)
}

fn hostnamed(message: &str) -> String {
    line(HOSTNAMED, "/usr/lib/systemd/systemd-hostnamed", message)
}

fn network_manager(message: &str) -> String {
    line(NETWORK_MANAGER, "/usr/sbin/NetworkManager", message)
}

#[test]
fn hostnamed_names_no_caller_and_nobody_is_made_up() {
    for (message, kind) in [
        ("Hostname set to <web-7> (transient)", "transient"),
        ("Hostname set to <web-7> (static)", "static"),
        ("Changed static host name to 'web-7'", "static"),
        ("Changed host name to 'web-7'", "kernel's"),
    ] {
        let who = judged(&[hostnamed(message)]);
        assert_eq!(who.writer, Writer::Hostnamed, "{message}");
        assert!(who.how.contains(kind) && who.how.contains("does not say for whom"), "{}", who.how);
    }
    for message in ["Hostname set to <172-16-36-1> (static)", "Changed pretty hostname to ''", "web-7"] {
        assert_eq!(judged(&[hostnamed(message)]).writer, Writer::Unknown, "{message}");
    }
}

#[test]
fn for_whom_the_bus_started_hostnamed_is_a_hint() {
    let bus = |comm: &str| {
        let message = format!(
            "[system] Activating via systemd: service name='org.freedesktop.hostname1' \
             unit='dbus-org.freedesktop.hostname1.service' requested by ':1.9' (uid=0 pid=7 comm=\"{comm}\")"
        );
        line(BUS, "/usr/bin/dbus-daemon", &message)
    };
    let set = hostnamed("Hostname set to <web-7> (static)");
    let hint = |comm: &str| judged(&[bus(comm), set.clone()]).how;
    assert!(hint("hostnamectl hostname web-7").ends_with("started for hostnamectl of uid 0"));
    for comm in ["/usr/bin/edge-bootstrap run", "", "x\u{1b}[2J y"] {
        assert!(hint(comm).ends_with("for whom"), "{comm}");
    }
    assert_eq!(judged(&[bus("hostnamectl")]).writer, Writer::Unknown, "it set nothing");
}

#[test]
fn network_manager_says_what_it_set_and_where_it_had_that_from() {
    let set = network_manager(
        "<info>  [1795310000.1] policy: set-hostname: set hostname to 'web-7.example' (from DHCPv4)",
    );
    let who = judged(&[set, hostnamed("Hostname set to <web-7> (transient)")]);
    assert_eq!(who.writer, Writer::NetworkManager);
    assert!(who.how.ends_with(", from DHCPv4"), "{}", who.how);
    let outside = network_manager(
        "<info>  [1.1] policy: set-hostname: current hostname was changed outside NetworkManager: 'web-7'",
    );
    assert_eq!(judged(&[outside]).writer, Writer::Unknown, "it says that it was somebody else");
}

#[test]
fn a_person_is_named_only_by_sudo_itself_and_only_with_the_name() {
    let command =
        "   ada : TTY=pts/0 ; PWD=/root ; USER=root ; COMMAND=/usr/bin/hostnamectl set-hostname web-7";
    let who =
        judged(&[line("session-1.scope", SUDO, command), hostnamed("Hostname set to <web-7> (static)")]);
    assert_eq!(who.writer, Writer::Person("ada".to_owned()));
    assert_eq!(judged(&[line("x.service", "/home/eve/sudo", command)]).writer, Writer::Unknown);
    let other = command.replace("web-7", "web-70");
    assert_eq!(judged(&[line("session-1.scope", SUDO, &other)]).writer, Writer::Unknown);
}

#[test]
fn a_lease_with_the_name_names_its_client_and_says_that_it_is_no_proof() {
    let lease = |client, names: &[&str]| Lease {
        path: "/run/systemd/netif/leases/2".to_owned(),
        client,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let traces = |leases, journal: &str| Traces {
        leases,
        journal: Fact::Known(entries(journal)),
        ..Traces::default()
    };
    let alone = judge(&rename(), &traces(vec![lease(Writer::Dhclient, &["web-7"])], ""));
    assert_eq!(alone.writer, Writer::Dhclient);
    assert!(alone.how.contains("no journal says who set it"), "{}", alone.how);
    let set = hostnamed("Hostname set to <web-7> (transient)");
    let through = judge(&rename(), &traces(vec![lease(Writer::Networkd, &["web-7"])], &set));
    assert_eq!(through.writer, Writer::Networkd);
    assert!(through.how.contains("hostnamed set it"), "{}", through.how);
    let other = judge(&rename(), &traces(vec![lease(Writer::Networkd, &["web-8"])], &set));
    assert_eq!(other.writer, Writer::Hostnamed);
}

#[test]
fn both_forms_of_leases_are_read() {
    let dhclient =
        "lease {\n  interface \"eth0\";\n  option host-name \"web-7\";\n  option host-name \"old\";\n}\n";
    assert_eq!(lease_names(dhclient), ["old", "web-7"]);
    assert_eq!(lease_names("# x\nADDRESS=10.0.0.9\nHOSTNAME=web-7\n"), ["web-7"]);
    assert!(lease_names("HOSTNAME=\noption host-name \"\";\nhost-name web-7\n").is_empty());
}

fn cloud(rename: &Rename, log: &str) -> Writer {
    let traces = Traces {
        journal: Fact::Known(Vec::new()),
        cloud_init_log: Fact::Known(log.to_owned()),
        ..Traces::default()
    };
    judge(rename, &traces).writer
}

#[test]
fn cloud_init_is_blamed_for_what_it_did_lately_and_not_for_its_first_boot() {
    let stamped = |unix: u64, words: &str| {
        let stamp = time(unix).replace('T', " ");
        format!("{},123 - cc_set_hostname.py[DEBUG]: {words}\n", stamp.trim_end_matches('Z'))
    };
    let words = "Setting the hostname to web-7.example (web-7)";
    assert_eq!(cloud(&rename(), &stamped(NOW - 5, words)), Writer::CloudInit);
    assert_eq!(cloud(&rename(), &stamped(NOW - 900_000, words)), Writer::Unknown);
    assert_eq!(cloud(&rename(), &stamped(NOW - 5, "Setting the hostname to web-8 (web-8)")), Writer::Unknown);
    assert_eq!(cloud(&rename(), "Setting the hostname to web-7\n\u{e9}"), Writer::Unknown, "no time");
    let earlier = Rename { file_changed: Some(NOW - 90_000), file_differed: true, ..rename() };
    assert_eq!(cloud(&earlier, &stamped(NOW - 90_000, words)), Writer::CloudInit);
}

#[test]
fn without_a_trace_the_place_is_told() {
    assert!(judged(&[]).how.starts_with("only the kernel's name"));
    let file =
        Rename { file: Some("web-7".into()), file_differed: true, file_changed: Some(NOW), ..rename() };
    let who = judge(&file, &Traces { journal: Fact::unknown("journalctl is missing"), ..Traces::default() });
    assert!(who.how.contains("/etc/hostname was changed at 20") && who.how.contains("journalctl is missing"));
}

proptest! {
    #[test]
    fn no_text_of_others_stops_or_fools_the_judgement(
        noise in proptest::collection::vec(".{0,120}", 0..12),
        unit in "(systemd-hostnamed|NetworkManager|other)\\.service",
        words in "(Hostname set to <|set hostname to '|COMMAND=hostname |Changed x to ')[ -~]{0,40}",
        log in ".{0,200}",
    ) {
        let mut lines: Vec<String> = noise.clone();
        lines.extend(noise.iter().map(|text| line(&unit, SUDO, text)));
        lines.push(line(&unit, "/x", &words));
        let journal = entries(&lines.join("\n"));
        let leases = vec![Lease { path: String::new(), client: Writer::Dhclient, names: lease_names(&log) }];
        let traces =
            Traces { journal: Fact::Known(journal), leases, cloud_init_log: Fact::Known(log.clone()) };
        let who = judge(&rename(), &traces);
        let named = lines.iter().chain([&log]).any(|text| text.to_lowercase().contains("web-7"));
        prop_assert!(named || who.writer == Writer::Unknown, "{who:?}");
        if let Writer::Person(login) = &who.writer {
            prop_assert!(!login.chars().any(char::is_control) && login.len() <= 64);
        }
    }

    #[test]
    fn a_line_comes_back_as_it_was_written(message in "\\PC{0,60}", at in 0_u64..9_000_000_000_000_000) {
        let line = serde_json::json!({"__REALTIME_TIMESTAMP": at.to_string(), "MESSAGE": message.as_bytes()});
        let entry = entries(&line.to_string()).remove(0);
        prop_assert_eq!((entry.at, entry.message), (at / 1_000_000, message));
    }
}
