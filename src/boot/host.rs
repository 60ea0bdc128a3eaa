//! The host that a pass works on: root, clock, systemd, settings, enrolment.
//!
//! Owns how the configuration is read from its places and refused when others
//! can read its secrets. Decides nothing.

use std::net::IpAddr;

use thiserror::Error;

use crate::config::{self, Configuration, NodeAddress, Place, Settings, Source};
use crate::enrol::{self, Enrolment, Introduction};
use crate::error::ErrorKind;
use crate::facts::HostFacts;
use crate::paths;
use crate::plan::{self, PoolSpace, PoolWish};
use crate::sys::root::FileError;
use crate::sys::systemd::Systemd;
use crate::sys::{Clock, Root, random};
use crate::wire::claim::ProposedNode;

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something is wrong in it.
    #[error("{0}")]
    Config(config::ConfigErrors),
    /// Others can read a file with secrets.
    #[error("{path} can be read by others (mode {mode:04o}), and it holds a secret; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
}

impl SetupError {
    /// Category.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(_) => ErrorKind::Environment,
            Self::Config(_) | Self::Exposed { .. } => ErrorKind::Input,
        }
    }
}

/// The host that a pass works on.
#[derive(Debug)]
pub struct Agent {
    /// Where `/` is.
    pub root: Root,
    /// Its clock.
    pub clock: Clock,
    /// Its systemd.
    pub systemd: Systemd,
    /// Its settings.
    pub settings: Settings,
    /// It in front of who says what it shall be.
    pub enrolment: Enrolment,
    /// Digest of the assignment that the service confirmed in this boot.
    pub confirmed: Option<String>,
    /// What passes remember of the node IP.
    pub address: super::address::Memory,
    /// What passes remember of looks at storage.
    pub storage: super::storage::Memory,
    /// What is remembered of the clock.
    pub time: super::Remembered,
    /// What looks at containerd remember.
    pub containerd: crate::verify::Memory,
    /// What passes remember of the room's manifests.
    pub manifests: super::manifests::Memory,
    /// What passes remember of members that leave.
    pub retired: super::retired::Memory,
    /// What passes remember of the room's Lease.
    pub turn: super::turn::Memory,
    /// What passes remember of a k3s that is to be upgraded.
    pub(super) upgrade: super::upgrade::Memory,
    /// What passes remember of downloads that found no room.
    pub rests: super::Rests,
    /// Tells how a download goes.
    pub watcher: Box<dyn super::Watcher>,
}

impl Agent {
    /// Reads the configuration and prepares everything; contacts nobody.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(root: Root, config: Option<&str>) -> Result<Self, SetupError> {
        let configuration = configuration(&root, config)?;
        let systemd = Systemd::new(&root);
        let enrolment = enrolment(&root, &configuration.settings);
        let settings = configuration.settings;
        Ok(Self {
            root,
            clock: Clock::System,
            systemd,
            settings,
            enrolment,
            confirmed: None,
            address: super::address::Memory::default(),
            storage: super::storage::Memory::default(),
            time: super::Remembered::default(),
            containerd: crate::verify::Memory::default(),
            manifests: super::manifests::Memory::default(),
            retired: super::retired::Memory::default(),
            turn: super::turn::Memory::default(),
            upgrade: super::upgrade::Memory::default(),
            rests: super::Rests::default(),
            watcher: Box::new(super::Quiet),
        })
    }

    /// What the settings say to the plan.
    #[must_use]
    pub fn local(&self) -> plan::Local {
        plan::Local {
            ip: match &self.settings.node.address {
                NodeAddress::Exact(ip) => Some(*ip),
                NodeAddress::Undecided | NodeAddress::Within(_) => None,
            },
            manage_hostname: self.settings.node.manage_hostname,
            allow_keys: self.settings.trust.allow_keys.iter().map(ToString::to_string).collect(),
            snapshotter: self.settings.storage.snapshotter,
            devmapper: self.settings.storage.devmapper.as_ref().map(pool_wish),
            manage_ip: self.settings.node.manage_ip,
            interface: self.settings.node.interface.clone(),
            networks: match &self.settings.node.address {
                NodeAddress::Within(networks) => networks.clone(),
                NodeAddress::Undecided | NodeAddress::Exact(_) => Vec::new(),
            },
        }
    }

    /// Tells enrolment what the host says about itself.
    pub fn introduce(&mut self, facts: &HostFacts) {
        let introduction = introduction(&self.settings, facts);
        self.enrolment.introduce(introduction);
    }
}

/// A fresh enrolment for these settings.
#[must_use]
pub fn enrolment(root: &Root, settings: &Settings) -> Enrolment {
    Enrolment::new(root, enrol::Source::from(settings), Introduction::default(), random::number())
}

/// What a host with these settings and facts says about itself in a claim.
#[must_use]
pub fn introduction(settings: &Settings, facts: &HostFacts) -> Introduction {
    let site = settings.node.site.as_ref();
    let ip = proposed_ip(settings, facts);
    let node = ip.and_then(|ip| {
        let name = settings.node.name_template.render(ip, site).ok()?;
        Some(ProposedNode { name: name.to_string(), ip })
    });
    Introduction {
        site: site.map(ToString::to_string).unwrap_or_default(),
        boot_id: facts.identity.boot_id.known().cloned().unwrap_or_default(),
        node,
        facts: serde_json::to_value(facts).unwrap_or_default(),
    }
}

/// The address that the settings name, or the one local address inside their networks.
fn proposed_ip(settings: &Settings, facts: &HostFacts) -> Option<IpAddr> {
    match &settings.node.address {
        NodeAddress::Exact(ip) => Some(*ip),
        NodeAddress::Undecided => None,
        NodeAddress::Within(networks) => {
            let nics = facts.network.interfaces.known()?;
            let local = nics.iter().flat_map(|nic| nic.addresses.iter().map(|cidr| cidr.address));
            let mut inside = local.filter(|ip| networks.iter().any(|network| network.contains(*ip)));
            let ip = inside.next()?;
            inside.next().is_none().then_some(ip)
        }
    }
}

/// Reads and checks the configuration; `config` stands in for
/// `/etc/edge-bootstrap/config.toml`.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn configuration(root: &Root, config: Option<&str>) -> Result<Configuration, SetupError> {
    let mut sources = Vec::new();
    for place in config::PLACES {
        for path in files_of(root, place, config)? {
            if let Some(text) = root.read_text(&path)? {
                sources.push(Source { path: path.into(), text });
            }
        }
    }
    let configuration = config::parse(&sources).map_err(SetupError::Config)?;
    for path in configuration.secret_files() {
        keep_private(root, &path.to_string_lossy())?;
    }
    Ok(configuration)
}

fn files_of(root: &Root, place: Place, config: Option<&str>) -> Result<Vec<String>, FileError> {
    match place {
        Place::File(paths::CONFIG) => Ok(vec![config.unwrap_or(paths::CONFIG).to_owned()]),
        Place::File(path) => Ok(vec![path.to_owned()]),
        Place::Directory(directory) => {
            let names = root.list(directory)?.into_iter();
            Ok(names
                .filter(|name| name.ends_with(".toml"))
                .map(|name| format!("{directory}/{name}"))
                .collect())
        }
    }
}

fn pool_wish(devmapper: &config::Devmapper) -> PoolWish {
    let space = |space: &config::PoolSpace| match space {
        config::PoolSpace::VolumeGroup(name) => PoolSpace::VolumeGroup(name.to_string()),
        config::PoolSpace::Device(path) => PoolSpace::Device(path.display().to_string()),
    };
    PoolWish {
        pool: devmapper.pool.to_string(),
        space: devmapper.space.as_ref().map(space),
        create: devmapper.create,
    }
}

fn keep_private(root: &Root, path: &str) -> Result<(), SetupError> {
    match root.stat(path)? {
        Some(stat) if stat.mode & 0o077 != 0 => {
            Err(SetupError::Exposed { path: path.to_owned(), mode: stat.mode })
        }
        _ => Ok(()),
    }
}
