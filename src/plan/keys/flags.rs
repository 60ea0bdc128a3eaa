//! Flags of k3s's parts, as its `*-arg` lists hand them on.
//!
//! Owns the table `flags.tsv` of flags that would break identity, membership or
//! what the plan decides, and the form in which flags are compared. Never reads
//! a host.

use super::canonical;
use super::fit::entries;
use crate::facts::k3s_config::DropIn;
use crate::plan::refusal::Refusal;

const TABLE: &str = include_str!("flags.tsv");

/// One row of the table.
struct Row {
    lists: &'static str,
    flags: &'static str,
    is_checked_at_start: bool,
    why: &'static str,
}

fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut cells = line.split('\t');
        Some(Row {
            lists: cells.next()?,
            flags: cells.next()?,
            is_checked_at_start: cells.next()? == "start",
            why: cells.next()?,
        })
    })
}

fn row_of(list: &str, argument: &str) -> Option<Row> {
    if !list.ends_with("-arg") {
        return None;
    }
    let (list, name) = (canonical(list), name_of(argument));
    let named = |flag: &str| match flag.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == flag,
    };
    rows().find(|row| row.lists.split(' ').any(|own| own == list) && row.flags.split(' ').any(named))
}

/// The flag that `argument` sets. k3s cuts `--` off, and `+` and `-` that add to
/// its own value (k3s: pkg/util/args.go); its parts take `_` for `-`; etcd reads
/// names in any case.
fn name_of(argument: &str) -> String {
    let name = argument.split('=').next().unwrap_or_default().trim();
    let name = name.trim_start_matches('-').trim_end_matches(['+', '-']);
    name.replace('_', "-").to_ascii_lowercase()
}

/// Why `argument` must not stand in `list`, for example `kubelet-arg`.
pub(super) fn forbidden(list: &str, argument: &str) -> Option<&'static str> {
    row_of(list, argument).map(|row| row.why)
}

/// Why k3s must not even start with `argument` in `list` on the host with this
/// pinned name.
#[must_use]
pub fn breaks_start(list: &str, argument: &str, node_name: &str) -> Option<&'static str> {
    let row = row_of(list, argument).filter(|row| row.is_checked_at_start)?;
    let value = argument.split_once('=').map_or("", |(_, value)| value);
    let is_right = name_of(argument) == "hostname-override" && value.eq_ignore_ascii_case(node_name);
    (!is_right).then_some(row.why)
}

/// Whether `argument` in `list` names a path or a socket of the host, which
/// needs the host's permission as keys with paths do.
#[must_use]
pub fn names_path(list: &str, argument: &str) -> bool {
    let value = argument.split_once('=').map_or("", |(_, value)| value);
    let is_path = |part: &str| ["/", "unix:", "file:"].iter().any(|start| part.trim().starts_with(start));
    list.ends_with("-arg") && value.split(',').any(is_path)
}

/// A flag in a drop-in that the table forbids.
#[must_use]
pub fn drop_in_flag(drop_ins: &[DropIn<'_>]) -> Option<Refusal> {
    let mut all = entries(drop_ins).flat_map(|(file, key, values)| {
        let list = key.trim_end_matches('+');
        values.iter().map(move |value| (file, list, value))
    });
    let (file, list, argument, why) =
        all.find_map(|(file, list, value)| Some((file, list, name_of(value), forbidden(list, value)?)))?;
    Some(Refusal::new(
        "EB-override",
        format!("{file} sets {argument} in {list}: {why}"),
        format!("remove {argument} from {list} in that file"),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::facts::k3s_config::parse_layer;
    use crate::plan::keys::{Kind, rows as keys};

    #[test]
    fn every_row_names_lists_that_k3s_has_and_flags_in_their_own_form() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(line.split('\t').count(), 4, "{line}");
        }
        for row in rows() {
            for list in row.lists.split(' ') {
                assert!(keys().any(|key| key.name == list && key.kind() == Kind::List), "{list}");
            }
            for flag in row.flags.split(' ') {
                assert_eq!(name_of(flag.trim_end_matches('*')), flag.trim_end_matches(['*', '-']), "{flag}");
            }
            assert!(!row.why.is_empty(), "{}", row.flags);
        }
        assert!(rows().count() > 20);
    }

    #[test]
    fn a_flag_is_found_in_every_form_that_k3s_takes() {
        for argument in [
            "hostname-override=x",
            "--hostname-override=x",
            "hostname-override+=x",
            "hostname-override-=x",
            "hostname_override=x",
            "hostname-override",
        ] {
            assert!(forbidden("kubelet-arg", argument).is_some(), "{argument}");
        }
        assert!(forbidden("etcd-arg", "Force-New-Cluster=true").is_some());
        assert!(forbidden("etcd-arg", "initial-cluster-state=new").is_some());
        assert!(forbidden("kube-controller-arg", "leader-elect=false").is_some(), "a second name");
        for (list, argument) in [
            ("kubelet-arg", "max-pods=50"),
            ("kube-apiserver-arg", "hostname-override=x"),
            ("etcd-arg", "heartbeat-interval=500"),
            ("etcd-arg", "listen-metrics-urls=http://0.0.0.0:2381"),
            ("node-label", "name=x"),
        ] {
            assert!(forbidden(list, argument).is_none(), "{list} {argument}");
        }
    }

    #[test]
    fn a_start_is_refused_for_what_would_be_another_node_or_cluster() {
        let at = |list, argument| breaks_start(list, argument, "172-16-36-1").is_some();
        assert!(at("kubelet-arg", "hostname-override=other") && at("etcd-arg", "force-new-cluster=true"));
        assert!(at("kube-apiserver-arg", "etcd-servers=https://10.0.0.1:2379"));
        assert!(
            !at("kubelet-arg", "hostname-override=172-16-36-1") && !at("kubelet-arg", "node-ip=10.0.0.1")
        );
    }

    #[test]
    fn paths_and_sockets_of_the_host_are_seen() {
        for (list, argument, wanted) in [
            ("kube-apiserver-arg", "audit-log-path=/var/log/audit.log", true),
            ("kubelet-arg", "config=file:///srv/kubelet.yaml", true),
            ("kube-apiserver-arg", "x=a,unix:///run/x.sock", true),
            ("kubelet-arg", "node-labels=a/b=c", false),
            ("kube-apiserver-arg", "oidc-issuer-url=https://id.example.net/x", false),
            ("node-label", "a=/b", false),
        ] {
            assert_eq!(names_path(list, argument), wanted, "{list} {argument}");
        }
    }

    #[test]
    fn a_drop_in_with_a_forbidden_flag_is_refused() {
        let of = |text: &str| drop_in_flag(&[("/d/50.yaml", &parse_layer(text).unwrap())]);
        let refusal = of("debug: true\nkubelet-arg+: [v=2, hostname-override=x]\n").unwrap();
        assert_eq!(refusal.code, "EB-override");
        assert!(refusal.reason.contains("/d/50.yaml sets hostname-override in kubelet-arg"), "{refusal}");
        assert!(of("kubelet-arg+: [v=2]\nkube-apiserver-arg: audit-log-path=/x\n").is_none());
    }
}
