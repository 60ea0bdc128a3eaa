use proptest::prelude::*;

use super::*;
use crate::facts::Fact;
use crate::facts::hardware::Disk;
use crate::role::Role;

const UUID: &str = "8d3b6d2e-7a4f-4c39-9b1e-3f6a5d0c2b71";
/// The same with its first three fields in the other byte order.
const TURNED: &str = "2e6d3b8d-4f7a-394c-9b1e-3f6a5d0c2b71";
const OTHER: &str = "11111111-2222-4333-8444-555555555555";

fn print(uuid: &str, nics: &[&str], disks: &[&str]) -> Fingerprint {
    let strings = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    Fingerprint {
        uuid: Some(uuid.to_owned()).filter(|uuid| !uuid.is_empty()),
        board: Vec::new(),
        nics: strings(nics),
        disks: strings(disks),
    }
}

/// A server with two network ports and two disks.
fn original() -> Fingerprint {
    print(UUID, &["00:16:3e:00:00:01", "00:16:3e:00:00:02"], &["WD-1", "WD-2"])
}

/// What is there now, and what follows from it.
type Row = (&'static str, Fingerprint, Verdict);

/// The table of `docs/identity.md`, row by row.
fn table() -> Vec<Row> {
    let (nics, disks) = (original().nics, original().disks);
    let nics: Vec<&str> = nics.iter().map(String::as_str).collect();
    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
    let (foreign_nics, foreign_disks) = (&["00:16:3e:00:00:99"][..], &["SG-9"][..]);
    vec![
        ("nothing changed", original(), Verdict::Same),
        ("image copied to another host", print(OTHER, foreign_nics, foreign_disks), Verdict::Copied),
        ("disk moved into another host", print(OTHER, foreign_nics, &disks), Verdict::Copied),
        ("board replaced, its ports on a card that stayed", print(OTHER, &nics, &disks), Verdict::Replaced),
        (
            "board replaced, one of its ports on a card",
            print(OTHER, &[nics[0], "00:16:3e:00:00:99"], &disks),
            Verdict::Replaced,
        ),
        ("board replaced with its ports", print(OTHER, foreign_nics, &disks), Verdict::Copied),
        ("RAID controller put before the disks", print(UUID, &nics, &["RAID-0"]), Verdict::Replaced),
        ("network card replaced", print(UUID, foreign_nics, &disks), Verdict::Replaced),
        ("network card and disks replaced", print(UUID, foreign_nics, foreign_disks), Verdict::Replaced),
        ("one disk of two replaced", print(UUID, &nics, &["WD-1", "SG-9"]), Verdict::Same),
        ("firmware update turned the UUID's bytes", print(TURNED, &nics, &disks), Verdict::Same),
        ("drivers of cards and disks come late", print(UUID, &[], &[]), Verdict::TooFew),
        ("driver of the disks comes late", print(UUID, &nics, &[]), Verdict::Same),
        ("firmware tells no board any more", print("", &nics, &disks), Verdict::Same),
        ("copied, and only the board is known", print(OTHER, &[], &[]), Verdict::Replaced),
    ]
}

#[test]
fn each_row_of_the_table_in_the_documentation_holds() {
    let document = include_str!("../../docs/identity.md");
    for (what, seen, verdict) in table() {
        assert_eq!(Comparison::of(&original(), &seen).verdict(), verdict, "{what}");
        let word = match verdict {
            Verdict::Copied => "**quarantine**",
            Verdict::Same => "same",
            Verdict::Replaced => "`EB-hardware-changed`",
            Verdict::TooFew => "`EB-hardware-unknown`",
        };
        let row = document
            .lines()
            .find(|line| line.to_lowercase().starts_with(&format!("| {what} |").to_lowercase()));
        assert!(
            row.is_some_and(|row| row.contains(word)),
            "docs/identity.md does not say {word} for: {what}"
        );
    }
}

/// Hosts that can tell less, before and after.
#[test]
fn a_host_that_tells_little_is_accepted_whatever_changes() {
    let machines = [
        (
            "virtual machine without serials",
            print(UUID, &["52:54:00:00:00:01"], &[]),
            print(UUID, &[], &[]),
            Verdict::TooFew,
        ),
        (
            "virtual machine without serials, its card replaced",
            print(UUID, &["52:54:00:00:00:01"], &[]),
            print(UUID, &["52:54:00:00:00:02"], &[]),
            Verdict::Replaced,
        ),
        ("arm board without DMI", print("", &["a"], &["S1"]), print("", &["a"], &["S1"]), Verdict::Same),
        (
            "arm board without DMI, all replaced",
            print("", &["a"], &["S1"]),
            print("", &["b"], &["S2"]),
            Verdict::Replaced,
        ),
        ("pinned before anything was known", print("", &[], &[]), original(), Verdict::TooFew),
    ];
    for (what, pinned, seen, verdict) in machines {
        assert_eq!(Comparison::of(&pinned, &seen).verdict(), verdict, "{what}");
    }
}

#[test]
fn an_identity_of_the_first_versions_keeps_its_uuid_among_the_serials() {
    let old = Fingerprint { uuid: None, board: vec![UUID.to_owned(), "PS1".to_owned()], ..original() };
    assert_eq!(Comparison::of(&old, &original()).board, Said::Same);
    assert_eq!(Comparison::of(&old, &print(OTHER, &[], &[])).board, Said::Contradicts);
    assert_eq!(
        Comparison::of(&Fingerprint { board: vec!["PS1".to_owned()], ..old.clone() }, &original()).board,
        Said::Unknown
    );
    assert_eq!(recorded_anew(&old, &Fingerprint::default()).uuid.as_deref(), Some(UUID));
}

#[test]
fn what_is_not_known_now_stays_recorded() {
    let seen = print(OTHER, &["00:16:3e:00:00:99"], &[]);
    let anew = recorded_anew(&original(), &seen);
    assert_eq!((anew.uuid.as_deref(), anew.nics, anew.disks), (Some(OTHER), seen.nics, original().disks));
}

#[test]
fn only_physical_cards_and_built_in_disks_count() {
    let mut facts = HostFacts::default();
    let nic = |name: &str, mac: &str, driver: Fact<String>| Interface {
        name: name.to_owned(),
        permanent_mac: Fact::Known(mac.to_owned()),
        driver,
        ..Interface::default()
    };
    facts.network.interfaces = Fact::Known(vec![
        nic("eth0", "00:16:3e:00:00:01", Fact::Known("virtio_net".to_owned())),
        nic("cni0", "00:16:3e:00:00:02", Fact::unknown("no driver: a virtual interface")),
    ]);
    let disk = |serial: &str, removable| Disk {
        serial: Fact::Known(serial.to_owned()),
        removable,
        ..Disk::default()
    };
    facts.hardware.disks = Fact::Known(vec![
        disk("STICK", Fact::Known(true)),
        disk("B", Fact::Known(false)),
        disk("A", Fact::unknown("there is no removable")),
    ]);
    let print = of(&facts);
    assert_eq!(
        (print.nics, print.disks),
        (vec!["00:16:3e:00:00:01".to_owned()], vec!["A".to_owned(), "B".to_owned()])
    );
    assert_eq!(print.uuid, None);
}

#[test]
fn a_refusal_names_old_and_new_in_short() {
    let identity = PinnedIdentity {
        node_id: None,
        site: "hz-017".into(),
        cluster: "hz-017".into(),
        role: Role::Agent,
        node_name: "172-16-36-1".into(),
        node_ip: std::net::IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 36, 1)),
        manage_hostname: true,
        epoch: 1,
        init_started: None,
        fingerprint: original(),
        joined: None,
        highest_epoch: 1,
        nic: None,
        retiring: None,
        departing: None,
    };
    let seen = print(OTHER, &["00:16:3e:00:00:99"], &["WD-1", "A", "B"]);
    let refusal = fits(&seen, &identity).map(|refusal| (refusal.code, refusal.reason));
    let reason = "the identity of 172-16-36-1 was pinned on another machine: board UUID 8d3b6d2e-7a4f-4c39-9b1e-3f6a5d0c2b71 then, 11111111-2222-4333-8444-555555555555 now; network cards 00:16:3e:00:00:01 00:16:3e:00:00:02 then, 00:16:3e:00:00:99 now";
    assert_eq!(refusal, Some(("EB-copied-disk".to_owned(), reason.to_owned())));
    assert_eq!(fits(&original(), &identity), None);
    let code = |seen: &Fingerprint| remark(seen, &identity).map(|remark| remark.code);
    assert_eq!(code(&original()), None);
    assert_eq!(code(&print(OTHER, &[], &["WD-1"])).as_deref(), Some("EB-hardware-changed"));
    assert_eq!(code(&Fingerprint::default()).as_deref(), Some("EB-hardware-unknown"));
}

fn any_print() -> impl Strategy<Value = Fingerprint> {
    let uuid = proptest::option::of(proptest::sample::select(vec![UUID, TURNED, OTHER, "no uuid"]));
    let few = |words: Vec<&'static str>| proptest::collection::vec(proptest::sample::select(words), 0..3);
    (uuid, few(vec!["", "m1", "M1", "m2"]), few(vec!["d1", "d2", " d2 "]))
        .prop_map(|(uuid, nics, disks)| print(uuid.unwrap_or_default(), &nics, &disks))
}

proptest! {
    #[test]
    fn it_does_not_matter_which_of_two_machines_was_first(one in any_print(), other in any_print()) {
        prop_assert_eq!(Comparison::of(&one, &other), Comparison::of(&other, &one));
    }

    #[test]
    fn a_machine_is_never_a_copy_of_itself(one in any_print()) {
        prop_assert!(matches!(Comparison::of(&one, &one).verdict(), Verdict::Same | Verdict::TooFew));
    }

    #[test]
    fn what_is_unknown_never_makes_a_copy(one in any_print(), other in any_print(), hidden in 0..7_usize) {
        // Every class but at most one is hidden on one side.
        let mut seen = other;
        if hidden & 1 == 0 { (seen.uuid, seen.board) = (None, Vec::new()); }
        if hidden & 2 == 0 { seen.nics.clear(); }
        if hidden & 4 == 0 { seen.disks.clear(); }
        let board_and_more = hidden & 1 != 0 && hidden != 1;
        let copied = Comparison::of(&one, &seen).verdict() == Verdict::Copied;
        prop_assert!(!copied || board_and_more);
    }

    #[test]
    fn a_machine_that_was_recorded_anew_fits(one in any_print(), other in any_print()) {
        let verdict = Comparison::of(&recorded_anew(&one, &other), &other).verdict();
        prop_assert!(matches!(verdict, Verdict::Same | Verdict::TooFew));
    }
}
