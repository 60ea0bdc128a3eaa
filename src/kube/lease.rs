//! Leases (coordination.k8s.io/v1): whose turn it is.
//!
//! Owns the form of the object and how it changes hands: only from the version
//! that was read, so that of two who want it one gets it. Whether it may be taken
//! is the plan's decision. Times in it are for people; nobody compares them.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Kube, KubeError};

/// Who restarts in this room.
pub const RESTART: &str = "edge-bootstrap-restart";
/// How long a holder means to hold it, in seconds.
const TERM_S: u64 = 600;
/// Annotation: name of a Node, a blank, and what it did not come up with.
const FAILED: &str = "edge-bootstrap/failed-upgrade";
const ALL: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// A Lease as it was read; it may be one that nobody has made yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    name: &'static str,
    object: Option<Value>,
}

impl Lease {
    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.spec("holderIdentity").as_str().filter(|holder| !holder.is_empty())
    }

    /// How long its holder meant to hold it.
    #[must_use]
    pub fn term(&self) -> Duration {
        Duration::from_secs(self.spec("leaseDurationSeconds").as_u64().unwrap_or(TERM_S))
    }

    /// The Node that went back from an upgrade, and the name of what it tried.
    #[must_use]
    pub fn failed(&self) -> Option<(&str, &str)> {
        let annotations = self.object.as_ref().map(|object| &object["metadata"]["annotations"]);
        annotations?[FAILED].as_str()?.split_once(' ')
    }

    /// The same Lease with another word about `node`: what it tried and went back
    /// from; `None` takes back only what that Node itself had said.
    #[must_use]
    pub fn telling(mut self, node: &str, wish: Option<&str>) -> Self {
        let is_own = self.failed().is_some_and(|(by, _)| by == node);
        let Some(object) = &mut self.object else { return self };
        if let Some(wish) = wish {
            object["metadata"]["annotations"][FAILED] = json!(format!("{node} {wish}"));
        } else if let Some(annotations) = object["metadata"]["annotations"].as_object_mut().filter(|_| is_own)
        {
            annotations.remove(FAILED);
        }
        self
    }

    /// Differs from what was read before when anybody changed it since.
    #[must_use]
    pub fn stamp(&self) -> String {
        let Some(object) = &self.object else { return String::new() };
        format!("{} {}", object["metadata"]["uid"], object["spec"])
    }

    fn spec(&self, field: &str) -> &Value {
        self.object.as_ref().map_or(&Value::Null, |object| &object["spec"][field])
    }

    /// The object in the hand of `holder` from `now` on, empty: in nobody's.
    fn given(&self, holder: &str, now: &str) -> Value {
        let mut object = self.object.clone().unwrap_or_else(|| {
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": self.name, "namespace": "kube-system"}})
        });
        let now = micro(now);
        if self.holder() != Some(holder) {
            let before = self.spec("leaseTransitions").as_u64().unwrap_or(0);
            object["spec"]["leaseTransitions"] = json!(before + 1);
            object["spec"]["acquireTime"] = json!(now);
        }
        object["spec"]["holderIdentity"] = json!(holder);
        object["spec"]["leaseDurationSeconds"] = json!(TERM_S);
        object["spec"]["renewTime"] = json!(now);
        object
    }
}

/// A `MicroTime` of Kubernetes has six digits behind the second.
fn micro(now: &str) -> String {
    format!("{}.000000Z", now.trim_end_matches('Z'))
}

impl Kube<'_> {
    /// Reads the Lease `name` of `kube-system`.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn lease(&self, name: &'static str) -> Result<Lease, KubeError> {
        Ok(Lease { name, object: self.get(&format!("{ALL}/{name}")).await? })
    }

    /// Puts `lease` into the hand of `holder`, and an empty one gives it back.
    /// `now` is RFC 3339 in UTC, to the second.
    ///
    /// # Errors
    /// `Conflict` when somebody else was faster; else as [`Kube::lease`].
    pub async fn give(&self, lease: &Lease, holder: &str, now: &str) -> Result<(), KubeError> {
        let object = lease.given(holder, now);
        if lease.object.is_none() {
            return self.create(ALL, &object).await.map(|_| ());
        }
        self.replace(&format!("{ALL}/{}", lease.name), &object).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T10:00:00Z";

    fn lease(object: Option<Value>) -> Lease {
        Lease { name: RESTART, object }
    }

    #[test]
    fn a_new_lease_has_the_form_that_the_api_takes() {
        let made = lease(None).given("a_1", NOW);
        assert_eq!(
            made,
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "edge-bootstrap-restart", "namespace": "kube-system"},
                "spec": {"holderIdentity": "a_1", "leaseDurationSeconds": 600, "leaseTransitions": 1,
                    "acquireTime": "2026-11-21T10:00:00.000000Z", "renewTime": "2026-11-21T10:00:00.000000Z"}})
        );
    }

    #[test]
    fn a_lease_tells_who_went_back_until_that_one_takes_it_back() {
        let free = || lease(Some(lease(None).given("", NOW)));
        assert_eq!(free().failed(), None);
        let told = free().telling("a", Some("w"));
        assert_eq!(told.failed(), Some(("a", "w")));
        let kept = told.telling("b", None);
        assert_eq!(kept.failed(), Some(("a", "w")), "it is not another's to take back");
        assert_eq!(lease(Some(kept.given("b_2", NOW))).failed(), Some(("a", "w")));
        assert_eq!(kept.clone().telling("a", None).failed(), None);
        assert_eq!(free().telling("a", None).failed(), None);
    }

    #[test]
    fn a_lease_changes_hands_from_the_version_that_was_read() {
        let mut object = lease(None).given("a_1", NOW);
        object["metadata"]["resourceVersion"] = json!("7");
        let before = lease(Some(object));
        assert_eq!((before.holder(), before.term()), (Some("a_1"), Duration::from_secs(600)));
        let renewed = before.given("a_1", "2026-11-21T10:01:00Z");
        assert_eq!(renewed["spec"]["acquireTime"], "2026-11-21T10:00:00.000000Z");
        assert_eq!(renewed["spec"]["leaseTransitions"], 1);
        let taken = before.given("b_2", "2026-11-21T10:01:00Z");
        assert_eq!(taken["metadata"]["resourceVersion"], "7");
        assert_eq!(taken["spec"]["leaseTransitions"], 2);
        let free = lease(Some(before.given("", NOW)));
        assert_eq!(free.holder(), None);
        let stamps = [&before, &lease(Some(renewed)), &free].map(Lease::stamp);
        assert!(stamps[0] != stamps[1] && stamps[1] != stamps[2], "{stamps:?}");
    }
}
