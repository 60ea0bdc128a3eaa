//! Owns Kubernetes objects of any kind but Node, by their path in the API: how
//! they are made, changed and removed, with the API server's rules about
//! `resourceVersion`, `uid` and finalizers. Knows no kind's content, no watch and
//! no selector; who may call is `api`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pki;

/// All objects but Nodes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Objects {
    /// The newest change; every object carries that of its own last one.
    revision: u64,
    /// By path, `/api/v1/namespaces/NS/secrets/NAME`.
    by_path: BTreeMap<String, Value>,
}

/// A request that the API server refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub code: u16,
    /// `NotFound`, `Conflict` and others.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl Refused {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    /// For a method that objects do not have.
    pub fn method() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    fn missing(place: &Place<'_>) -> Self {
        let (kind, name) = (place.kind(), place.name.unwrap_or_default());
        Self::new(404, "NotFound", format!("{kind} \"{name}\" not found"))
    }

    fn conflict(place: &Place<'_>, why: &str) -> Self {
        let (kind, name) = (place.kind(), place.name.unwrap_or_default());
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {kind} \"{name}\": {why}"))
    }
}

/// Where something lies: group and version, namespace, kind, name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Empty for the core group.
    group: &'a str,
    version: &'a str,
    namespace: Option<&'a str>,
    plural: &'a str,
    name: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// The place that a path names, when it is one of objects. Subresources are none.
    pub fn of(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let (plural, name) = match rest {
            [plural] => (*plural, None),
            [plural, name] => (*plural, Some(*name)),
            _ => return None,
        };
        Some(Self { group, version, namespace, plural, name })
    }

    /// `leases.coordination.k8s.io`, as messages name it.
    fn kind(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of `name` in this collection.
    fn path(&self, name: &str) -> String {
        let top = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        let namespace = self.namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        format!("{top}/{}{namespace}/{}/{name}", self.version, self.plural)
    }

    /// Leases and everything that a CustomResourceDefinition makes are replaced
    /// only from the version that was read (kubernetes: AllowUnconditionalUpdate
    /// of the kind's strategy).
    fn needs_version(&self) -> bool {
        self.group == "coordination.k8s.io" || (self.group.contains('.') && !self.group.ends_with(".k8s.io"))
    }
}

/// An object with what a creation fixes; the same for every try of one request.
#[derive(Debug, Clone)]
pub struct Fresh {
    uid: String,
    created: String,
}

impl Fresh {
    /// A new identity.
    pub fn new() -> Result<Self> {
        let uid = pki::random_hex(16)?;
        Ok(Self { uid, created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string() })
    }
}

impl Objects {
    /// One object, or all of a collection.
    pub fn get(&self, place: &Place<'_>) -> Result<Value, Refused> {
        match place.name {
            Some(name) => self.by_path.get(&place.path(name)).cloned().ok_or_else(|| Refused::missing(place)),
            None => Ok(self.list(place)),
        }
    }

    /// Without a namespace a collection holds the objects of all namespaces.
    fn list(&self, place: &Place<'_>) -> Value {
        let items = self.by_path.iter().filter(|(path, _)| {
            Place::of(path).is_some_and(|found| {
                (found.group, found.version, found.plural) == (place.group, place.version, place.plural)
                    && (place.namespace.is_none() || found.namespace == place.namespace)
            })
        });
        let items: Vec<&Value> = items.map(|(_, object)| object).collect();
        json!({
            "kind": "List", "apiVersion": place.api_version(), "items": items,
            "metadata": {"resourceVersion": self.revision.to_string()},
        })
    }

    /// Makes an object in a collection.
    pub fn create(&mut self, place: &Place<'_>, object: &Value, fresh: &Fresh) -> Result<Value, Refused> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name.is_empty() || place.name.is_some() {
            return Err(Refused::new(422, "Invalid", "metadata.name: Required value: name is required"));
        }
        if !object["metadata"]["resourceVersion"].is_null() {
            let why = "resourceVersion should not be set on objects to be created";
            return Err(Refused::new(500, "InternalError", why));
        }
        let said = object["metadata"]["namespace"].as_str();
        if said.is_some() && said != place.namespace {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Refused::new(400, "BadRequest", why));
        }
        let path = place.path(name);
        match self.by_path.get(&path) {
            // A try of this request that got through after all.
            Some(there) if there["metadata"]["uid"] == fresh.uid => return Ok(there.clone()),
            Some(_) => {
                let message = format!("{} \"{name}\" already exists", place.kind());
                return Err(Refused::new(409, "AlreadyExists", message));
            }
            None => {}
        }
        let mut made = object.clone();
        made["metadata"]["uid"] = json!(fresh.uid);
        made["metadata"]["creationTimestamp"] = json!(fresh.created);
        if let Some(namespace) = place.namespace {
            made["metadata"]["namespace"] = json!(namespace);
        }
        Ok(self.put(path, made))
    }

    /// Puts `object` in the place of the one that is there.
    pub fn replace(&mut self, place: &Place<'_>, object: &Value) -> Result<Value, Refused> {
        let (path, now) = self.there(place)?;
        if object["metadata"]["name"].as_str() != place.name {
            let why = "the name of the object does not match the name on the URL";
            return Err(Refused::new(400, "BadRequest", why));
        }
        if object["metadata"]["resourceVersion"].is_null() && place.needs_version() {
            let why = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
            return Err(Refused::new(422, "Invalid", why));
        }
        unchanged(place, &now, &object["metadata"])?;
        let mut next = object.clone();
        for fixed in ["uid", "creationTimestamp", "namespace", "deletionTimestamp"] {
            next["metadata"][fixed] = now["metadata"][fixed].clone();
        }
        Ok(self.settle(path, &now, next))
    }

    /// Changes the fields that `patch` names (RFC 7396).
    pub fn patch(&mut self, place: &Place<'_>, patch: &Value) -> Result<Value, Refused> {
        let (path, now) = self.there(place)?;
        unchanged(place, &now, &patch["metadata"])?;
        let mut next = now.clone();
        merge(&mut next, patch);
        Ok(self.settle(path, &now, next))
    }

    /// Removes an object, or marks it while it has finalizers.
    pub fn delete(&mut self, place: &Place<'_>, options: &Value, fresh: &Fresh) -> Result<Value, Refused> {
        let (path, now) = self.there(place)?;
        unchanged(place, &now, &options["preconditions"])?;
        if has_finalizers(&now) {
            let mut next = now;
            next["metadata"]["deletionTimestamp"] = json!(fresh.created);
            return Ok(self.put(path, next));
        }
        self.revision += 1;
        self.by_path.remove(&path);
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success",
            "details": {"name": place.name, "kind": place.plural, "uid": now["metadata"]["uid"]}}))
    }

    fn there(&self, place: &Place<'_>) -> Result<(String, Value), Refused> {
        let path = place.name.map(|name| place.path(name)).ok_or_else(|| Refused::missing(place))?;
        let now = self.by_path.get(&path).cloned().ok_or_else(|| Refused::missing(place))?;
        Ok((path, now))
    }

    /// Stores a change; nothing changed is no change. An object that is being
    /// deleted goes with its last finalizer.
    fn settle(&mut self, path: String, now: &Value, mut next: Value) -> Value {
        next["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
        if next == *now {
            return next;
        }
        if !next["metadata"]["deletionTimestamp"].is_null() && !has_finalizers(&next) {
            self.revision += 1;
            self.by_path.remove(&path);
            return next;
        }
        self.put(path, next)
    }

    fn put(&mut self, path: String, mut object: Value) -> Value {
        self.revision += 1;
        if let Some(fields) = object["metadata"].as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.by_path.insert(path, object.clone());
        object
    }
}

/// Whether an object still is the one that `asked` names by uid and version.
fn unchanged(place: &Place<'_>, now: &Value, asked: &Value) -> Result<(), Refused> {
    for (field, why) in [
        ("uid", "Precondition failed: UID in precondition differs from UID in object meta"),
        (
            "resourceVersion",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
    ] {
        if !asked[field].is_null() && asked[field] != now["metadata"][field] {
            return Err(Refused::conflict(place, why));
        }
    }
    Ok(())
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().map(|object| object.remove(key));
        } else {
            merge(&mut into[key], value);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

    fn place(path: &str) -> Place<'_> {
        Place::of(path).unwrap()
    }

    fn made(objects: &mut Objects, collection: &str, name: &str) -> Value {
        let object = json!({"metadata": {"name": name}, "spec": {"a": 1}});
        objects.create(&place(collection), &object, &Fresh::new().unwrap()).unwrap()
    }

    #[test]
    fn a_path_names_an_object_or_a_collection() {
        let addon = place("/apis/k3s.cattle.io/v1/namespaces/kube-system/addons/eb-base");
        assert_eq!((addon.group, addon.plural, addon.name), ("k3s.cattle.io", "addons", Some("eb-base")));
        assert_eq!(place("/api/v1/namespaces/x").plural, "namespaces");
        assert_eq!(place("/api/v1/secrets").namespace, None);
        assert_eq!(Place::of("/api/v1/nodes/a/status"), None);
        assert_eq!(Place::of("/version"), None);
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/a";
        assert_eq!(place(path).path("a"), path);
    }

    #[test]
    fn an_object_changes_only_from_the_version_that_was_read() {
        let mut objects = Objects::default();
        let lease = made(&mut objects, LEASES, "one");
        let path = format!("{LEASES}/one");
        let mut next = lease.clone();
        next["spec"]["a"] = json!(2);
        let after = objects.replace(&place(&path), &next).unwrap();
        assert_ne!(after["metadata"]["resourceVersion"], lease["metadata"]["resourceVersion"]);
        assert_eq!(after["metadata"]["uid"], lease["metadata"]["uid"]);
        assert_eq!(objects.replace(&place(&path), &next).unwrap_err().code, 409, "somebody was faster");
        next["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        assert_eq!(objects.replace(&place(&path), &next).unwrap_err().code, 422);
        let secret = "/api/v1/namespaces/kube-system/secrets";
        made(&mut objects, secret, "s");
        let unconditional = json!({"metadata": {"name": "s"}, "data": {}});
        assert!(objects.replace(&place(&format!("{secret}/s")), &unconditional).is_ok());
    }

    #[test]
    fn a_name_is_taken_once_and_a_try_again_is_no_second_object() {
        let mut objects = Objects::default();
        let (object, fresh) = (json!({"metadata": {"name": "one"}}), Fresh::new().unwrap());
        let first = objects.create(&place(LEASES), &object, &fresh).unwrap();
        assert_eq!(objects.create(&place(LEASES), &object, &fresh).unwrap(), first);
        let other = objects.create(&place(LEASES), &object, &Fresh::new().unwrap()).unwrap_err();
        assert_eq!((other.code, other.reason), (409, "AlreadyExists"));
        assert_eq!(objects.get(&place(LEASES)).unwrap()["items"].as_array().unwrap().len(), 1);
        let elsewhere = json!({"metadata": {"name": "two", "namespace": "default"}});
        assert_eq!(objects.create(&place(LEASES), &elsewhere, &fresh).unwrap_err().code, 400);
    }

    #[test]
    fn a_delete_of_an_older_object_leaves_the_newer_one() {
        let mut objects = Objects::default();
        let old = made(&mut objects, LEASES, "one");
        let (path, fresh) = (format!("{LEASES}/one"), Fresh::new().unwrap());
        objects.delete(&place(&path), &Value::Null, &fresh).unwrap();
        made(&mut objects, LEASES, "one");
        let only = json!({"preconditions": {"uid": old["metadata"]["uid"]}});
        assert_eq!(objects.delete(&place(&path), &only, &fresh).unwrap_err().code, 409);
        objects.delete(&place(&path), &Value::Null, &fresh).unwrap();
        assert_eq!(objects.get(&place(&path)).unwrap_err().code, 404);
    }

    #[test]
    fn finalizers_keep_an_object_until_they_are_gone() {
        let mut objects = Objects::default();
        let object = json!({"metadata": {"name": "one", "finalizers": ["x"]}});
        let fresh = Fresh::new().unwrap();
        objects.create(&place(LEASES), &object, &fresh).unwrap();
        let path = format!("{LEASES}/one");
        objects.delete(&place(&path), &Value::Null, &fresh).unwrap();
        assert!(objects.get(&place(&path)).unwrap()["metadata"]["deletionTimestamp"].is_string());
        objects.patch(&place(&path), &json!({"metadata": {"finalizers": null}})).unwrap();
        assert_eq!(objects.get(&place(&path)).unwrap_err().code, 404);
    }

    #[test]
    fn a_patch_merges_and_an_empty_one_is_no_change() {
        let mut objects = Objects::default();
        let before = made(&mut objects, LEASES, "one");
        let path = format!("{LEASES}/one");
        assert_eq!(objects.patch(&place(&path), &json!({"spec": {}})).unwrap(), before);
        let after = objects.patch(&place(&path), &json!({"spec": {"b": {"c": 1}, "a": null}})).unwrap();
        assert_eq!(after["spec"], json!({"b": {"c": 1}}));
        let stale = json!({"metadata": {"resourceVersion": before["metadata"]["resourceVersion"]}});
        assert_eq!(objects.patch(&place(&path), &stale).unwrap_err().code, 409);
    }
}
