//! Values that k3s would refuse, or that mean something else than they say.
//!
//! Owns the forms of addresses, networks, ports, names, labels, numbers, durations,
//! switches, URLs and flags, and which lists k3s splits at commas. Guesses nothing: a value
//! that is wrong is told, and never corrected.

use std::net::IpAddr;

use super::{Kind, rows};
use crate::facts::network::Cidr;
use crate::role::schedule::{is_duration, is_schedule};
use crate::role::words::{LabelKey, LabelValue, Taint};
use crate::wire::secret::without_credentials;

/// Lists whose values k3s splits at commas (k3s: pkg/cli/cmds, util.SplitStringSlice).
const COMMAS: [&str; 9] = [
    "cluster-cidr",
    "cluster-dns",
    "disable",
    "node-external-dns",
    "node-external-ip",
    "node-internal-dns",
    "node-ip",
    "service-cidr",
    "tls-san",
];

/// Form, what to say of a value that has another, and the keys that have it.
type Form = (fn(&str) -> bool, &'static str, &'static [&'static str]);

const FORMS: [Form; 10] = [
    (
        |value| value.parse::<IpAddr>().is_ok(),
        "no IP address",
        &[
            "advertise-address",
            "apiserver-bind-address",
            "bind-address",
            "cluster-dns",
            "node-external-ip",
            "node-ip",
        ],
    ),
    (
        |value| value.parse::<Cidr>().is_ok(),
        "no network like 10.42.0.0/16",
        &["cluster-cidr", "service-cidr"],
    ),
    (
        is_port,
        "no port",
        &["advertise-port", "apiserver-port", "https-listen-port", "lb-server-port", "supervisor-port"],
    ),
    (is_port_range, "no range of ports like 30000-32767", &["service-node-port-range"]),
    (is_domain, "no domain name", &["cluster-domain", "node-external-dns", "node-internal-dns"]),
    (|value| value.starts_with("https://"), "no https URL", &["server"]),
    (is_schedule, "no schedule like 0 */6 * * *", &["etcd-snapshot-schedule-cron"]),
    (is_label, "no label that a kubelet may put on its own Node", &["node-label"]),
    (|value| value.parse::<Taint>().is_ok(), "no taint like key=value:NoSchedule", &["node-taint"]),
    (
        |value| !value.is_empty() && !value.contains("://") && !value.contains(char::is_whitespace),
        "no registry like registry.example.net:5000",
        &["system-default-registry"],
    ),
];

/// What is wrong with the values of `key`; never repeats a secret.
pub(in crate::plan) fn problem(key: &str, values: &[String]) -> Option<String> {
    if let Some((is_right, what, _)) = FORMS.iter().find(|(.., keys)| keys.contains(&key)) {
        return wrong(values, what, *is_right);
    }
    if key == "write-kubeconfig-mode" {
        return wrong(values, "no mode like 0600", |value| u32::from_str_radix(value, 8).is_ok());
    }
    if key.ends_with("-arg") {
        // It may hold a secret.
        let at = values.iter().position(|value| !is_flag(value))?;
        return Some(format!("its value {} is no flag like name=value, which k3s refuses", at + 1));
    }
    match rows().find(|row| row.name == key).map(|row| row.kind()) {
        Some(Kind::Number) => wrong(values, "no number", |value| value.parse::<i64>().is_ok()),
        Some(Kind::Duration) => wrong(values, "no duration like 5m", is_duration),
        Some(Kind::Switch) => wrong(values, "neither true nor false", |value| truth(value).is_some()),
        _ => None,
    }
}

fn wrong(values: &[String], what: &str, is_right: fn(&str) -> bool) -> Option<String> {
    let value = values.iter().find(|value| !is_right(value))?;
    Some(format!("{:?} is {what}, which k3s refuses", without_credentials(value)))
}

/// Whether k3s splits a value of `key` at commas.
#[must_use]
pub fn splits(key: &str) -> bool {
    COMMAS.contains(&key)
}

/// Values of `key` as k3s uses them.
pub(super) fn parts(key: &str, values: &[String]) -> Vec<String> {
    if !splits(key) {
        return values.to_vec();
    }
    values.iter().flat_map(|value| value.split(',')).map(|part| part.trim().to_owned()).collect()
}

/// As Go's `strconv.ParseBool`, which reads k3s's switches.
pub(in crate::plan) fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn is_port(value: &str) -> bool {
    value.parse::<u16>().is_ok_and(|port| port > 0)
}

/// As Kubernetes reads one (apimachinery: pkg/util/net/port_range.go).
fn is_port_range(value: &str) -> bool {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    if let Some((first, more)) = value.split_once('+') {
        return port(first).is_some() && more.trim().parse::<u16>().is_ok();
    }
    match value.split_once('-') {
        Some((first, last)) => port(first).zip(port(last)).is_some_and(|(first, last)| first <= last),
        None => is_port(value),
    }
}

fn is_domain(value: &str) -> bool {
    let is_label = |label: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len())
            && label.chars().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    value.len() <= 253 && value.split('.').all(is_label)
}

/// Nothing is no label, and the kubelet passes over it. A key alone has an empty value.
fn is_label(value: &str) -> bool {
    let (key, text) = value.split_once('=').unwrap_or((value, ""));
    value.is_empty() || key.parse::<LabelKey>().is_ok() && text.parse::<LabelValue>().is_ok()
}

/// `name` or `name=value`; k3s's parts end at a flag whose name has a blank.
fn is_flag(value: &str) -> bool {
    let name = value.split('=').next().unwrap_or_default();
    !name.trim_start_matches('-').is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_takes_what_k3s_takes_and_nothing_else() {
        let rows = [
            ("cluster-dns", "10.254.0.10", true),
            ("cluster-dns", "10.254.0.300", false),
            ("node-external-ip", "203.0.113.7/24", false),
            ("service-node-port-range", "30000-32767", true),
            ("service-node-port-range", "30000+500", true),
            ("service-node-port-range", "32767-30000", false),
            ("service-node-port-range", "30000-70000", false),
            ("service-node-port-range", "30000:32767", false),
            ("https-listen-port", "6443", true),
            ("https-listen-port", "0", false),
            ("https-listen-port", "66443", false),
            ("cluster-domain", "cluster.local", true),
            ("cluster-domain", "cluster.local.", false),
            ("cluster-domain", "Cluster_Local", false),
            ("system-default-registry", "registry.example.net:5000", true),
            ("system-default-registry", "https://registry.example.net", false),
            ("write-kubeconfig-mode", "0640", true),
            ("write-kubeconfig-mode", "0690", false),
            ("kubelet-arg", "max-pods=50", true),
            ("kubelet-arg", "--v=2", true),
            ("kubelet-arg", "fail-swap-on", true),
            ("kubelet-arg", "max-pods 50", false),
            ("kubelet-arg", "max-pods: 50", false),
            ("etcd-arg", "=5", false),
            ("etcd-snapshot-retention", "-1", true),
            ("etcd-snapshot-retention", "many", false),
            ("etcd-snapshot-schedule-cron", "0 */6 * * *", true),
            ("etcd-snapshot-schedule-cron", "every 6 hours", false),
            ("etcd-s3-timeout", "1m30s", true),
            ("etcd-s3-timeout", "30", false),
            ("node-label", "example.net/rack=7", true),
            ("node-label", "example.net/rack", true),
            ("node-label", "=7", false),
            ("node-label", "node-role.kubernetes.io/worker=true", false),
            ("node-taint", "gpu:NoExecute", true),
            ("node-taint", "gpu=yes", false),
            ("debug", "T", true),
            ("debug", "yes", false),
            ("node-name", "anything", true),
        ];
        for (key, value, is_right) in rows {
            assert_eq!(problem(key, &[value.to_owned()]).is_none(), is_right, "{key}: {value}");
        }
    }
}
