//! Every key of the configuration: its name, the form that a message asks for,
//! an example and the default. The one list behind reading, suggestions,
//! `config show` and the test of `docs/configuration.md`. Reads nothing itself.

use toml::Value;

/// One key of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The dotted name, such as `storage.devmapper.pool`.
    pub name: &'static str,
    /// The expected form, worded to follow "expected".
    pub form: &'static str,
    /// An example as TOML; empty where the form says it all.
    pub example: &'static str,
    /// What holds when no file sets the key.
    pub default: Preset,
    /// The value may carry a secret, or a person may put one there by mistake:
    /// messages do not repeat it.
    pub secret: bool,
}

/// What holds when no file sets a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Nothing.
    Unset,
    /// A text.
    Text(&'static str),
    /// True or false.
    Flag(bool),
    /// A list without elements.
    Empty,
}

impl Preset {
    /// The value in TOML; `None` for [`Preset::Unset`].
    #[must_use]
    pub fn value(self) -> Option<Value> {
        match self {
            Self::Unset => None,
            Self::Text(text) => Some(Value::String(text.to_owned())),
            Self::Flag(flag) => Some(Value::Boolean(flag)),
            Self::Empty => Some(Value::Array(Vec::new())),
        }
    }
}

impl Key {
    const fn new(name: &'static str, form: &'static str, example: &'static str) -> Self {
        Self { name, form, example, default: Preset::Unset, secret: false }
    }

    const fn list(name: &'static str, form: &'static str, example: &'static str) -> Self {
        Self { default: Preset::Empty, ..Self::new(name, form, example) }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    const fn preset(self, default: Preset) -> Self {
        Self { default, ..self }
    }

    /// The form with its example, worded to follow "expected".
    pub(super) fn expected(&self) -> String {
        match self.example {
            "" => self.form.to_owned(),
            example => format!("{}, such as {example}", self.form),
        }
    }
}

macro_rules! keys {
    ($($constant:ident = $key:expr;)*) => {
        $(pub(super) const $constant: &Key = &$key;)*

        /// Every key, in the order of the documentation.
        pub const KEYS: &[&Key] = &[$($constant),*];
    };
}

const PATH: &str = "an absolute path";
const SWITCH: &str = "true or false";

keys! {
    ENDPOINTS = Key::list("central.endpoints", "a list of https URLs", r#"["https://central.example.net:8443"]"#);
    ADDRESSES = Key::list("central.addresses", "a list of IP addresses", r#"["203.0.113.7"]"#);
    CA_FILE = Key::new("central.ca-file", PATH, r#""/etc/edge-bootstrap/central-ca.pem""#);
    PINS = Key::list(
        "central.pins",
        "a list of `sha256/` and the base64 of 32 bytes",
        r#"["sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]"#
    );
    ENROL_TOKEN_FILE =
        Key::new("central.enrol-token-file", PATH, r#""/etc/edge-bootstrap/enrol-token""#).secret();
    RESOLVERS = Key::list(
        "central.resolvers",
        "a list of IP addresses, each with a port or without",
        r#"["114.114.114.114"]"#
    );
    PROXY =
        Key::new("central.proxy", "an http or https URL with a port", r#""http://172.16.36.10:3128""#).secret();
    ASSIGNMENT_FILE = Key::new("central.assignment-file", PATH, r#""/etc/edge-bootstrap/assignment.toml""#);
    LISTEN = Key::new("relay.listen", r#"`node-ip:PORT`, `ADDRESS:PORT` or """#, r#""node-ip:6446""#)
        .preset(Preset::Text("node-ip:6446"));
    PEERS = Key::list(
        "relay.peers",
        "a list of IP addresses, each with a port or without",
        r#"["172.16.36.10:6446"]"#
    );
    SITE = Key::new("node.site", "the name of a machine room", r#""hz-017""#);
    IP = Key::new("node.ip", "an IP address that other hosts reach", r#""172.16.36.1""#);
    IP_NETWORKS = Key::list("node.ip-networks", "a list of networks", r#"["172.16.36.0/24"]"#);
    MANAGE_IP = Key::new("node.manage-ip", SWITCH, "").preset(Preset::Flag(false));
    INTERFACE = Key::new("node.interface", "an interface's name, a MAC or a network", r#""eth0""#);
    NAME_TEMPLATE = Key::new(
        "node.name-template",
        "lower-case letters, digits and `-` around {ip-dashed} and {site}",
        r#""{ip-dashed}""#
    )
    .preset(Preset::Text("{ip-dashed}"));
    MANAGE_HOSTNAME = Key::new("node.manage-hostname", SWITCH, "").preset(Preset::Flag(true));
    SNAPSHOTTER = Key::new("storage.snapshotter", r#""auto", "overlayfs" or "devmapper""#, "")
        .preset(Preset::Text("auto"));
    POOL = Key::new("storage.devmapper.pool", "the name of a thin pool", r#""edge-thinpool""#);
    VOLUME_GROUP = Key::new("storage.devmapper.volume-group", "the name of a volume group", r#""vg0""#);
    DEVICE = Key::new("storage.devmapper.device", "an absolute path below /dev", r#""/dev/sdb""#);
    CREATE = Key::new("storage.devmapper.create", SWITCH, "").preset(Preset::Flag(false));
    RELEASE_KEYS = Key::list(
        "trust.release-keys",
        "an empty list",
        "[]"
    );
    ALLOW_KEYS = Key::list("trust.allow-keys", "a list of k3s configuration keys", r#"["kubelet-arg"]"#);
    POLICY = Key::new("repair.policy", r#""observe", "safe" or "disruptive""#, "")
        .preset(Preset::Text("safe"));
}

/// The tables that hold the keys.
pub(super) const SECTIONS: [&str; 7] =
    ["central", "relay", "node", "storage", "storage.devmapper", "trust", "repair"];

/// The key with this dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().copied().find(|key| key.name == name)
}
