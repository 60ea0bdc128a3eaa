//! The cluster's server token, changed while k3s runs.
//!
//! Owns the one request to the supervisor of k3s on this host (k3s:
//! pkg/server/handlers/token.go). It answers to whoever knows the token that it
//! holds now, not to an administrator's certificate. When, and on which server
//! first, is the plan's decision.

use std::time::Duration;

use serde_json::json;

use super::{Kube, KubeError, message};
use crate::role::words::TokenText;
use crate::sys::local::{self, Method, Request};

const PATH: &str = "/v1-k3s/token";
/// k3s writes the record in the datastore anew before it answers.
const LIMIT: Duration = Duration::from_secs(30);

impl Kube<'_> {
    /// Makes `new` the token of the server that is asked, and of the record in the
    /// datastore where that is still `held`'s.
    ///
    /// # Errors
    /// `Refused` with 401 where it holds another token than `held`; with 500 it may
    /// have taken `new` itself and left the record as it was.
    pub async fn change_token(&self, held: &TokenText, new: &TokenText) -> Result<(), KubeError> {
        let (url, body) = (format!("{}{PATH}", self.base), json!({"newToken": new.as_str()}).to_string());
        let request = Request {
            method: Method::Put,
            url: &url,
            body: Some(("application/json", &body)),
            basic: Some(("server", held.as_str())),
        };
        let answer = local::ask_by_password(request, &self.credential(self.files[0])?, LIMIT).await?;
        match answer.status {
            200..=299 => Ok(()),
            status => {
                Err(KubeError::Refused { path: PATH.to_owned(), status, message: message(&answer.body) })
            }
        }
    }
}
