//! How one image of the store is looked at: its blobs, and the layers that its
//! snapshotter made of them.
//!
//! Owns which of an index's manifests counts, and where the layers lie. Only
//! reads, but for a view that it makes and removes, because only a view tells.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::acts::{ImageError, Tool, ctr};
use super::check::{self, Fault, Layer};
use crate::containerd::{CallError, Client};
use crate::error::Chain;
use crate::sys::Root;

/// Name of the view through which directories of layers are found.
const VIEW: &str = "edge-bootstrap-check";

/// What was found of each layer, by chain id: many images share some.
pub(super) type Seen = BTreeMap<String, Result<(), Fault>>;

/// Why an image is not known to be whole.
#[derive(Debug)]
pub(super) enum Doubt {
    /// What the disk says about it.
    Fault(Fault),
    /// containerd was lost on the way, which says nothing about any image.
    Lost(ImageError),
}

impl From<Fault> for Doubt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ImageError> for Doubt {
    fn from(error: ImageError) -> Self {
        Self::Lost(error)
    }
}

impl From<CallError> for Doubt {
    fn from(error: CallError) -> Self {
        Self::Lost(error.into())
    }
}

/// How one image is looked at.
pub(super) struct Look<'a> {
    /// Where the store is.
    pub(super) root: &'a Root,
    /// containerd's own program.
    pub(super) tool: &'a Tool,
    /// The running containerd.
    pub(super) client: &'a Client,
    /// What was written before is not looked at again; seconds since 1970.
    pub(super) since: u64,
    /// The host was told to have it.
    pub(super) is_told: bool,
}

impl Look<'_> {
    /// Gives what is wrong with it.
    pub(super) async fn image(&self, target: &str, seen: &mut Seen) -> Result<(), Doubt> {
        let readings = check::readings(self.root, target, self.is_told)?;
        for reading in readings.iter().flatten() {
            if self.is_unpacked(&reading.layers).await? {
                reading.whole(self.root, self.since)?;
                return self.unpacked(&reading.layers, seen).await;
            }
        }
        // Of several, only containerd knows which one it would take.
        check::one_whole(self.root, &readings, self.since)?;
        // Somebody may have images that are not unpacked.
        if self.is_told && !readings.is_empty() {
            return Err(Fault::damaged("it is not unpacked").into());
        }
        Ok(())
    }

    async fn is_unpacked(&self, layers: &[Layer]) -> Result<bool, CallError> {
        let Some(top) = layers.last() else { return Ok(true) };
        self.client.has_snapshot(&self.tool.snapshotter, &top.chain).await
    }

    async fn unpacked(&self, layers: &[Layer], seen: &mut Seen) -> Result<(), Doubt> {
        // Layers on a thin pool are synced when they are unmounted after unpacking.
        if self.tool.snapshotter != "overlayfs" || layers.is_empty() {
            return Ok(());
        }
        let directories = match directories(self.tool, layers).await {
            // A no to this image only while containerd still answers.
            Err(error @ (ImageError::Ctr { .. } | ImageError::Json(_))) => {
                self.is_unpacked(layers).await?;
                return Err(Fault::Unread(Chain(&error).to_string()).into());
            }
            other => other?,
        };
        Ok(judge((self.root, self.since), layers.iter().zip(&directories), seen)?)
    }
}

/// Compares layers with what they came from, the lowest first, each once. One
/// made before `since` counts as good, unless another image showed otherwise.
fn judge<'a>(
    (root, since): (&Root, u64),
    layers: impl Iterator<Item = (&'a Layer, &'a String)>,
    seen: &mut Seen,
) -> Result<(), Fault> {
    for (Layer { blob, chain }, directory) in layers {
        if !seen.contains_key(chain) {
            let made = root.stat(directory).ok().flatten();
            let made = made.and_then(|it| u64::try_from(it.ctime).ok());
            if made.is_some_and(|made| made < since) {
                continue;
            }
            let found = check::layer(root, blob, directory).map_err(|fault| fault.within(chain));
            seen.insert(chain.clone(), found);
        }
        seen.get(chain).cloned().unwrap_or(Ok(()))?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Source")]
    source: String,
    #[serde(rename = "Options")]
    options: Vec<String>,
}

/// Where the layers lie, the lowest first. Only a view tells.
async fn directories(tool: &Tool, layers: &[Layer]) -> Result<Vec<String>, ImageError> {
    let top = layers.last().map(|layer| layer.chain.as_str()).unwrap_or_default();
    let snapshots = |words: &[&str]| {
        let mut all = vec!["snapshots".to_owned(), "--snapshotter".to_owned(), tool.snapshotter.clone()];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    };
    let run = async |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ctr(tool, &words).await
    };
    // One that a killed check left.
    let _ = run(snapshots(&["rm", VIEW])).await;
    let text = run(snapshots(&["view", "--mounts", VIEW, top])).await?;
    run(snapshots(&["rm", VIEW])).await?;
    let mounts: Vec<Mount> = serde_json::from_str(&text)?;
    let directories = mounts.first().map(lower).unwrap_or_default();
    if directories.len() == layers.len() {
        return Ok(directories);
    }
    Err(ImageError::Ctr {
        what: "snapshots view".to_owned(),
        words: "other layers than the image has".to_owned(),
    })
}

/// Lower directories of a view's mount, the lowest first.
fn lower(mount: &Mount) -> Vec<String> {
    if mount.kind == "bind" {
        return vec![mount.source.clone()];
    }
    let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    lower.unwrap_or_default().split(':').rev().filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn directories_of_a_view_come_from_the_lowest() {
        let mount = |kind: &str, source: &str, options: &[&str]| Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        assert_eq!(lower(&mount("bind", "/s/1/fs", &["ro", "rbind"])), ["/s/1/fs"]);
        let overlay = mount("overlay", "overlay", &["index=off", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"]);
        assert_eq!(lower(&overlay), ["/s/1/fs", "/s/2/fs", "/s/3/fs"]);
    }

    #[test]
    fn a_layer_that_another_image_showed_damaged_counts_whatever_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/s/1/fs", 0o755).unwrap();
        let (layer, directory) = (Layer { blob: "b".into(), chain: "c".into() }, "/s/1/fs".to_owned());
        let judge = |since, seen: &mut Seen| judge((&root, since), [(&layer, &directory)].into_iter(), seen);
        let damage = Fault::damaged("empty").within("c");
        let mut seen = Seen::from([("c".to_owned(), Err(damage.clone()))]);
        assert_eq!(judge(u64::MAX, &mut seen), Err(damage));
        assert_eq!(judge(u64::MAX, &mut Seen::new()), Ok(()), "an old one is looked at again");
        assert!(matches!(judge(0, &mut Seen::new()), Err(Fault::Unread(_))), "its blob is not there");
    }
}
