//! Settings of the agent: TOML texts in, [`Settings`] out. Serves every step as
//! its second input beside the facts.
//!
//! Owns the keys of `docs/configuration.md`, their merge order, the provenance
//! of each value, and the report of every mistake of every file at once. Never
//! opens a file, reads the environment or asks the clock: callers read the files
//! in the order of [`PLACES`] and hand over their texts.

mod choices;
mod digests;
mod error;
mod fragment;
mod keys;
mod merge;
mod names;
mod network;
mod reader;
mod show;
mod suggest;
#[cfg(test)]
mod tests;
pub mod units;
mod url;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use choices::{RelayListen, RepairPolicy};
pub use digests::{Pin, ReleaseKey};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use keys::{KEYS, Key, Preset};
pub use names::{DeviceName, NameError, NameTemplate};
pub use show::{Shown, ShownValue};
pub use suggest::nearest;
pub use url::{Endpoint, Host, Proxy};

use crate::facts::network::{Cidr, InterfaceChoice};
use crate::ordered::sort_by;
use crate::paths;
use crate::role::Snapshotter;
use crate::role::words::{ConfigKey, SiteName};

/// Where a part of the configuration lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One file; it may be absent.
    File(&'static str),
    /// The files `*.toml` of a directory, sorted by name; it may be absent.
    Directory(&'static str),
}

/// The places of the configuration, in merge order: a later one wins.
pub const PLACES: [Place; 3] = [
    Place::Directory(paths::PACKAGE_CONFIG_DIR),
    Place::File(paths::CONFIG),
    Place::Directory(paths::CONFIG_DIR),
];

/// One configuration file. `Debug` leaves the text out: a proxy password may be in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The path as messages name it.
    pub path: PathBuf,
    /// The content.
    pub text: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.text.len();
        out.debug_struct("Source").field("path", &self.path).field("bytes", &bytes).finish()
    }
}

/// The configuration of the agent, checked. [`Default`] is that of no files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Who says what this host shall be.
    pub source: AssignmentSource,
    /// How anything outside the room is reached.
    pub transport: Transport,
    /// The relay for hosts without WAN.
    pub relay: Relay,
    /// What this host proposes to be.
    pub node: Node,
    /// Where container layers live.
    pub storage: Storage,
    /// What this host accepts beyond the signature of its assignment.
    pub trust: Trust,
    /// What the agent may repair by itself.
    pub repair: RepairPolicy,
}

/// Who says what this host shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AssignmentSource {
    /// Nobody yet: neither `central.endpoints` nor `central.assignment-file` is
    /// set, as on a freshly installed package.
    #[default]
    None,
    /// The central service.
    Central(Central),
    /// A local, unsigned file; it holds join tokens.
    File(PathBuf),
}

/// The central service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Central {
    /// Where it answers, in the order of trying; never empty.
    pub endpoints: Vec<Endpoint>,
    /// Where to connect when the endpoint's name does not resolve.
    pub addresses: Vec<IpAddr>,
    /// How it proves itself.
    pub proof: ServerProof,
    /// The file with the enrolment token; absent on hosts that wait for approval or have enrolled.
    pub enrol_token_file: Option<PathBuf>,
}

/// How the central service proves itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerProof {
    /// Its public key is one of these; never empty.
    Pins(Vec<Pin>),
    /// Its certificate chains to an authority of this PEM file.
    CaFile(PathBuf),
    /// Not at all: every endpoint is plain http on loopback.
    Loopback,
}

/// How anything outside the room is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// DNS servers to ask instead of those of the host; empty: those of the host.
    pub resolvers: Vec<SocketAddr>,
    /// The proxy.
    pub proxy: Option<Proxy>,
}

/// The relay for hosts without WAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Where this host relays for others.
    pub listen: RelayListen,
    /// The relays that this host asks.
    pub peers: Vec<SocketAddr>,
}

impl Default for Relay {
    fn default() -> Self {
        Self { listen: RelayListen::NodeIp(fragment::RELAY_PORT), peers: Vec::new() }
    }
}

/// What this host proposes to be; the assignment decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The machine room.
    pub site: Option<SiteName>,
    /// Which address is the node IP.
    pub address: NodeAddress,
    /// Whether the agent puts the node IP on the interface at each boot.
    pub manage_ip: bool,
    /// On which interface; `None`: found from facts.
    pub interface: Option<InterfaceChoice>,
    /// How the node name is made.
    pub name_template: NameTemplate,
    /// Whether the agent sets the host's name to the node name.
    pub manage_hostname: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            site: None,
            address: NodeAddress::Undecided,
            manage_ip: false,
            interface: None,
            name_template: NameTemplate::default(),
            manage_hostname: true,
        }
    }
}

/// Which address is the node IP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeAddress {
    /// This host proposes none.
    #[default]
    Undecided,
    /// Exactly this one.
    Exact(IpAddr),
    /// The one local address inside these networks; never empty.
    Within(Vec<Cidr>),
}

/// Where container layers live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// The snapshotter of containerd; `None` (written `auto`): decided from facts.
    pub snapshotter: Option<Snapshotter>,
    /// The thin pool; present whenever the snapshotter is [`Snapshotter::Devmapper`].
    pub devmapper: Option<Devmapper>,
}

/// The thin pool of the devmapper snapshotter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devmapper {
    /// Its device-mapper name.
    pub pool: DeviceName,
    /// What it lies on, where that is known.
    pub space: Option<PoolSpace>,
    /// Whether the agent may create it, only on empty space; then `space` is present.
    pub create: bool,
}

/// What a thin pool lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolSpace {
    /// Free room of an LVM volume group.
    VolumeGroup(DeviceName),
    /// A whole block device.
    Device(PathBuf),
}

/// What this host accepts beyond the signature of its assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Keys of release lists; none may be set, because no list is checked.
    pub release_keys: Vec<ReleaseKey>,
    /// k3s configuration keys that an assignment may set beyond the default list.
    pub allow_keys: Vec<ConfigKey>,
}

/// Checked settings and where each value came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// The settings.
    pub settings: Settings,
    files: Vec<PathBuf>,
    given: BTreeMap<&'static str, merge::Given>,
}

impl Configuration {
    /// The place that gave `key`, a dotted name such as `node.ip`; `None` for a default.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.given.get(key).map(|given| &given.origin)
    }

    /// Every value and the file that it came from, without credentials.
    #[must_use]
    pub fn shown(&self) -> Shown {
        Shown::new(self)
    }

    /// The files that only root may read: those of [`secret_files`], and the
    /// configuration file that gives the credentials of a proxy.
    #[must_use]
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let proxy = self.settings.transport.proxy.as_ref();
        let origin = proxy.filter(|proxy| proxy.has_credentials()).and(self.origin(keys::PROXY.name));
        let own = origin.map(|origin| origin.file.clone());
        secret_files(&self.settings).into_iter().chain(own).collect()
    }
}

/// The files named by `settings` that hold secrets: a caller refuses to read
/// those that others than root may read.
#[must_use]
pub fn secret_files(settings: &Settings) -> Vec<PathBuf> {
    match &settings.source {
        AssignmentSource::None => Vec::new(),
        AssignmentSource::Central(central) => central.enrol_token_file.iter().cloned().collect(),
        AssignmentSource::File(file) => vec![file.clone()],
    }
}

/// Merges `sources`, given in the order of [`PLACES`], and checks them. No
/// sources, or empty ones, give the defaults with [`AssignmentSource::None`].
///
/// # Errors
/// Every mistake of every file, sorted by file and line. Rules that need a key to
/// be there are checked only when nothing else is wrong: the key may be the mistyped one.
pub fn parse(sources: &[Source]) -> Result<Configuration, ConfigErrors> {
    let merge::Merged { fragment, given, mut errors } = merge::merge(sources);
    validate::check(&fragment, &mut errors);
    if errors.is_empty() {
        let files = sources.iter().map(|source| source.path.clone()).collect();
        return Ok(Configuration { settings: validate::settings(fragment), files, given });
    }
    let rank = |error: &ConfigError| sources.iter().position(|source| source.path == error.file);
    let place = |error: &ConfigError| (rank(error), error.line, error.column);
    sort_by(&mut errors, |one, other| place(one) < place(other));
    Err(ConfigErrors(errors))
}
