//! Which key came with which containerd.
//!
//! Owns one row for every key that we may write, with the first version that
//! reads it and where that was read. An older containerd drops such a key in
//! silence, and the comparison with its `config dump` would then find it
//! missing: a key is written only to those that know it.

use super::Version;

/// One key of containerd's file, as a path; plugin ids hold dots, so parts are
/// joined by `/`.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key.
    pub path: &'static str,
    /// First version that reads it in this schema.
    pub since: Version,
    /// First version that reads it no more, or only with a warning.
    pub until: Option<Version>,
    /// File of that version in which it stands (containerd: path).
    pub source: &'static str,
}

const fn key(path: &'static str, since: Version, source: &'static str) -> Key {
    Key { path, since, until: None, source }
}

const OLDEST: Version = (1, 4, 0);
const SECOND: Version = (2, 0, 0);

/// Keys of schema 2, for every 1.x.
pub const SCHEMA_2: &[Key] = &[
    key("version", OLDEST, "services/server/config/config.go"),
    key("root", OLDEST, "services/server/config/config.go"),
    key("state", OLDEST, "services/server/config/config.go"),
    key("oom_score", OLDEST, "services/server/config/config.go"),
    key("required_plugins", OLDEST, "services/server/config/config.go"),
    key("disabled_plugins", OLDEST, "services/server/config/config.go"),
    key("grpc/address", OLDEST, "services/server/config/config.go"),
    key("timeouts/io.containerd.timeout.bolt.open", (1, 6, 0), "pkg/timeout, metadata/plugin"),
    key("plugins/io.containerd.grpc.v1.cri/sandbox_image", OLDEST, "pkg/cri/config/config.go"),
    key("plugins/io.containerd.grpc.v1.cri/max_concurrent_downloads", OLDEST, "pkg/cri/config/config.go"),
    key(
        "plugins/io.containerd.grpc.v1.cri/image_pull_progress_timeout",
        (1, 7, 0),
        "pkg/cri/config/config.go",
    ),
    key("plugins/io.containerd.grpc.v1.cri/image_pull_with_sync_fs", (1, 7, 14), "pkg/cri/config/config.go"),
    key("plugins/io.containerd.grpc.v1.cri/containerd/snapshotter", OLDEST, "pkg/cri/config/config.go"),
    key(
        "plugins/io.containerd.grpc.v1.cri/containerd/default_runtime_name",
        OLDEST,
        "pkg/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.grpc.v1.cri/containerd/discard_unpacked_layers",
        OLDEST,
        "pkg/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.grpc.v1.cri/containerd/disable_snapshot_annotations",
        OLDEST,
        "pkg/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.grpc.v1.cri/containerd/runtimes/runc/runtime_type",
        OLDEST,
        "pkg/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.grpc.v1.cri/containerd/runtimes/runc/options/SystemdCgroup",
        OLDEST,
        "runtime/v2/runc/options/oci.proto",
    ),
    key(
        "plugins/io.containerd.grpc.v1.cri/containerd/runtimes/runc/options/BinaryName",
        OLDEST,
        "runtime/v2/runc/options/oci.proto",
    ),
    key("plugins/io.containerd.grpc.v1.cri/cni/bin_dir", OLDEST, "pkg/cri/config/config.go"),
    key("plugins/io.containerd.grpc.v1.cri/cni/conf_dir", OLDEST, "pkg/cri/config/config.go"),
    key("plugins/io.containerd.grpc.v1.cri/registry/config_path", (1, 5, 0), "pkg/cri/config/config.go"),
    key("plugins/io.containerd.service.v1.diff-service/sync_fs", (1, 7, 26), "services/diff/local.go"),
    key("plugins/io.containerd.snapshotter.v1.devmapper/root_path", OLDEST, "snapshots/devmapper/config.go"),
    key("plugins/io.containerd.snapshotter.v1.devmapper/pool_name", OLDEST, "snapshots/devmapper/config.go"),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/base_image_size",
        OLDEST,
        "snapshots/devmapper/config.go",
    ),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/async_remove",
        OLDEST,
        "snapshots/devmapper/config.go",
    ),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/discard_blocks",
        (1, 6, 0),
        "snapshots/devmapper/config.go",
    ),
    key("plugins/io.containerd.snapshotter.v1.devmapper/fs_type", (1, 6, 0), "snapshots/devmapper/config.go"),
    key("plugins/io.containerd.transfer.v1.local/unpack_config", (1, 7, 0), "pkg/transfer/plugin.go"),
];

/// Keys of schema 3, for every 2.x.
pub const SCHEMA_3: &[Key] = &[
    key("version", SECOND, "cmd/containerd/server/config/config.go"),
    key("root", SECOND, "cmd/containerd/server/config/config.go"),
    key("state", SECOND, "cmd/containerd/server/config/config.go"),
    key("oom_score", SECOND, "cmd/containerd/server/config/config.go"),
    key("required_plugins", SECOND, "cmd/containerd/server/config/config.go"),
    key("disabled_plugins", SECOND, "cmd/containerd/server/config/config.go"),
    key("grpc/address", SECOND, "cmd/containerd/server/config/config.go"),
    key("timeouts/io.containerd.timeout.bolt.open", SECOND, "plugins/metadata/plugin.go"),
    key("plugins/io.containerd.cri.v1.images/snapshotter", SECOND, "internal/cri/config/config.go"),
    key(
        "plugins/io.containerd.cri.v1.images/disable_snapshot_annotations",
        SECOND,
        "internal/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.cri.v1.images/discard_unpacked_layers",
        SECOND,
        "internal/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.cri.v1.images/max_concurrent_downloads",
        SECOND,
        "internal/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.cri.v1.images/image_pull_progress_timeout",
        SECOND,
        "internal/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.cri.v1.images/image_pull_with_sync_fs",
        SECOND,
        "internal/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.cri.v1.images/use_local_image_pull",
        (2, 1, 0),
        "internal/cri/config/config.go",
    ),
    key("plugins/io.containerd.cri.v1.images/pinned_images/sandbox", SECOND, "internal/cri/config/config.go"),
    key("plugins/io.containerd.cri.v1.images/registry/config_path", SECOND, "internal/cri/config/config.go"),
    key(
        "plugins/io.containerd.cri.v1.runtime/containerd/default_runtime_name",
        SECOND,
        "internal/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.cri.v1.runtime/containerd/runtimes/runc/runtime_type",
        SECOND,
        "internal/cri/config/config.go",
    ),
    key(
        "plugins/io.containerd.cri.v1.runtime/containerd/runtimes/runc/options/SystemdCgroup",
        SECOND,
        "api/types/runc/options/oci.proto",
    ),
    key(
        "plugins/io.containerd.cri.v1.runtime/containerd/runtimes/runc/options/BinaryName",
        SECOND,
        "api/types/runc/options/oci.proto",
    ),
    Key {
        path: "plugins/io.containerd.cri.v1.runtime/cni/bin_dir",
        since: SECOND,
        // Deprecated from there on; beside `bin_dirs` it is an error.
        until: Some((2, 1, 0)),
        source: "internal/cri/config/config.go",
    },
    key("plugins/io.containerd.cri.v1.runtime/cni/bin_dirs", (2, 1, 0), "internal/cri/config/config.go"),
    key("plugins/io.containerd.cri.v1.runtime/cni/conf_dir", SECOND, "internal/cri/config/config.go"),
    key("plugins/io.containerd.service.v1.diff-service/sync_fs", SECOND, "plugins/services/diff/local.go"),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/root_path",
        SECOND,
        "plugins/snapshots/devmapper/config.go",
    ),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/pool_name",
        SECOND,
        "plugins/snapshots/devmapper/config.go",
    ),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/base_image_size",
        SECOND,
        "plugins/snapshots/devmapper/config.go",
    ),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/async_remove",
        SECOND,
        "plugins/snapshots/devmapper/config.go",
    ),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/discard_blocks",
        SECOND,
        "plugins/snapshots/devmapper/config.go",
    ),
    key(
        "plugins/io.containerd.snapshotter.v1.devmapper/fs_type",
        SECOND,
        "plugins/snapshots/devmapper/config.go",
    ),
    key("plugins/io.containerd.transfer.v1.local/unpack_config", SECOND, "plugins/transfer/plugin.go"),
];

/// The rows for the schema that `version` is given.
#[must_use]
pub fn of(version: Version) -> &'static [Key] {
    if version.0 == 1 { SCHEMA_2 } else { SCHEMA_3 }
}

/// Whether `version` reads the key at `path`.
#[must_use]
pub fn knows(version: Version, path: &str) -> bool {
    let fits = |key: &&Key| key.path == path && version >= key.since;
    of(version).iter().filter(fits).any(|key| key.until.is_none_or(|until| version < until))
}
