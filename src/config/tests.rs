//! The module as its callers see it: bad files and their exact messages, merge
//! order, provenance, and the laws that hold for any text.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use proptest::prelude::*;

use super::*;

const PIN: &str = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
const FULL: &str = include_str!("testdata/full.toml");

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.to_owned() }
}

fn accepted(texts: &[&str]) -> Configuration {
    parse(&files(texts)).unwrap_or_else(|errors| panic!("{errors}"))
}

fn refused(texts: &[&str]) -> String {
    parse(&files(texts)).expect_err("a mistake in it").to_string()
}

/// Files `a`, `b` and so on.
fn files(texts: &[&str]) -> Vec<Source> {
    let names = ["a", "b", "c", "d"];
    names.iter().zip(texts).map(|(name, text)| source(name, text)).collect()
}

#[test]
fn bad_input_has_its_exact_message() {
    let table = include_str!("testdata/refused.txt");
    let mut cases = 0;
    for case in table.split("\n----\n") {
        let (input, expected) = case.split_once("\n=>\n").unwrap_or_else(|| panic!("no `=>` in {case}"));
        let texts: Vec<&str> = input.split("\n++\n").collect();
        assert_eq!(refused(&texts), expected.trim_end(), "\n--- input\n{input}");
        cases += 1;
    }
    assert!(cases >= 25, "only {cases} cases");
}

#[test]
fn nothing_configured_is_a_state() {
    let none = accepted(&[]);
    assert_eq!(none.settings, Settings::default());
    assert_eq!(none.settings.source, AssignmentSource::None);
    let empty = accepted(&["", "# only a comment\n", "[central]\n[node]\n", "\u{feff}\r\n"]);
    assert_eq!(empty.settings, none.settings);
    assert_eq!(none.secret_files(), Vec::<PathBuf>::new());
}

#[test]
fn every_key_arrives() {
    let settings = accepted(&[FULL]).settings;
    let AssignmentSource::Central(central) = &settings.source else { panic!("{:?}", settings.source) };
    let endpoints: Vec<String> = central.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["https://central.example.net:8443", "https://203.0.113.8:443"]);
    assert_eq!(central.addresses, [IpAddr::from([203, 0, 113, 7])]);
    let ServerProof::Pins(pins) = &central.proof else { panic!("{:?}", central.proof) };
    assert_eq!(pins.iter().map(ToString::to_string).collect::<Vec<_>>(), [PIN]);
    assert_eq!(central.enrol_token_file, Some("/etc/edge-bootstrap/enrol-token".into()));
    let resolvers = ["114.114.114.114:53", "223.5.5.5:5353"].map(|text| text.parse().unwrap());
    assert_eq!(settings.transport.resolvers, resolvers);
    let proxy = settings.transport.proxy.as_ref().unwrap();
    assert_eq!(proxy.secret_url(), "http://room:s3cret@172.16.36.10:3128");
    assert_eq!(settings.relay.listen.to_string(), "172.16.36.1:7000");
    assert_eq!(
        settings.relay.peers,
        ["172.16.36.10:6446", "172.16.36.11:7000"].map(|text| text.parse().unwrap())
    );
    assert!(settings.trust.release_keys.is_empty());
    assert_eq!(settings.trust.allow_keys[0].as_str(), "kubelet-arg");
    assert_eq!(settings.repair, RepairPolicy::Observe);
}

#[test]
fn node_and_storage_arrive() {
    let settings = accepted(&[FULL]).settings;
    let site = settings.node.site.as_ref().unwrap();
    assert_eq!(site.as_str(), "hz-017");
    let ip = IpAddr::from([172, 16, 36, 1]);
    let NodeAddress::Within(networks) = &settings.node.address else { panic!("{:?}", settings.node) };
    assert!(networks[0].contains(ip));
    assert_eq!(settings.node.name_template.render(ip, Some(site)).unwrap().as_str(), "hz-017-172-16-36-1");
    assert!(settings.node.manage_ip && !settings.node.manage_hostname);
    assert_eq!(settings.storage.snapshotter, Some(Snapshotter::Devmapper));
    let pool = settings.storage.devmapper.unwrap();
    assert_eq!((pool.pool.as_str(), pool.create), ("edge-thinpool", true));
    assert!(matches!(pool.space, Some(PoolSpace::VolumeGroup(group)) if group.as_str() == "vg0"));
}

#[test]
fn other_choices_arrive() {
    let local = accepted(&[concat!(
        "central.assignment-file = \"/a\"\nnode.ip = \"10.0.0.1\"\nrelay.listen = \"\"\n",
        "storage.devmapper = { pool = \"p\", device = \"/dev/sdb\" }\n"
    )]);
    assert_eq!(local.settings.source, AssignmentSource::File("/a".into()));
    assert_eq!(local.settings.node.address, NodeAddress::Exact([10, 0, 0, 1].into()));
    assert_eq!(local.settings.relay.listen, RelayListen::Off);
    let space = local.settings.storage.devmapper.unwrap().space;
    assert_eq!(space, Some(PoolSpace::Device("/dev/sdb".into())));
    let proof = |text: &str| match accepted(&[text]).settings.source {
        AssignmentSource::Central(central) => central.proof,
        other => panic!("{other:?}"),
    };
    let ca = proof("central.endpoints = [\"https://a\"]\ncentral.ca-file = \"/ca\"");
    assert_eq!(ca, ServerProof::CaFile("/ca".into()));
    assert_eq!(proof("central.endpoints = [\"http://[::1]:80\"]"), ServerProof::Loopback);
}

#[test]
fn a_later_file_replaces_the_whole_value() {
    let first =
        "[central]\nresolvers = [\"10.0.0.1\", \"10.0.0.2\"]\n[node]\nsite = \"a\"\nmanage-ip = true\n";
    let second = "\n[central]\nresolvers = [\"10.0.0.3\"]\n[node]\nmanage-ip = false\n";
    let merged = accepted(&[first, second]);
    assert_eq!(merged.settings.transport.resolvers, ["10.0.0.3:53".parse().unwrap()]);
    assert!(!merged.settings.node.manage_ip);
    assert_eq!(merged.origin("central.resolvers").unwrap().to_string(), "b:3");
    assert_eq!(merged.origin("node.site").unwrap().to_string(), "a:4");
    assert_eq!(merged.origin("node.ip"), None);
    let turned = accepted(&[second, first]);
    assert_eq!(turned.settings.transport.resolvers.len(), 2);
    assert!(turned.settings.node.manage_ip);
}

#[test]
fn an_empty_value_takes_an_earlier_one_back() {
    let with_ca = "[central]\nendpoints = [\"https://a\"]\nca-file = \"/ca\"\n[node]\nip = \"10.0.0.1\"";
    let with_pins = format!("[central]\nca-file = \"\"\npins = [\"{PIN}\"]\n[node]\nip = \"\"\n");
    let AssignmentSource::Central(central) = accepted(&[with_ca, &with_pins]).settings.source else {
        panic!("endpoints were set")
    };
    assert!(matches!(central.proof, ServerProof::Pins(_)));
    let away = "[central]\nendpoints = []\nassignment-file = \"/a\"";
    assert_eq!(accepted(&[with_ca, away]).settings.source, AssignmentSource::File("/a".into()));
}

#[test]
fn a_replaced_mistake_is_reported_all_the_same() {
    let message = refused(&["node.manage-ip = 1", "node.manage-ip = true"]);
    assert_eq!(message, "a:1:18: node.manage-ip: expected true or false, found an integer");
}

#[test]
fn a_name_too_long_for_some_host_is_refused() {
    let site = "s".repeat(30);
    let text =
        |ip: &str| format!("[node]\nsite = \"{site}\"\nname-template = \"{{site}}-{{ip-dashed}}\"\n{ip}\n");
    for ip in ["", "ip = \"fd00::1\"", "ip-networks = [\"10.0.0.0/8\"]"] {
        accepted(&[&text(ip)]);
    }
    for ip in
        ["ip-networks = [\"10.0.0.0/8\", \"fd00::/8\"]", "ip = \"fd00:1111:1111:1111:1111:1111:1111:1111\""]
    {
        assert!(refused(&[&text(ip)]).contains("node name \"sss"), "{ip}");
    }
}

#[test]
fn garbage_is_refused_in_bounded_lines() {
    for text in
        ["= \n".repeat(500), "[".repeat(50_000), format!("a = {}", "[".repeat(50_000)), "{".repeat(9_000)]
    {
        let errors = parse(&[source("a", &text)]).unwrap_err().0;
        assert!((1..=21).contains(&errors.len()), "{}", errors.len());
    }
}

#[test]
fn a_missing_key_is_not_reported_beside_its_misspelling() {
    let message = refused(&[&format!("[central]\nendpoints = [\"https://a\"]\npinz = [\"{PIN}\"]")]);
    assert_eq!(message, "a:3:1: central.pinz: unknown key (did you mean `central.pins`?)");
}

#[test]
fn columns_count_characters() {
    let errors = parse(&files(&["# ä\nnode = { \"ä\" = 1, site = 2 }"])).unwrap_err().0;
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(2, 10), (2, 26)]);
}

#[test]
fn defaults_of_the_keys_are_the_defaults_of_the_settings() {
    let presets = KEYS.iter().filter_map(|key| Some((key.name, key.default.value()?)));
    let text: String = presets.map(|(name, value)| format!("{name} = {value}\n")).collect();
    assert_eq!(accepted(&[&text]).settings, Settings::default());
}

#[test]
fn every_example_of_a_key_is_accepted() {
    for key in KEYS.iter().filter(|key| !key.example.is_empty()) {
        let errors = parse(&files(&[&format!("{} = {}", key.name, key.example)])).err();
        let form =
            errors.into_iter().flat_map(|errors| errors.0).find(|error| !error.message.starts_with("needs"));
        assert_eq!(form, None);
    }
}

#[test]
fn shown_text_is_the_configuration_again() {
    let shown = accepted(&[&FULL.replace("room:s3cret@", "")]).shown().to_string();
    assert_eq!(accepted(&[&shown]).settings, accepted(&[&FULL.replace("room:s3cret@", "")]).settings);
    let none = accepted(&[]).shown().to_string();
    assert_eq!(accepted(&[&none]).settings, Settings::default());
    assert!(none.contains("\nrepair.policy = \"safe\"  # default\n"), "{none}");
    assert!(none.contains("# central.proxy is not set\n"), "{none}");
    assert!(shown.starts_with("# read a\n") && shown.contains("node.site = \"hz-017\"  # a:14\n"), "{shown}");
}

#[test]
fn shown_json_has_value_and_place() {
    let shown = serde_json::to_value(accepted(&["node.manage-ip = true"]).shown()).unwrap();
    assert_eq!((&shown["schema"], &shown["files"]), (&1.into(), &serde_json::json!(["a"])));
    let values = shown["values"].as_array().unwrap();
    assert_eq!(values.len(), KEYS.len());
    let entry = |key: &str| values.iter().find(|value| value["key"] == key).unwrap();
    let from = serde_json::json!({"file": "a", "line": 1, "column": 6});
    assert_eq!(
        entry("node.manage-ip"),
        &serde_json::json!({"key": "node.manage-ip", "value": true, "from": from})
    );
    assert_eq!(entry("node.ip")["value"], serde_json::Value::Null);
    assert_eq!(
        entry("trust.allow-keys"),
        &serde_json::json!({"key": "trust.allow-keys", "value": [], "from": null})
    );
}

#[test]
fn credentials_of_a_proxy_are_never_printed() {
    let configuration = accepted(&[FULL]);
    let shown = configuration.shown();
    let json = serde_json::to_string(&shown).unwrap();
    assert!(json.contains("http://REDACTED@172.16.36.10:3128"), "{json}");
    let source = format!("{:?}", source("a", FULL));
    for text in [json, shown.to_string(), format!("{configuration:?}"), format!("{shown:?}"), source] {
        assert!(!text.contains("s3cret") && !text.contains("room:"), "{text}");
    }
    for proxy in
        ["http://room:s3cret", "room:s3cret@h:1", "http://room:s3cret@h:1/x", "http://room:s3cret@:1"]
    {
        let message = refused(&[&format!("central.proxy = \"{proxy}\"")]);
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn files_with_secrets_are_named() {
    let central = accepted(&["# no secret here", FULL]);
    assert_eq!(secret_files(&central.settings), [PathBuf::from("/etc/edge-bootstrap/enrol-token")]);
    assert_eq!(central.secret_files(), [PathBuf::from("/etc/edge-bootstrap/enrol-token"), "b".into()]);
    let local = accepted(&["central.assignment-file = \"/a\"\ncentral.proxy = \"http://h:1\""]);
    assert_eq!(local.secret_files(), [PathBuf::from("/a")]);
}

#[test]
fn errors_have_a_json_form() {
    let errors = parse(&files(&["node.sitte = 1"])).unwrap_err();
    let expected = serde_json::json!([{"file": "a", "line": 1, "column": 6, "key": "node.sitte",
        "message": "unknown key", "suggestion": "node.site"}]);
    assert_eq!(serde_json::to_value(errors).unwrap(), expected);
}

/// A heading per key, its default, and an example that this version accepts.
#[test]
fn the_reference_names_every_key() {
    let reference = include_str!("../../docs/configuration.md");
    for key in KEYS {
        let heading = format!("\n### `{}`\n", key.name);
        let (_, section) = reference.split_once(&heading).unwrap_or_else(|| panic!("no {heading}"));
        let section = section.split("\n#").next().unwrap();
        let default = match key.default.value() {
            Some(value) => format!("Default: `{value}`"),
            None => "Default: not set".to_owned(),
        };
        assert!(section.contains(&default), "{}: no `{default}`", key.name);
        let last = key.name.rsplit('.').next().unwrap();
        assert!(section.contains(&format!("Example: `{last} = ")), "{}: no example", key.name);
    }
    assert_eq!(reference.matches("\n### `").count(), KEYS.len(), "a key that does not exist");
}

#[test]
fn examples_of_the_reference_are_accepted() {
    let reference = include_str!("../../docs/configuration.md");
    let examples: Vec<_> = reference.split("```toml\n").skip(1).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let text = example.split("```").next().unwrap();
        accepted(&[text]);
    }
}

/// Text that is TOML more often than chance has it.
fn lines() -> impl Strategy<Value = String> {
    let keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    let value = prop_oneof![
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("\"\"".to_owned()),
        Just("{}".to_owned()),
        Just("1e9".to_owned()),
        "\"[a-z0-9:/@.{}-]{0,20}\"",
        "\\[\"[a-z0-9:/@.-]{0,20}\"\\]",
        ".{0,12}",
    ];
    let line = (proptest::sample::select(keys), value).prop_map(|(key, value)| format!("{key} = {value}\n"));
    let line = prop_oneof![4 => line, 1 => "\\[[a-z.]{1,12}\\]\n", 1 => ".{0,16}\n"];
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        let _ = parse(&[source("a", &text)]).map_err(|errors| errors.to_string());
    }

    #[test]
    fn every_refusal_points_into_its_file(first in lines(), second in lines()) {
        let sources = files(&[&first, &second]);
        let result = parse(&sources);
        prop_assert_eq!(&result, &parse(&sources));
        let Err(errors) = result else { return Ok(()) };
        prop_assert!(!errors.0.is_empty());
        prop_assert_eq!(errors.to_string().lines().count(), errors.0.len());
        for error in errors.0 {
            let source = sources.iter().find(|source| source.path == error.file).unwrap();
            prop_assert!(error.line <= source.text.matches('\n').count() + 1);
        }
    }

    #[test]
    fn an_unknown_key_is_always_reported(section in proptest::sample::select(vec!["central", "node", "trust"]), key in "[a-z]{2,12}-x") {
        let errors = parse(&[source("a", &format!("{FULL}\n[{section}x]\n{key} = 1\n"))]).unwrap_err();
        prop_assert_eq!(errors.0.len(), 1);
        let line = format!("{section}.{key} = 1\n");
        let errors = parse(&[source("a", &line)]).unwrap_err();
        prop_assert_eq!(&errors.0[0].key, &format!("{section}.{key}"));
        prop_assert!(errors.0[0].message.starts_with("unknown key"));
    }

    #[test]
    fn files_that_set_different_keys_merge_in_any_order(site in "[a-z]{1,8}", ip in any::<bool>()) {
        let first = format!("node.site = \"{site}\"\n");
        let second = format!("node.manage-ip = {ip}\n");
        prop_assert_eq!(accepted(&[&first, &second]).settings, accepted(&[&second, &first]).settings);
    }
}
