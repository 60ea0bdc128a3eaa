//! Owns k3s's deploy controller as far as manifests of few kinds need it (k3s:
//! pkg/deploy/controller.go; rancher/wrangler: pkg/apply): an Addon for each file
//! with the digest of what was applied last, objects that name their owner, and
//! removal of what a file does not hold any more. Every server runs one. It knows
//! no `disable` and no events.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::objects::{Fresh, Objects, Place};
use crate::settings::Settings;
use crate::supervisor::{Phase, Supervisor};
use crate::{log, pki};

/// k3s waits 15 s.
const EVERY: Duration = Duration::from_secs(2);
const ADDONS: &str = "/apis/k3s.cattle.io/v1/namespaces/kube-system/addons";
const GVKS: &str = "addon.k3s.cattle.io/gvks";
const OWNER: &str = "objectset.rio.cattle.io/owner-name";

/// Kinds that manifests may hold: `apiVersion`, kind, collection, in a namespace.
const KINDS: [(&str, &str, &str, bool); 6] = [
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Secret", "secrets", true),
    ("v1", "ServiceAccount", "serviceaccounts", true),
    ("v1", "Namespace", "namespaces", false),
    ("apps/v1", "DaemonSet", "daemonsets", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false),
];

type Kind = (&'static str, &'static str, &'static str, bool);

/// Applies the files of `D/server/manifests` for ever; all of them at the start,
/// then those whose time changed.
pub fn run(settings: &Settings, server: &Arc<Supervisor>) {
    let folder = settings.data.server("manifests");
    let mut times: BTreeMap<String, SystemTime> = BTreeMap::new();
    let mut force = true;
    loop {
        std::thread::sleep(EVERY);
        if server.phase() < Phase::Ready {
            continue;
        }
        match look(&folder, server, &mut times, force) {
            Ok(()) => force = false,
            Err(error) => log::error(&format!("Failed to process config: {error:#}")),
        }
    }
}

fn look(
    folder: &Path,
    server: &Supervisor,
    times: &mut BTreeMap<String, SystemTime>,
    force: bool,
) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    for name in &names {
        let is_manifest = name.ends_with(".yaml") && !name.starts_with('.');
        if !is_manifest || names.contains(&format!("{name}.skip")) {
            continue;
        }
        let path = folder.join(name);
        let time = std::fs::metadata(&path)?.modified()?;
        if force || times.get(name) != Some(&time) {
            deploy(&path, server, force).with_context(|| format!("failed to process {}", path.display()))?;
            times.insert(name.clone(), time);
        }
    }
    Ok(())
}

fn deploy(path: &Path, server: &Supervisor, force: bool) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let addon = file.split('.').next().unwrap_or_default();
    let checksum = pki::hex(&Sha256::digest(text.as_bytes()));
    let wanted = parse(&text)?;
    // One name for each object that this run makes, also when it is tried again.
    let fresh: Vec<Fresh> = (0..=wanted.len()).map(|_| Fresh::new()).collect::<Result<_>>()?;
    server.cluster.update(|store| {
        let objects = &mut store.objects;
        let at = format!("{ADDONS}/{addon}");
        let now = get(objects, &at).unwrap_or_default();
        if !force && now["spec"]["checksum"] == checksum.as_str() {
            return Ok(());
        }
        let before = now["metadata"]["annotations"][GVKS].as_str().unwrap_or_default().to_owned();
        if now.is_null() {
            let new = json!({"kind": "Addon", "metadata": {"name": addon}, "spec": {}});
            objects.create(&place(ADDONS)?, &new, &fresh[wanted.len()])?;
        }
        prune(objects, addon, &wanted, &before)?;
        for ((path, object), fresh) in wanted.iter().zip(&fresh) {
            apply(objects, (path, owned(object, addon)), fresh)?;
        }
        let note = json!({"metadata": {"annotations": {GVKS: gvks(&wanted)}},
            "spec": {"source": path.display().to_string(), "checksum": checksum}});
        objects.patch(&place(&at)?, &note)?;
        Ok(())
    })
}

fn place(path: &str) -> Result<Place<'_>> {
    Place::of(path).with_context(|| format!("{path} is no place"))
}

fn get(objects: &Objects, path: &str) -> Option<Value> {
    objects.get(&Place::of(path)?).ok()
}

/// Objects by path.
fn parse(text: &str) -> Result<Vec<(String, Value)>> {
    let documents = text.split("\n---").filter(|text| {
        text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#') && line.trim() != "---")
    });
    documents
        .map(|text| {
            let object: Value = serde_saphyr::from_str(text.trim_start_matches("---"))?;
            let kind = kind_of(&object).context("stand-in: this kind is not imitated")?;
            Ok((path_of(&object, kind)?, object))
        })
        .collect()
}

fn kind_of(object: &Value) -> Option<Kind> {
    KINDS.into_iter().find(|(version, kind, ..)| object["apiVersion"] == *version && object["kind"] == *kind)
}

fn path_of(object: &Value, (version, _, plural, namespaced): Kind) -> Result<String> {
    let name = object["metadata"]["name"].as_str().context("name is required")?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let middle = if namespaced { format!("namespaces/{namespace}/") } else { String::new() };
    Ok(format!("{}/{middle}{plural}/{name}", base(version)))
}

fn base(version: &str) -> String {
    if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") }
}

fn owned(object: &Value, addon: &str) -> Value {
    let mut object = object.clone();
    let notes = [
        ("objectset.rio.cattle.io/id", ""),
        ("objectset.rio.cattle.io/owner-gvk", "k3s.cattle.io/v1, Kind=Addon"),
        (OWNER, addon),
        ("objectset.rio.cattle.io/owner-namespace", "kube-system"),
    ];
    for (key, word) in notes {
        object["metadata"]["annotations"][key] = json!(word);
    }
    object["metadata"]["labels"]["objectset.rio.cattle.io/hash"] = json!(format!("of-{addon}"));
    object
}

/// What the file held before, of the kinds that it holds or held, and holds no more.
fn prune(objects: &mut Objects, addon: &str, wanted: &[(String, Value)], before: &str) -> Result<()> {
    let now = gvks(wanted);
    for kind in KINDS.into_iter().filter(|kind| [now.as_str(), before].iter().any(|all| names(all, *kind))) {
        let all = get(objects, &format!("{}/{}", base(kind.0), kind.2)).unwrap_or_default();
        for object in all["items"].as_array().into_iter().flatten() {
            let path = path_of(object, kind)?;
            let is_owned = object["metadata"]["annotations"][OWNER] == addon;
            if is_owned && !wanted.iter().any(|(wanted, _)| *wanted == path) {
                objects.delete(&place(&path)?, &Value::Null, &Fresh::new()?)?;
            }
        }
    }
    Ok(())
}

fn apply(objects: &mut Objects, (path, object): (&str, Value), fresh: &Fresh) -> Result<()> {
    if get(objects, path).is_some() {
        objects.patch(&place(path)?, &object)?;
    } else {
        let (collection, _) = path.rsplit_once('/').context("a path has a name")?;
        objects.create(&place(collection)?, &object, fresh)?;
    }
    Ok(())
}

/// As k3s notes them: `v1, Kind=Secret;apps/v1, Kind=DaemonSet`.
fn gvks(wanted: &[(String, Value)]) -> String {
    let mut all: Vec<String> = wanted
        .iter()
        .filter_map(|(_, object)| kind_of(object))
        .map(|(version, kind, ..)| format!("{version}, Kind={kind}"))
        .collect();
    all.sort();
    all.dedup();
    all.join(";")
}

fn names(gvks: &str, (version, kind, ..): Kind) -> bool {
    gvks.split(';').any(|gvk| gvk == format!("{version}, Kind={kind}"))
}

/// What the API says of its groups and kinds.
pub fn discovery(path: &str) -> Option<Value> {
    let groups = ["apps", "rbac.authorization.k8s.io"];
    if path == "/apis" {
        let all = groups.map(|name| {
            let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
            json!({"name": name, "versions": [version], "preferredVersion": version})
        });
        return Some(json!({"kind": "APIGroupList", "groups": all}));
    }
    let kinds: Vec<Value> = KINDS
        .into_iter()
        .filter(|(version, ..)| base(version) == path)
        .map(|(_, kind, plural, namespaced)| {
            json!({"name": plural, "kind": kind, "namespaced": namespaced,
                "verbs": ["create", "delete", "get", "list", "patch", "update"]})
        })
        .collect();
    (!kinds.is_empty()).then(|| json!({"kind": "APIResourceList", "resources": kinds}))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn documents_are_parted_and_comments_are_none() {
        let text = "# a\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n# only this\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
        let paths: Vec<_> = parse(text).unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["/api/v1/namespaces/default/configmaps/a", "/api/v1/namespaces/b"]);
        assert!(parse("# Written\n# Withdrawn\n").unwrap().is_empty());
        assert!(parse("a: [").is_err());
    }

    #[test]
    fn what_a_file_does_not_hold_any_more_goes_and_nothing_else() {
        let mut objects = Objects::default();
        let fresh = || Fresh::new().unwrap();
        let path = |name: &str| format!("/api/v1/namespaces/default/configmaps/{name}");
        for (name, addon) in [("a", "eb-x"), ("b", "eb-x"), ("c", "eb-y")] {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
            apply(&mut objects, (&path(name), owned(&object, addon)), &fresh()).unwrap();
        }
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        prune(&mut objects, "eb-x", &parse(text).unwrap(), "").unwrap();
        let there = |objects: &Objects| ["a", "b", "c"].map(|name| get(objects, &path(name)).is_some());
        assert_eq!(there(&objects), [true, false, true]);
        prune(&mut objects, "eb-x", &[], "").unwrap();
        assert_eq!(there(&objects), [true, false, true], "without a note of its kinds they stay");
        prune(&mut objects, "eb-x", &[], "v1, Kind=ConfigMap").unwrap();
        assert_eq!(there(&objects), [false, false, true]);
    }
}
