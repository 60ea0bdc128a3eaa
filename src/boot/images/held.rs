//! Which running containers stand on a layer.
//!
//! Owns the way from a task to the layers below it: the snapshot of a container
//! has its name, and every snapshot names the one below. A layer with a running
//! container on it stays whatever is removed above.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::acts::{Damaged, ImageError, Tool, ctr};
use crate::ordered::Ordered as _;

/// How many are named.
const NAMED: usize = 3;

#[derive(Deserialize)]
struct Info {
    #[serde(default, rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

/// Notes beside every damaged layer who stands on it.
pub(super) async fn by_running(tool: &Tool, damaged: &mut [Damaged]) -> Result<(), ImageError> {
    damaged.iter_mut().for_each(|it| it.used_by.clear());
    if damaged.iter().all(|it| it.chain.is_none()) {
        return Ok(());
    }
    let snapshots = ctr(tool, &["snapshots", "--snapshotter", &tool.snapshotter, "ls"]).await?;
    let tasks = ctr(tool, &["tasks", "ls", "-q"]).await?;
    let parents = parents(&snapshots);
    for it in damaged {
        let Some(chain) = &it.chain else { continue };
        let on_it = tasks.lines().map(str::trim).filter(|task| stands_on(&parents, task, chain));
        let on_it: Vec<&str> = on_it.collect();
        for task in on_it.iter().take(NAMED) {
            add(it, name(tool, task).await);
        }
        let more = on_it.len().saturating_sub(NAMED);
        it.used_by.extend((more > 0).then(|| format!("{more} more")));
    }
    Ok(())
}

/// A pod has several containers. What runs from it may end, and is asked again.
fn add(it: &mut Damaged, user: String) {
    it.is_stuck = false;
    if !it.used_by.contains(&user) {
        it.used_by.push(user);
    }
}

/// The snapshot below each, from `KEY PARENT KIND` in columns. Keys of layers
/// that are just being unpacked have a space in them; no container has.
fn parents<'a>(table: &'a str) -> BTreeMap<&'a str, &'a str> {
    let parent = |line: &'a str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [key, .., parent, _kind] => Some((*key, *parent)),
            _ => None,
        }
    };
    table.lines().skip(1).filter_map(parent).into_map()
}

fn stands_on(parents: &BTreeMap<&str, &str>, snapshot: &str, chain: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut at = snapshot;
    while let Some(below) = parents.get(at) {
        if *below == chain {
            return true;
        }
        if !seen.insert(at) {
            return false;
        }
        at = below;
    }
    false
}

/// The pod of a container as people know it.
async fn name(tool: &Tool, id: &str) -> String {
    let info = ctr(tool, &["containers", "info", id]).await.unwrap_or_default();
    words(id, &info)
}

fn words(id: &str, info: &str) -> String {
    let labels = serde_json::from_str::<Info>(info).ok().and_then(|info| info.labels).unwrap_or_default();
    let label = |key: &str| labels.get(&format!("io.kubernetes.pod.{key}"));
    match (label("namespace"), label("name")) {
        (Some(namespace), Some(pod)) => format!("pod {namespace}/{pod}"),
        _ => format!("container {}", id.chars().take(12).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
KEY                        PARENT   KIND
sha256:aa                           Committed
sha256:bb                  sha256:aa Committed
extract-12-x sha256:cc     sha256:bb Active
pod1                       sha256:bb Active
pod2                       sha256:aa Active
alone                                Active
";

    #[test]
    fn a_container_stands_on_every_layer_below_its_snapshot() {
        let parents = parents(TABLE);
        for (snapshot, chain, stands) in [
            ("pod1", "sha256:aa", true),
            ("pod1", "sha256:bb", true),
            ("pod2", "sha256:aa", true),
            ("pod2", "sha256:bb", false),
            ("alone", "sha256:aa", false),
            ("none", "sha256:aa", false),
        ] {
            assert_eq!(stands_on(&parents, snapshot, chain), stands, "{snapshot} {chain}");
        }
        assert!(!stands_on(&BTreeMap::from([("a", "b"), ("b", "a")]), "a", "c"), "a circle has an end");
    }

    #[test]
    fn a_pod_is_named_once_and_what_runs_is_not_stuck() {
        let mut it = Damaged { is_stuck: true, ..Damaged::default() };
        for user in ["pod a/x", "pod b/y", "pod a/x"] {
            add(&mut it, user.to_owned());
        }
        assert_eq!(it.used_by, ["pod a/x", "pod b/y"]);
        assert!(!it.is_stuck);
    }

    #[test]
    fn a_container_is_called_by_its_pod() {
        let info = r#"{"ID":"0123456789abcdef","Labels":{"io.kubernetes.pod.name":"dns-1","io.kubernetes.pod.namespace":"kube-system"}}"#;
        assert_eq!(words("0123456789abcdef", info), "pod kube-system/dns-1");
        for info in ["", "{}", r#"{"Labels":null}"#] {
            assert_eq!(words("0123456789abcdef", info), "container 0123456789ab");
        }
    }
}
