//! What a server's API says that it is.

use super::{HEALTH_LIMIT, Kube, KubeError};
use crate::sys::local::Request;

impl Kube<'_> {
    /// Version of the k3s that serves the API at `address` (`HOST:PORT`).
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn version(&self, address: &str) -> Result<String, KubeError> {
        let path = format!("https://{address}/version");
        let answer = self.send(Request::get(&path), HEALTH_LIMIT).await?;
        let said = super::taken(&path, &answer)?;
        Ok(said["gitVersion"].as_str().unwrap_or_default().to_owned())
    }
}
