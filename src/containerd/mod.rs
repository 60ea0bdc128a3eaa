//! containerd as it answers on its socket: typed calls, in the kubelet's
//! namespace.
//!
//! Owns which methods are called, their limits, and their messages; used by the
//! steps that look at containerd or change its images. One connection for a few
//! calls, never kept. Decides nothing, and retries nothing.

mod messages;

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use thiserror::Error;

use crate::paths::CONTAINERD_SOCKET;
use crate::sys::Root;
use crate::sys::grpc::{Call, Channel, GrpcError};

/// Header with containerd's namespace; the kubelet's images are in `k8s.io`.
const NAMESPACE: (&str, &str) = ("containerd-namespace", "k8s.io");
/// To connect.
const CONNECT: Duration = Duration::from_secs(2);
/// For a call that reads a database at most.
const QUICK: Duration = Duration::from_secs(2);
/// For a call of the CRI, which looks at the network's configuration too.
const CRI: Duration = Duration::from_secs(5);
/// For a call that waits for containerd's garbage collection.
const COLLECTION: Duration = Duration::from_secs(60);
/// containerd's own mark of a plugin that stays away on purpose (containerd: `plugin.ErrSkipPlugin`).
const SKIPPED: &str = "skip plugin";

/// A call of containerd that brought no result.
#[derive(Debug, Error)]
pub enum CallError {
    /// No answer, or a no.
    #[error(transparent)]
    Rpc(#[from] GrpcError),
    /// The answer is no message of that method.
    #[error("the answer of {method} cannot be read")]
    Decode {
        /// The method.
        method: &'static str,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
}

impl CallError {
    /// What went wrong with the call itself.
    #[must_use]
    pub fn rpc(&self) -> Option<&GrpcError> {
        match self {
            Self::Rpc(error) => Some(error),
            Self::Decode { .. } => None,
        }
    }
}

/// One plugin of the running containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// `io.containerd.snapshotter.v1`, …
    pub kind: String,
    /// `overlayfs`, …
    pub id: String,
    /// How its start went.
    pub state: PluginState,
}

/// How a plugin's start went, by the rule of containerd's own `ctr plugins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginState {
    /// It runs.
    Ok,
    /// It has nothing to do on this host; says why.
    Skipped(String),
    /// It failed; says why.
    Failed(String),
}

/// What the CRI says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriStatus {
    /// Its condition `RuntimeReady`.
    pub runtime: Condition,
    /// Its condition `NetworkReady`.
    pub network: Condition,
}

/// One condition of the CRI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Whether it holds.
    pub is_true: bool,
    /// Reason and message, empty when it holds.
    pub why: String,
}

/// One image by name; several names may have one digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `docker.io/library/x:1`, or `sha256:…` for the name that the CRI adds.
    pub name: String,
    /// Digest of its manifest or index: `sha256:…`.
    pub digest: String,
    /// Media type of that.
    pub media_type: String,
    /// Size of that in bytes.
    pub size: i64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// One image as the CRI has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriImage {
    /// Digest of its configuration: `sha256:…`.
    pub id: String,
    /// Names with a tag.
    pub tags: Vec<String>,
    /// Names with a digest.
    pub digests: Vec<String>,
    /// The kubelet never collects it. containerd before 1.6.22 tells nobody.
    pub is_pinned: bool,
}

/// A connection to this host's containerd.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects, within 2 s.
    ///
    /// # Errors
    /// When nobody accepts connections on containerd's socket.
    pub async fn connect(root: &Root) -> Result<Self, CallError> {
        Ok(Self { channel: Channel::connect(root, CONTAINERD_SOCKET, CONNECT).await? })
    }

    /// Version of the running containerd, as it prints it: `1.7.24~ds1`, `v2.1.9`, …
    ///
    /// # Errors
    /// As every call here: when no good answer comes within its limit.
    pub async fn version(&self) -> Result<String, CallError> {
        let answer: messages::VersionResponse =
            self.call("/containerd.services.version.v1.Version/Version", QUICK, &messages::Empty {}).await?;
        Ok(answer.version)
    }

    /// Every plugin and how its start went.
    ///
    /// # Errors
    /// When no good answer comes within 2 s.
    pub async fn plugins(&self) -> Result<Vec<Plugin>, CallError> {
        let method = "/containerd.services.introspection.v1.Introspection/Plugins";
        let answer: messages::PluginsResponse = self.call(method, QUICK, &messages::Empty {}).await?;
        Ok(answer.plugins.into_iter().map(Plugin::from).collect())
    }

    /// How many snapshots `snapshotter` has: reads its own database.
    ///
    /// # Errors
    /// When no good answer comes within 2 s, or the snapshotter cannot list.
    pub async fn snapshots(&self, snapshotter: &str) -> Result<u64, CallError> {
        let method = "/containerd.services.snapshots.v1.Snapshots/List";
        let request = messages::ListSnapshotsRequest { snapshotter: snapshotter.to_owned() };
        let mut count = 0_u64;
        self.each(method, &request, |answer: messages::ListSnapshotsResponse| {
            count = count.saturating_add(u64::try_from(answer.info.len()).unwrap_or(u64::MAX));
        })
        .await?;
        Ok(count)
    }

    /// Whether `snapshotter` has the snapshot `key`, for example the chain id of a layer.
    ///
    /// # Errors
    /// When no good answer comes within 2 s, other than that there is none.
    pub async fn has_snapshot(&self, snapshotter: &str, key: &str) -> Result<bool, CallError> {
        let request =
            messages::StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let answer: Result<messages::Empty, _> =
            self.call("/containerd.services.snapshots.v1.Snapshots/Stat", QUICK, &request).await;
        match answer {
            Ok(_) => Ok(true),
            Err(CallError::Rpc(error)) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Size in bytes of every blob by digest, as its database says.
    ///
    /// # Errors
    /// When no good answer comes within 2 s.
    pub async fn content(&self) -> Result<BTreeMap<String, i64>, CallError> {
        let method = "/containerd.services.content.v1.Content/List";
        let mut blobs = BTreeMap::new();
        self.each(method, &messages::Empty {}, |answer: messages::ListContentResponse| {
            blobs.extend(answer.info.into_iter().map(|blob| (blob.digest, blob.size)));
        })
        .await?;
        Ok(blobs)
    }

    /// What the CRI says about itself.
    ///
    /// # Errors
    /// When no good answer comes within 5 s; containerd serves no CRI when its
    /// plugin failed or is disabled.
    pub async fn cri_status(&self) -> Result<CriStatus, CallError> {
        let answer: messages::StatusResponse =
            self.call("/runtime.v1.RuntimeService/Status", CRI, &messages::Empty {}).await?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let named = |name| condition(&conditions, name);
        Ok(CriStatus { runtime: named("RuntimeReady"), network: named("NetworkReady") })
    }

    /// Every image of the CRI.
    ///
    /// # Errors
    /// When no good answer comes within 5 s.
    pub async fn cri_images(&self) -> Result<Vec<CriImage>, CallError> {
        let method = "/runtime.v1.ImageService/ListImages";
        let answer: messages::ListCriImagesResponse = self.call(method, CRI, &messages::Empty {}).await?;
        Ok(answer.images.into_iter().map(CriImage::from).collect())
    }

    /// The image that the CRI would take for `name`.
    ///
    /// # Errors
    /// When no good answer comes within 5 s.
    pub async fn cri_image(&self, name: &str) -> Result<Option<CriImage>, CallError> {
        let image = Some(messages::ImageSpec { image: name.to_owned() });
        let request = messages::ImageStatusRequest { image };
        let answer: messages::ImageStatusResponse =
            self.call("/runtime.v1.ImageService/ImageStatus", CRI, &request).await?;
        Ok(answer.image.map(CriImage::from))
    }

    /// Every image by name.
    ///
    /// # Errors
    /// When no good answer comes within 2 s.
    pub async fn images(&self) -> Result<Vec<Image>, CallError> {
        let method = "/containerd.services.images.v1.Images/List";
        let answer: messages::ListImagesResponse = self.call(method, QUICK, &messages::Empty {}).await?;
        Ok(answer.images.into_iter().map(Image::from).collect())
    }

    /// Sets one label of the image `name`; its others stay.
    ///
    /// # Errors
    /// When no good answer comes within 2 s, or there is no such image.
    pub async fn label_image(&self, name: &str, key: &str, value: &str) -> Result<(), CallError> {
        let labels = [(key.to_owned(), value.to_owned())].into();
        let image = messages::Image { name: name.to_owned(), labels, target: None };
        let mask = messages::FieldMask { paths: vec![format!("labels.{key}")] };
        let request = messages::UpdateImageRequest { image: Some(image), update_mask: Some(mask) };
        let method = "/containerd.services.images.v1.Images/Update";
        self.call(method, QUICK, &request).await.map(|_: messages::Empty| ())
    }

    /// Removes the image's name, and waits until what only it held is gone too.
    /// Gives whether it was there.
    ///
    /// # Errors
    /// When no good answer comes within 60 s.
    pub async fn delete_image(&self, name: &str) -> Result<bool, CallError> {
        let request = messages::DeleteImageRequest { name: name.to_owned(), sync: true };
        let method = "/containerd.services.images.v1.Images/Delete";
        let answer: Result<messages::Empty, _> = self.call(method, COLLECTION, &request).await;
        match answer {
            Ok(_) => Ok(true),
            Err(CallError::Rpc(error)) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn call<T: Message + Default>(
        &self,
        method: &'static str,
        limit: Duration,
        request: &impl Message,
    ) -> Result<T, CallError> {
        let call = Call { method, metadata: &[NAMESPACE], limit };
        let answer = self.channel.unary(call, &request.encode_to_vec()).await?;
        T::decode(answer.as_slice()).map_err(|source| CallError::Decode { method, source })
    }

    /// A call with many answers, each given to `take`.
    async fn each<T: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
        mut take: impl FnMut(T),
    ) -> Result<(), CallError> {
        let call = Call { method, metadata: &[NAMESPACE], limit: QUICK };
        let mut broken = None;
        let decode = |answer: &[u8]| match T::decode(answer) {
            Ok(answer) => take(answer),
            Err(source) => broken = Some(source),
        };
        self.channel.stream(call, &request.encode_to_vec(), decode).await?;
        broken.map_or(Ok(()), |source| Err(CallError::Decode { method, source }))
    }
}

impl From<messages::Plugin> for Plugin {
    fn from(plugin: messages::Plugin) -> Self {
        let state = match plugin.init_err.map(|error| error.message) {
            None => PluginState::Ok,
            Some(why) if why.contains(SKIPPED) => PluginState::Skipped(why),
            Some(why) => PluginState::Failed(why),
        };
        Self { kind: plugin.kind, id: plugin.id, state }
    }
}

impl From<messages::Image> for Image {
    fn from(image: messages::Image) -> Self {
        let target = image.target.unwrap_or_default();
        Self {
            name: image.name,
            digest: target.digest,
            media_type: target.media_type,
            size: target.size,
            labels: image.labels.into_iter().collect(),
        }
    }
}

impl From<messages::CriImage> for CriImage {
    fn from(image: messages::CriImage) -> Self {
        Self { id: image.id, tags: image.tags, digests: image.digests, is_pinned: image.pinned }
    }
}

/// The condition `name`; one that is not told does not hold.
fn condition(conditions: &[messages::RuntimeCondition], name: &str) -> Condition {
    let Some(condition) = conditions.iter().find(|condition| condition.kind == name) else {
        return Condition { is_true: false, why: format!("the CRI tells no {name}") };
    };
    if condition.status {
        return Condition { is_true: true, why: String::new() };
    }
    let why = format!("{}: {}", condition.reason, condition.message);
    Condition { is_true: false, why: why.trim_matches([':', ' ']).to_owned() }
}
