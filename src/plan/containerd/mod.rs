//! containerd's configuration: our own complete file, named by `--config`.
//!
//! Owns schema choice (2 for every 1.x, 3 for every 2.x, never 4), the cgroup
//! driver that containerd and kubelet must agree on, CNI loopback and registry
//! hosts. The package's `config.toml` is left alone: merging differs between
//! versions and a missing file named by `--config` fails instead of running on
//! defaults.

mod hosts;

pub(super) use hosts::removals;
use toml::{Table, Value};

use super::Inputs;
use super::item::PlannedFile;
use super::refusal::{Refusal, WaitingOn};
use crate::facts::system::CgroupVersion;
use crate::paths;
use crate::role::words::ImageRef;
use crate::role::{Duty, Snapshotter};

/// containerd's data.
const ROOT: &str = "/var/lib/containerd";
/// Plugins that are never wanted beside overlayfs; on 2.x a failing snapshotter
/// takes the whole daemon down.
const OTHER_SNAPSHOTTERS: [&str; 3] = [
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs",
];
const OVERLAYFS: &str = "io.containerd.snapshotter.v1.overlayfs";
const CRI: &str = "io.containerd.grpc.v1.cri";
const IMAGES: &str = "io.containerd.cri.v1.images";
const RUNTIME: &str = "io.containerd.cri.v1.runtime";

/// What was decided about the container runtime.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The daemon's binary.
    pub binary: String,
    /// Its version.
    pub version: (u32, u32, u32),
    /// Whether runc puts containers below systemd's slices.
    pub systemd_cgroup: bool,
    /// Whether the host runs cgroup v1.
    pub cgroup_v1: bool,
    /// Directories with CNI plugins.
    pub cni_bin_dirs: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Decides from the installed containerd.
pub(super) fn decide(inputs: Inputs<'_>, duty: &Duty) -> Result<Decision, WaitingOn> {
    let containerd = &inputs.facts.runtime.containerd;
    let missing = |what: &str, reason: Option<&str>| {
        WaitingOn::Containerd(format!(
            "{what}{}; install the distribution's containerd package",
            reason.unwrap_or_default()
        ))
    };
    let binary = containerd.binary.known().ok_or_else(|| missing("", containerd.binary.reason()))?;
    let version = *containerd
        .version
        .known()
        .ok_or_else(|| missing("containerd's version is not known: ", containerd.version.reason()))?;
    if !(1..=2).contains(&version.0) {
        let (major, minor, _) = version;
        return Err(WaitingOn::Containerd(format!(
            "this version writes no configuration for containerd {major}.{minor}; install containerd 1.6 to 2.x, or upgrade edge-bootstrap"
        )));
    }
    overlay_only(inputs, duty)?;
    let cgroup = inputs.facts.system.cgroup.known();
    let cgroup_v1 = cgroup.is_some_and(|cgroup| cgroup.version != CgroupVersion::V2);
    let found = containerd.cni_bin_dirs.known().filter(|dirs| !dirs.is_empty()).cloned();
    Ok(Decision {
        binary: binary.clone(),
        version,
        systemd_cgroup: cgroup.is_some() && !cgroup_v1,
        cgroup_v1,
        cni_bin_dirs: found.unwrap_or_else(|| vec!["/opt/cni/bin".to_owned()]),
        notes: cgroup_note(cgroup_v1, duty),
    })
}

fn overlay_only(inputs: Inputs<'_>, duty: &Duty) -> Result<(), Refusal> {
    let asked = duty.runtime.snapshotter.or(inputs.local.snapshotter);
    if asked == Some(Snapshotter::Devmapper) {
        return Err(Refusal::new(
            "EB-snapshotter",
            "the devmapper snapshotter is asked for, this version configures overlayfs",
            "set [storage] snapshotter = \"overlayfs\" or \"auto\"",
        ));
    }
    Ok(())
}

fn cgroup_note(v1: bool, duty: &Duty) -> Vec<String> {
    let refused = v1 && duty.k3s.version.at_least(35);
    let note = "cgroup v1: the kubelet of Kubernetes 1.35 and newer is told not to refuse it; move this host to cgroup v2";
    refused.then(|| note.to_owned()).into_iter().collect()
}

impl Decision {
    /// What the kubelet must be told so that both use the same cgroup driver
    /// (k3s#5738: k3s sets it only for its own containerd), and, on cgroup v1,
    /// so that it starts at all (kubernetes#134298).
    pub(super) fn kubelet_args(&self, _: Inputs<'_>, duty: &Duty) -> Vec<String> {
        let mut args = Vec::new();
        // containerd 2.x tells the kubelet by itself from Kubernetes 1.31 on.
        if self.systemd_cgroup && (self.version.0 < 2 || !duty.k3s.version.at_least(31)) {
            args.push("cgroup-driver=systemd".to_owned());
        }
        if self.cgroup_v1 && duty.k3s.version.at_least(35) {
            args.push("fail-cgroupv1=false".to_owned());
        }
        args
    }
}

/// containerd's own file, the loopback network and registry hosts.
pub(super) fn files(duty: &Duty, decision: &Decision) -> Vec<PlannedFile> {
    let mut files = vec![
        PlannedFile::public(paths::CONTAINERD_CONFIG, config(duty, decision), reason(decision)),
        PlannedFile::public(
            paths::CNI_LOOPBACK,
            LOOPBACK,
            "the CRI reports NetworkReady once one network is configured",
        ),
    ];
    files.extend(duty.runtime.mirrors.iter().map(hosts::hosts_file));
    files
}

/// containerd takes the first network by name; one of others may be before ours.
pub(super) fn foreign_network(inputs: Inputs<'_>) -> Option<String> {
    let ours = paths::CNI_LOOPBACK.rsplit('/').next()?;
    let files = inputs.facts.runtime.cni_files.known()?;
    let first = files.iter().find(|name| name.as_str() < ours)?;
    Some(format!(
        "{}: {first} comes before our loopback network, so containerd takes that one; it is left alone",
        paths::CNI_DIR
    ))
}

/// `cniVersion` stays below 1.1.0: from there on containerd runs the plugin
/// before it calls the network ready.
const LOOPBACK: &str =
    "{\"cniVersion\":\"0.4.0\",\"name\":\"edge-loopback\",\"plugins\":[{\"type\":\"loopback\"}]}\n";

fn reason(decision: &Decision) -> String {
    let (major, minor, patch) = decision.version;
    let schema = if major == 1 { 2 } else { 3 };
    let cgroup = if decision.systemd_cgroup { "systemd cgroups" } else { "plain cgroups" };
    format!("containerd {major}.{minor}.{patch} reads schema {schema}; overlayfs, {cgroup}")
}

fn config(duty: &Duty, decision: &Decision) -> String {
    let mut table = common(decision);
    let sandbox = duty.runtime.sandbox_image.as_ref();
    let plugins =
        if decision.version.0 == 1 { schema_2(decision, sandbox) } else { schema_3(decision, sandbox) };
    table.insert("plugins".into(), Value::Table(plugins));
    // A table of strings, numbers and lists always has a TOML form.
    let text = toml::to_string(&table).unwrap_or_default();
    format!("# Written by edge-bootstrap; changes here are put back.\n{text}")
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

fn list(values: impl IntoIterator<Item = impl Into<String>>) -> Value {
    Value::Array(values.into_iter().map(|value| Value::String(value.into())).collect())
}

fn common(decision: &Decision) -> Table {
    let (schema, cri): (i64, &[&str]) =
        if decision.version.0 == 1 { (2, &[CRI]) } else { (3, &[CRI, IMAGES, RUNTIME]) };
    table([
        ("version", Value::Integer(schema)),
        ("root", text(ROOT)),
        ("state", text("/run/containerd")),
        ("oom_score", Value::Integer(-999)),
        // Without this a failed CRI plugin leaves a daemon that systemd calls active.
        ("required_plugins", list(cri.iter().copied().chain([OVERLAYFS]))),
        ("disabled_plugins", list(OTHER_SNAPSHOTTERS)),
        ("grpc", Value::Table(table([("address", text("/run/containerd/containerd.sock"))]))),
    ])
}

/// The runtimes table is always there: without `runtime_type` every pod fails
/// on 1.x, and without the table 2.x would drop the snapshotter while migrating.
fn runc(decision: &Decision) -> Value {
    let options = table([("SystemdCgroup", Value::Boolean(decision.systemd_cgroup))]);
    let runc = table([("runtime_type", text("io.containerd.runc.v2")), ("options", Value::Table(options))]);
    Value::Table(table([("runc", Value::Table(runc))]))
}

fn registry() -> Value {
    Value::Table(table([("config_path", text(paths::CONTAINERD_CERTS))]))
}

fn schema_2(decision: &Decision, sandbox: Option<&ImageRef>) -> Table {
    let containerd = table([
        ("snapshotter", text("overlayfs")),
        ("default_runtime_name", text("runc")),
        ("discard_unpacked_layers", Value::Boolean(false)),
        ("disable_snapshot_annotations", Value::Boolean(true)),
        ("runtimes", runc(decision)),
    ]);
    let bin_dir = decision.cni_bin_dirs.first().map_or("/opt/cni/bin", String::as_str);
    let cni = table([("bin_dir", text(bin_dir)), ("conf_dir", text(paths::CNI_DIR))]);
    let mut cri = table([
        ("max_concurrent_downloads", Value::Integer(3)),
        ("containerd", Value::Table(containerd)),
        ("cni", Value::Table(cni)),
        ("registry", registry()),
    ]);
    if let Some(image) = sandbox {
        cri.insert("sandbox_image".into(), text(image.as_str()));
    }
    if decision.version >= (1, 7, 0) {
        cri.insert("image_pull_progress_timeout".into(), text("10m"));
    }
    if decision.version >= (1, 7, 14) {
        // Unpacked layers are not durable otherwise (containerd#9401).
        cri.insert("image_pull_with_sync_fs".into(), Value::Boolean(true));
    }
    table([(CRI, Value::Table(cri))])
}

fn schema_3(decision: &Decision, sandbox: Option<&ImageRef>) -> Table {
    let mut images = table([
        ("snapshotter", text("overlayfs")),
        ("disable_snapshot_annotations", Value::Boolean(true)),
        ("discard_unpacked_layers", Value::Boolean(false)),
        ("max_concurrent_downloads", Value::Integer(3)),
        ("image_pull_progress_timeout", text("10m")),
        ("image_pull_with_sync_fs", Value::Boolean(true)),
        ("registry", registry()),
    ]);
    if decision.version >= (2, 1, 0) {
        // Timeout and sync work on the local pull path only.
        images.insert("use_local_image_pull".into(), Value::Boolean(true));
    }
    if let Some(image) = sandbox {
        images.insert("pinned_images".into(), Value::Table(table([("sandbox", text(image.as_str()))])));
    }
    let containerd = table([("default_runtime_name", text("runc")), ("runtimes", runc(decision))]);
    let runtime = table([("containerd", Value::Table(containerd)), ("cni", Value::Table(cni_3(decision)))]);
    table([(IMAGES, Value::Table(images)), (RUNTIME, Value::Table(runtime))])
}

/// 2.1 made `bin_dir` a list under another name; setting both is an error.
fn cni_3(decision: &Decision) -> Table {
    let first = decision.cni_bin_dirs.first().map_or("/opt/cni/bin", String::as_str);
    let dirs = if decision.version >= (2, 1, 0) {
        ("bin_dirs", list(decision.cni_bin_dirs.iter().cloned()))
    } else {
        ("bin_dir", text(first))
    };
    table([dirs, ("conf_dir", text(paths::CNI_DIR))])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn decision(version: (u32, u32, u32)) -> Decision {
        Decision {
            binary: "/usr/bin/containerd".into(),
            version,
            systemd_cgroup: true,
            cgroup_v1: false,
            cni_bin_dirs: vec!["/usr/lib/cni".into()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn sync_is_asked_for_only_where_it_exists() {
        assert!(
            !schema_2(&decision((1, 6, 20)), None)[CRI]
                .as_table()
                .unwrap()
                .contains_key("image_pull_with_sync_fs")
        );
        assert!(
            schema_2(&decision((1, 7, 24)), None)[CRI]
                .as_table()
                .unwrap()
                .contains_key("image_pull_with_sync_fs")
        );
    }

    #[test]
    fn bin_dir_is_a_list_from_2_1_on() {
        assert!(cni_3(&decision((2, 0, 4))).contains_key("bin_dir"));
        assert!(cni_3(&decision((2, 1, 0))).contains_key("bin_dirs"));
    }
}
