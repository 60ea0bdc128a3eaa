//! Settings that k3s reads otherwise than they look, or that nobody may copy.

use super::{Host, right, shown};

const VERSION: &str = "v1.21.5+k3s2";

/// A host with `arguments` behind the right ones, and a `config.yaml`.
fn host(arguments: &str, config: &str) -> Host {
    let host = Host::server(&format!("{} {arguments}", right()), VERSION);
    if !config.is_empty() {
        host.write("etc/rancher/k3s/config.yaml", config);
    }
    host
}

#[test]
fn a_configuration_that_is_no_file_here_is_refused_and_never_said_to_be_read() {
    let named = "K3S_CONFIG_FILE=http://u:canary@10.0.0.9/k3s.yaml\n";
    for (arguments, variables) in [
        ("--config https://10.0.0.9/k3s.yaml", ""),
        ("-c=/srv/gone.yaml --config /etc/rancher/k3s/config.yaml", ""),
        ("", named),
    ] {
        let host = host(arguments, "node-label: [a=b]\n");
        host.write("etc/default/k3s", variables);
        let before = host.files();
        let (text, code) = shown(&host, &["--yes"]);
        assert!(text.contains("which is no file of this host; save it as one"), "{text}");
        assert!(!text.contains("canary") && !text.contains("keys of that file move"), "{text}");
        assert_eq!((code, host.files() == before), (Some(1), true), "{text}");
    }
    let host = host("--config /srv/k3s.yaml", "");
    host.write("srv/k3s.yaml", "node-label: [a=b]\n");
    let (text, code) = shown(&host, &[]);
    assert!(code == Some(2) && text.contains("node-label: a=b"), "{text}");
}

#[test]
fn options_behind_a_word_that_is_none_are_no_settings_yet() {
    for (arguments, behind) in [
        ("--debug true --disable-scheduler", "--debug"),
        ("-- --debug", "--kubelet-arg"),
        ("--token canary word --debug", "--token"),
    ] {
        let (text, code) = shown(&host(arguments, ""), &["--yes"]);
        let words =
            format!("at a word that is no option, behind {behind}, and options follow; remove that word");
        assert!(code == Some(1) && text.contains(&words) && !text.contains("canary"), "{text}");
    }
    let (text, code) = shown(&host("--disable traefik servicelb", ""), &[]);
    assert!(code == Some(2) && text.contains("behind --disable"), "nothing follows: {text}");
}

#[tokio::test]
async fn a_directory_among_the_drop_ins_is_passed_over_as_k3s_does() {
    let host = Host::running(&right(), VERSION);
    host.write("etc/rancher/k3s/config.yaml.d/old.yaml/x.yaml", "debug: true\n");
    host.take(false).await;
    assert!(host.read("etc/rancher/k3s/config.yaml.d/old.yaml/x.yaml").contains("debug"));
    assert!(!host.told().await.contains_key("debug"));
}

#[tokio::test]
async fn what_k3s_takes_is_copied_and_what_is_not_copied_is_accepted_by_a_person() {
    let config = "node-label: [rack]\netcd-snapshot-retention: -1\nkubelet-arg: ['', v=2, 'max pods']\n\
                  cluster-dns: 10-0-0-1\netcd-s3-secret-key: canary\n";
    let look = host("", config).look().await;
    let keys: Vec<&str> = look.differences.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(
        keys,
        ["cluster-dns", "etcd-s3-secret-key", "etcd-snapshot-retention", "flannel-backend", "kubelet-arg"]
    );
    let planned = &look.plan.generation.as_ref().unwrap().effective;
    assert_eq!(
        (planned.all("node-label"), planned.first("etcd-snapshot-retention")),
        (&["rack=".to_owned()][..], Some("5"))
    );
    assert!(planned.all("kubelet-arg").contains(&"v=2".to_owned()), "{planned:?}");
    let (text, code) = shown(&host("", config), &[]);
    assert!(code == Some(2) && !text.contains("canary"), "{text}");
    assert!(text.contains("etcd-s3-secret-key: (secret) -> not set"), "{text}");
    assert!(text.contains("cluster-dns: 10-0-0-1 -> not set"), "{text}");
}

#[test]
fn what_no_assignment_may_hold_is_told_by_its_file() {
    let config = "kubelet-arg: [node-labels=a=b, hostname-override=x]\n";
    let host = Host::server(&right().replace("--kubelet-arg max-pods=64", ""), VERSION);
    host.write("etc/rancher/k3s/config.yaml", config);
    let (text, code) = shown(&host, &[]);
    assert!(code == Some(1) && !text.contains("central service"), "{text}");
    for words in ["sets node-labels", "sets hostname-override", "correct it in /etc/rancher/k3s/config.yaml,"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}
