use super::*;

fn of(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn found(text: &str) -> Vec<(String, String)> {
    let all = assignments(text).into_iter().filter(|one| !one.name.is_empty());
    all.map(|one| (one.name, one.value)).collect()
}

#[test]
fn a_unit_as_the_installer_writes_it_is_read() {
    let text = "[Service]\nExecStartPre=/bin/sh -xc '! x'\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--node-name' \\\n\t'10-0-0-1' \\\n\nRestart=always\n";
    let all = directives(text);
    assert_eq!(all.iter().map(|one| one.raw.as_str()).collect::<String>(), text);
    let start = all.iter().find(|one| one.name == "ExecStart").map(|one| words(&one.value));
    assert_eq!(start, Some(of(&["/usr/local/bin/k3s", "server", "--node-name", "10-0-0-1"])));
    assert!(all.iter().any(|one| one.name == "Restart" && one.section == "Service"));
}

#[test]
fn quotes_and_escapes_are_systemds() {
    assert_eq!(words(r#"'it'\''s' "a b"c \x41\n x\ y"#), of(&["it's", "a bc", "A\n", "x\\ y"]));
    assert_eq!(words(r"'a\tb' '\q'"), of(&["a\tb", "\\q"]));
    assert_eq!(specified("%N-%n-%%-%z", "k3s.service", "h"), "k3s-k3s.service-%-%z");
}

#[test]
fn variables_are_split_only_as_words_of_their_own() {
    let variables = BTreeMap::from([("A".to_owned(), "1 2".to_owned())]);
    let line = of(&["$A", "x${A}", "$$A", "x$A", "$NONE", "${NONE}"]);
    assert_eq!(expanded(&line, &variables), of(&["1", "2", "x1 2", "$A", "x$A", ""]));
}

#[test]
fn both_quotings_of_environment_files_are_read() {
    let text = "# K3S_URL=no\nK3S_TOKEN='a b'\nK3S_URL=\"https://x\\\"y\"\nK3S_NODE_NAME=plain  \n\nK3S_A=one\\\ntwo\nK3S_B='x'\"y\"\nbad line\nK3S_C=\n";
    let expected = [
        ("K3S_TOKEN", "a b"),
        ("K3S_URL", "https://x\"y"),
        ("K3S_NODE_NAME", "plain"),
        ("K3S_A", "onetwo"),
        ("K3S_B", "xy"),
        ("K3S_C", ""),
    ];
    let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(found(text), expected);
    assert_eq!(assignments(text).iter().map(|one| one.raw.as_str()).collect::<String>(), text);
}

#[test]
fn no_text_makes_it_panic() {
    for text in ["", "\\", "'", "\"\\", "a=\\", "=", "[", "[]\n\\\n", "%", "é=\\é", "x='é", "\u{0}\\u12"] {
        let _ = (words(text), directives(text), assignments(text), specified(text, "u", "h"));
    }
}
