//! Typed calls of the cluster's own API from this host.
//!
//! Owns who we are there (the admin certificate of a server, the kubelet's of any
//! node), what an answer means, and the few objects that the agent reads. Asks
//! through loopback, and other servers only for their health; decides nothing.
//! Never a way to act on another cluster: trust is the CA on this host's disk.

pub mod addon;
pub mod lease;
mod leave;
mod node;
pub mod retired;
mod silence;
mod token;
mod version;

use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

pub use addon::Addon;
pub use lease::Lease;
pub use node::{Node, Nodes};
pub use silence::Silence;

use crate::error::Chain;
use crate::paths::K3S_DATA;
use crate::sys::local::{self, Answer, Credentials, LocalError, Method, Request};
use crate::sys::{FileError, Root};

/// Limit of one call.
const LIMIT: Duration = Duration::from_secs(10);
/// Limit of a look at another server.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);
/// The API through k3s's own load balancer, on servers and agents (k3s: pkg/agent/proxy/apiproxy.go).
const NEAREST: &str = "https://127.0.0.1:6444";
/// The API server of this host.
const OWN: &str = "https://127.0.0.1:6443";
/// Authority, certificate and key of a server's administrator.
const ADMIN: [&str; 3] =
    ["server/tls/server-ca.crt", "server/tls/client-admin.crt", "server/tls/client-admin.key"];
/// The same of the kubelet, which every node has.
const KUBELET: [&str; 3] = ["agent/server-ca.crt", "agent/client-kubelet.crt", "agent/client-kubelet.key"];

/// Why the cluster did not do what it was asked.
#[derive(Debug, Error)]
pub enum KubeError {
    /// k3s has not made this host's credentials yet.
    #[error("{path} is not there yet; k3s writes it when it first starts")]
    NoCredentials {
        /// The file that is missing.
        path: String,
    },
    /// A credential cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The API did not answer.
    #[error(transparent)]
    Unreachable(#[from] LocalError),
    /// The object is another one by now, or is there already: read it again.
    #[error("{path} was changed by somebody else")]
    Conflict {
        /// Path of the object in the API.
        path: String,
    },
    /// The API refused.
    #[error("the API refused {path}: status {status}, {message}")]
    Refused {
        /// Path of the object in the API.
        path: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The answer is no object of the kind that was asked for.
    #[error("the API's answer for {path} cannot be read")]
    Answer {
        /// Path of the object in the API.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The cluster's API as one of this host's identities sees it.
#[derive(Debug, Clone, Copy)]
pub struct Kube<'a> {
    root: &'a Root,
    base: &'a str,
    files: [&'static str; 3],
}

impl<'a> Kube<'a> {
    /// As administrator, through this host's own API server: on servers.
    #[must_use]
    pub fn own_admin(root: &'a Root) -> Self {
        Self { root, base: OWN, files: ADMIN }
    }

    /// As administrator, through any API server that k3s's load balancer
    /// reaches: on servers, also while the own API server is down.
    #[must_use]
    pub fn nearest_admin(root: &'a Root) -> Self {
        Self { root, base: NEAREST, files: ADMIN }
    }

    /// As administrator, through the API server at `base` (`https://HOST:PORT`):
    /// on a server, for what this host must not be asked itself.
    #[must_use]
    pub fn admin_at(root: &'a Root, base: &'a str) -> Self {
        Self { root, base, files: ADMIN }
    }

    /// As this host's kubelet: on every node, for its own Node.
    #[must_use]
    pub fn kubelet(root: &'a Root) -> Self {
        Self { root, base: NEAREST, files: KUBELET }
    }

    /// Reads the object at `path`, for example `/api/v1/nodes/NAME`; `None` when
    /// there is none.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, KubeError> {
        let answer = self.ask(Method::Get, path, None).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        taken(path, &answer).map(Some)
    }

    /// Makes `object` in the collection at `path`.
    ///
    /// # Errors
    /// `Conflict` when it is there already; else as `get`.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, KubeError> {
        let answer = self.ask(Method::Post, path, Some(("application/json", object.to_string()))).await?;
        taken(path, &answer)
    }

    /// Puts `object` in the place of the one at `path`, if that still has the
    /// `metadata.resourceVersion` that `object` carries.
    ///
    /// # Errors
    /// `Conflict` when it was changed meanwhile; else as `get`.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, KubeError> {
        let answer = self.ask(Method::Put, path, Some(("application/json", object.to_string()))).await?;
        taken(path, &answer)
    }

    /// Changes some fields of the object at `path` (RFC 7396, JSON Merge Patch).
    ///
    /// # Errors
    /// As `get`.
    pub async fn patch(&self, path: &str, fields: &Value) -> Result<Value, KubeError> {
        let body = Some(("application/merge-patch+json", fields.to_string()));
        let answer = self.ask(Method::Patch, path, body).await?;
        taken(path, &answer)
    }

    /// Removes the object at `path`, if it is still the one with this `uid`: one
    /// of the same name that came meanwhile stays. Gone already is as good.
    ///
    /// # Errors
    /// `Conflict` when another one has its name; else as `get`.
    pub async fn delete(&self, path: &str, uid: &str) -> Result<(), KubeError> {
        let only = serde_json::json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid},
        });
        let answer = self.ask(Method::Delete, path, Some(("application/json", only.to_string()))).await?;
        if answer.status == 404 {
            return Ok(());
        }
        taken(path, &answer).map(|_| ())
    }

    /// Whether the server at `address` (`HOST:PORT`) serves the API, with etcd
    /// behind it, by its own word: a Node keeps its conditions for 40 s after its
    /// host lost power.
    ///
    /// # Errors
    /// Why not.
    pub async fn serves(&self, address: &str) -> Result<(), KubeError> {
        let url = format!("https://{address}/readyz");
        let answer = self.send(Request::get(&url), HEALTH_LIMIT).await?;
        match answer.status {
            200 => Ok(()),
            status => Err(KubeError::Refused { path: url, status, message: message(&answer.body) }),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, String)>,
    ) -> Result<Answer, KubeError> {
        let url = format!("{}{path}", self.base);
        let body = body.as_ref().map(|(media_type, text)| (*media_type, text.as_str()));
        self.send(Request { method, url: &url, body, basic: None }, LIMIT).await
    }

    async fn send(&self, request: Request<'_>, limit: Duration) -> Result<Answer, KubeError> {
        let [ca, certificate, key] = self.files.map(|file| self.credential(file));
        let (ca, certificate, key) = (ca?, certificate?, key?);
        let credentials = Credentials { ca: &ca, certificate: &certificate, key: &key };
        Ok(local::ask_tls(request, &credentials, limit).await?)
    }

    fn credential(&self, file: &str) -> Result<Vec<u8>, KubeError> {
        let path = format!("{K3S_DATA}/{file}");
        self.root.read(&path)?.ok_or(KubeError::NoCredentials { path })
    }
}

impl KubeError {
    /// The whole chain in one line.
    #[must_use]
    pub fn words(&self) -> String {
        Chain(self).to_string()
    }
}

/// What a call that should have succeeded gave.
fn taken(path: &str, answer: &Answer) -> Result<Value, KubeError> {
    let path = path.to_owned();
    match answer.status {
        200..=299 => serde_json::from_str(&answer.body).map_err(|source| KubeError::Answer { path, source }),
        409 => Err(KubeError::Conflict { path }),
        status => Err(KubeError::Refused { path, status, message: message(&answer.body) }),
    }
}

/// What a `Status` object says, or the first line of anything else.
fn message(body: &str) -> String {
    let status = serde_json::from_str::<Value>(body).unwrap_or_default();
    let said = status["message"].as_str().or(body.lines().next()).unwrap_or_default();
    said.chars().take(200).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.to_owned() }
    }

    #[test]
    fn an_answer_says_what_became_of_the_call() {
        assert_eq!(taken("/p", &answer(201, r#"{"kind":"Lease"}"#)).unwrap()["kind"], "Lease");
        assert!(matches!(taken("/p", &answer(409, "")), Err(KubeError::Conflict { .. })));
        assert!(matches!(taken("/p", &answer(200, "<html>")), Err(KubeError::Answer { .. })));
        let status = r#"{"kind":"Status","message":"nodes is forbidden"}"#;
        let refused = taken("/p", &answer(403, status)).unwrap_err().to_string();
        assert_eq!(refused, "the API refused /p: status 403, nodes is forbidden");
        let refused = taken("/p", &answer(503, "starting\nmore")).unwrap_err().to_string();
        assert_eq!(refused, "the API refused /p: status 503, starting");
    }

    #[tokio::test]
    async fn a_host_that_never_ran_k3s_has_no_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let error = Kube::own_admin(&root).get("/api/v1/nodes").await.unwrap_err();
        assert!(matches!(error, KubeError::NoCredentials { .. }), "{error}");
    }
}
