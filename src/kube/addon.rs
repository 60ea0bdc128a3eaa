//! k3s's Addons, one for each file that it applies, and what belongs to them.
//!
//! Owns how an Addon's objects are known: k3s notes the owner at each object, by
//! annotations, and a label marks all of them (rancher/wrangler:
//! pkg/apply/desiredset_apply.go). Removes only what it is given.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::node::Metadata;
use super::{Kube, KubeError, Method, taken};

/// Where Addons lie (k3s: pkg/deploy/controller.go).
const ADDONS: &str = "/apis/k3s.cattle.io/v1/namespaces/kube-system/addons";
/// Annotation of ours: when the assignment was issued that decides about it.
const ISSUED_AT: &str = "edge-bootstrap/issued-at";
/// Annotation of k3s: `GROUP/VERSION, Kind=KIND`, with semicolons between.
const KINDS: &str = "addon.k3s.cattle.io/gvks";
/// Label of every object that k3s made of a file.
const OWNED: &str = "objectset.rio.cattle.io/hash";
/// Annotations that name the owner, with what they say for the Addon's part.
const OWNER_KIND: (&str, &str) = ("objectset.rio.cattle.io/owner-gvk", "k3s.cattle.io/v1, Kind=Addon");
const OWNER_NAMESPACE: (&str, &str) = ("objectset.rio.cattle.io/owner-namespace", "kube-system");
const OWNER_NAME: &str = "objectset.rio.cattle.io/owner-name";
/// Label of an object that its manifest keeps from being removed with it.
const PRUNE: &str = "objectset.rio.cattle.io/prune";

/// One Addon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addon {
    /// Its name.
    pub name: String,
    /// SHA-256 of the content that was applied last; empty before that.
    pub checksum: String,
    /// Our note, in seconds since 1970; absent where there is none.
    pub issued_at: Option<u64>,
}

/// One object that k3s made of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    path: String,
    uid: String,
}

/// What was seen of an Addon's objects.
#[derive(Default)]
struct Looked {
    found: Vec<Owned>,
    /// Kinds that were looked at, as `GROUP/NAMES`.
    kinds: BTreeSet<String>,
}

impl Kube<'_> {
    /// All Addons; none where the cluster does not know the kind yet.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn addons(&self) -> Result<Vec<Addon>, KubeError> {
        let list = self.get(ADDONS).await?.unwrap_or_default();
        Ok(items(&list).filter_map(addon).collect())
    }

    /// Notes at the Addon of this name that an assignment which was issued at
    /// `issued_at` decides about it, made for the file at `source`.
    ///
    /// # Errors
    /// `Conflict` when `is_new` and there is one; else as `addons`.
    pub async fn claim_addon(
        &self,
        name: &str,
        source: &str,
        (issued_at, is_new): (u64, bool),
    ) -> Result<(), KubeError> {
        let annotations = json!({ISSUED_AT: issued_at.to_string()});
        if !is_new {
            let note = json!({"metadata": {"annotations": annotations}});
            return self.patch(&format!("{ADDONS}/{name}"), &note).await.map(drop);
        }
        let addon = json!({
            "apiVersion": "k3s.cattle.io/v1", "kind": "Addon",
            "metadata": {"name": name, "namespace": "kube-system", "annotations": annotations},
            "spec": {"source": source, "checksum": ""},
        });
        self.create(ADDONS, &addon).await.map(drop)
    }

    /// Removes what is left of the Addon's objects, as k3s would; when there was
    /// nothing any more, the Addon itself. Gives how many objects were there.
    ///
    /// # Errors
    /// As `addons`; also when a kind that the Addon may have objects of cannot be
    /// looked at and no other object was found: it may be one of these that it
    /// needs to be gone.
    pub async fn clear_addon(&self, name: &str) -> Result<usize, KubeError> {
        let path = format!("{ADDONS}/{name}");
        let addon = self.get(&path).await?.unwrap_or_default();
        let (left, mut trouble) = self.owned(name, &addon).await?;
        for object in &left {
            trouble = trouble.or(self.remove(object).await.err());
        }
        match (left.is_empty(), trouble) {
            (true, Some(error)) => return Err(error),
            (true, None) => {
                if let Some(addon) = metadata(&addon) {
                    self.delete(&path, &addon.uid).await?;
                }
            }
            (false, _) => {}
        }
        Ok(left.len())
    }

    /// The Addon's objects of all kinds, and why one of its kinds could not be
    /// looked at: which kinds a file had is noted at the Addon by k3s from 1.24 on
    /// only, and not for an apply that failed half way. A kind of somebody else's
    /// that its own program does not answer for is left out.
    async fn owned(&self, name: &str, addon: &Value) -> Result<(Vec<Owned>, Option<KubeError>), KubeError> {
        let kinds = addon["metadata"]["annotations"][KINDS].as_str();
        let (mut seen, mut trouble) = (Looked::default(), None);
        for (group, base) in self.groups().await? {
            let concerns = concerns(&group, kinds);
            let listed = self.objects_of((&group, &base), name, &mut seen).await;
            trouble = trouble.or(listed.err().filter(|_| concerns));
        }
        Ok((seen.found, trouble))
    }

    /// Names and paths of all groups in all their versions.
    async fn groups(&self) -> Result<Vec<(String, String)>, KubeError> {
        let groups = self.get("/apis").await?.unwrap_or_default();
        let all = groups["groups"].as_array().into_iter().flatten().flat_map(versions);
        let all = all.map(|(group, base)| (group.to_owned(), base));
        Ok(std::iter::once((String::new(), "/api/v1".to_owned())).chain(all).collect())
    }

    /// Adds the Addon's objects of one version of a group, but for kinds that
    /// another version has told.
    async fn objects_of(
        &self,
        (group, base): (&str, &str),
        addon: &str,
        seen: &mut Looked,
    ) -> Result<(), KubeError> {
        // A group that was taken away since it was listed is a 404.
        let resources = self.get(base).await?.unwrap_or_default();
        let mut first = Ok(());
        for name in resources["resources"].as_array().into_iter().flatten().filter_map(removable) {
            if seen.kinds.contains(&format!("{group}/{name}")) {
                continue;
            }
            let collection = format!("{base}/{name}");
            match self.get(&format!("{collection}?labelSelector={OWNED}")).await {
                Ok(list) => {
                    let list = list.unwrap_or_default();
                    seen.found.extend(items(&list).filter_map(|object| owned(object, &collection, addon)));
                    seen.kinds.insert(format!("{group}/{name}"));
                }
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    /// Its parts go with it, in the background, as when k3s removes it.
    async fn remove(&self, object: &Owned) -> Result<(), KubeError> {
        let only = json!({
            "kind": "DeleteOptions", "apiVersion": "v1",
            "propagationPolicy": "Background", "preconditions": {"uid": object.uid},
        });
        let body = Some(("application/json", only.to_string()));
        let answer = self.ask(Method::Delete, &object.path, body).await?;
        if answer.status == 404 { Ok(()) } else { taken(&object.path, &answer).map(drop) }
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn metadata(object: &Value) -> Option<Metadata> {
    serde_json::from_value(object["metadata"].clone()).ok()
}

fn addon(object: &Value) -> Option<Addon> {
    let Metadata { name, annotations, .. } = metadata(object)?;
    Some(Addon {
        checksum: object["spec"]["checksum"].as_str().unwrap_or_default().to_owned(),
        issued_at: annotations.get(ISSUED_AT).and_then(|text| text.parse().ok()),
        name,
    })
}

/// `object` of `collection`, when k3s made it for `addon`. The label alone is
/// not enough: Kubernetes copies a Service's labels to its Endpoints.
fn owned(object: &Value, collection: &str, addon: &str) -> Option<Owned> {
    let metadata = metadata(object)?;
    let says = |(key, word): (&str, &str)| metadata.annotations.get(key).is_some_and(|it| it == word);
    let is_owned = says(OWNER_KIND) && says(OWNER_NAMESPACE) && says((OWNER_NAME, addon));
    if !is_owned || metadata.labels.get(PRUNE).is_some_and(|it| it == "false") {
        return None;
    }
    let (base, kind) = collection.rsplit_once('/')?;
    let path = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{base}/namespaces/{namespace}/{kind}/{}", metadata.name),
        None => format!("{collection}/{}", metadata.name),
    };
    Some(Owned { path, uid: metadata.uid })
}

/// Whether the Addon may have objects of this group: it says so, or it says
/// nothing and the group is Kubernetes's own.
fn concerns(group: &str, kinds: Option<&str>) -> bool {
    match kinds {
        Some(kinds) => kinds.split(';').any(|kind| {
            let named = kind.trim().split_once('/').map_or("", |(group, _)| group);
            named == group
        }),
        None => !group.contains('.') || group.ends_with(".k8s.io"),
    }
}

/// Name and paths of a group's versions, the preferred one first.
fn versions(group: &Value) -> Vec<(&str, String)> {
    let name = group["name"].as_str().unwrap_or_default();
    let preferred = group["preferredVersion"]["groupVersion"].as_str();
    let all = group["versions"].as_array().into_iter().flatten();
    let others = all.filter_map(|it| it["groupVersion"].as_str()).filter(|it| Some(*it) != preferred);
    preferred.into_iter().chain(others).map(|version| (name, format!("/apis/{version}"))).collect()
}

/// Name of a resource, no part of one, that can be listed and removed.
fn removable(resource: &Value) -> Option<&str> {
    let can =
        |verb: &str| resource["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|it| it == verb));
    let name = resource["name"].as_str()?;
    (!name.contains('/') && can("list") && can("delete")).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn object(namespace: Option<&str>, owner: &str) -> Value {
        json!({"metadata": {
            "name": "x", "namespace": namespace, "uid": "7", "labels": {OWNED: "ab"},
            "annotations": {
                OWNER_KIND.0: OWNER_KIND.1, OWNER_NAMESPACE.0: OWNER_NAMESPACE.1, OWNER_NAME: owner,
                "objectset.rio.cattle.io/id": "",
            },
        }})
    }

    #[test]
    fn an_object_belongs_to_the_addon_that_it_names() {
        let path = |object: &Value, collection| owned(object, collection, "eb-base").map(|it| it.path);
        let inside = object(Some("kube-system"), "eb-base");
        assert_eq!(
            path(&inside, "/apis/apps/v1/daemonsets").as_deref(),
            Some("/apis/apps/v1/namespaces/kube-system/daemonsets/x")
        );
        assert_eq!(
            path(&object(None, "eb-base"), "/api/v1/namespaces").as_deref(),
            Some("/api/v1/namespaces/x")
        );
        assert_eq!(path(&object(None, "eb-other"), "/api/v1/namespaces"), None);
        // Endpoints have their Service's labels and none of its annotations.
        let mut copied = inside.clone();
        copied["metadata"]["annotations"] = json!({});
        assert_eq!(path(&copied, "/api/v1/endpoints"), None);
        let mut kept = inside;
        kept["metadata"]["labels"][PRUNE] = json!("false");
        assert_eq!(path(&kept, "/api/v1/secrets"), None);
    }

    #[test]
    fn an_addon_is_ours_by_our_note() {
        let text = r#"{"metadata":{"name":"eb-base","uid":"1","annotations":{"edge-bootstrap/issued-at":"42"}},"spec":{"checksum":"ab"}}"#;
        let found = addon(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((found.issued_at, found.checksum.as_str()), (Some(42), "ab"));
        let text = r#"{"metadata":{"name":"ccm","uid":"1"},"spec":{"source":"/x"}}"#;
        let found = addon(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((found.issued_at, found.checksum.as_str()), (None, ""));
    }

    #[test]
    fn a_group_of_others_that_does_not_answer_is_in_nobodys_way() {
        let kinds = Some("/v1, Kind=ConfigMap;apps/v1, Kind=DaemonSet");
        assert!(
            concerns("apps", kinds) && !concerns("batch", kinds) && !concerns("broken.example.org", kinds)
        );
        assert!(concerns("", kinds) && concerns("", Some("v1, Kind=ConfigMap")));
        assert!(!concerns("", Some("apps/v1, Kind=DaemonSet")));
        assert!(concerns("", None) && concerns("rbac.authorization.k8s.io", None));
        assert!(!concerns("broken.example.org", None));
    }

    #[test]
    fn all_versions_are_looked_at_and_the_preferred_one_first() {
        let group = json!({"name": "batch", "preferredVersion": {"groupVersion": "batch/v1"},
            "versions": [{"groupVersion": "batch/v1beta1"}, {"groupVersion": "batch/v1"}]});
        let paths: Vec<_> = versions(&group).into_iter().map(|(_, path)| path).collect();
        assert_eq!(paths, ["/apis/batch/v1", "/apis/batch/v1beta1"]);
        let resource = |name: &str, verbs: &[&str]| json!({"name": name, "verbs": verbs});
        assert_eq!(removable(&resource("pods", &["list", "delete"])), Some("pods"));
        assert_eq!(removable(&resource("pods/log", &["list", "delete"])), None);
        assert_eq!(removable(&resource("bindings", &["create"])), None);
    }
}
