//! What each answer of containerd means. Pure.
//!
//! Owns which plugins matter and the words for what is wrong, each with what to
//! do next.

use super::super::State;
use super::super::probe::Found;
use crate::containerd::{CallError, Condition, CriStatus, Plugin, PluginState};
use crate::error::Chain;
use crate::paths::{CNI_DIR, CONTAINERD_SOCKET};

/// Names of the probes, from cause to effect.
pub(super) const CONTAINERD: &str = "containerd";
pub(super) const PLUGINS: &str = "containerd-plugins";
pub(super) const SNAPSHOTS: &str = "snapshots";
pub(super) const RUNTIME: &str = "runtime";
pub(super) const CNI: &str = "cni";
pub(super) const ALL: [&str; 5] = [CONTAINERD, PLUGINS, SNAPSHOTS, RUNTIME, CNI];

const SNAPSHOTTER_KIND: &str = "io.containerd.snapshotter.v1";
/// Longest text of containerd's that is told, in characters.
const MAX_WORDS: usize = 300;
const JOURNAL: &str = "read `journalctl -u containerd`";

/// It did not tell its version.
pub(super) fn unreached(error: &CallError) -> Found {
    let words = match error.rpc() {
        Some(error) if error.is_absent() => format!(
            "{CONTAINERD_SOCKET} is not there: containerd has not come so far since the boot; {JOURNAL}"
        ),
        Some(error) if error.is_refused() => format!(
            "nobody listens on {CONTAINERD_SOCKET}: it is left over from a containerd that died; {JOURNAL}"
        ),
        Some(error) if error.is_late() => format!(
            "containerd takes connections and answers nothing within 2 s: it is stopped, or waits for its \
             database, which another containerd on the same directory would hold; {JOURNAL}"
        ),
        _ => format!("{}; {JOURNAL}", short(&Chain(error).to_string())),
    };
    (State::Failed, words)
}

/// A call of a later tier brought nothing.
fn unanswered(error: &CallError) -> Found {
    (State::Failed, format!("{}; {JOURNAL}", short(&Chain(error).to_string())))
}

/// Plugins that the CRI stands on, cause before effect.
pub(super) fn plugins(answer: Result<Vec<Plugin>, CallError>, snapshotter: &str, version: &str) -> Found {
    let plugins = match answer {
        Ok(plugins) => plugins,
        Err(error) => return unanswered(&error),
    };
    let wanted = wanted(snapshotter, is_second(version));
    let mut wrong: Vec<String> = wanted.iter().filter_map(|(kind, id)| trouble(&plugins, kind, id)).collect();
    if is_second(version) {
        wrong.extend(foreign_snapshotters(&plugins, snapshotter));
    }
    if wrong.is_empty() {
        return (State::Ok, format!("{} plugins, those that are needed run", plugins.len()));
    }
    let next = "plugins are started once: when the cause is gone, run `systemctl restart containerd`";
    (State::Failed, format!("{}; {next}", wrong.join("; ")))
}

/// From 2.0 on the CRI is three plugins (containerd: `docs/containerd-2.0.md`).
fn wanted(snapshotter: &str, is_second: bool) -> Vec<(&'static str, &str)> {
    let mut wanted = vec![
        ("io.containerd.content.v1", "content"),
        (SNAPSHOTTER_KIND, snapshotter),
        ("io.containerd.metadata.v1", "bolt"),
    ];
    if is_second {
        wanted.extend([("io.containerd.cri.v1", "images"), ("io.containerd.cri.v1", "runtime")]);
    }
    wanted.push(("io.containerd.grpc.v1", "cri"));
    wanted
}

fn is_second(version: &str) -> bool {
    number(version).is_none_or(|(major, _, _)| major >= 2)
}

/// `1.7.24~ds1`, `v2.1.9`, `2.1.9+unknown`: the three numbers.
pub(super) fn number(version: &str) -> Option<(u32, u32, u32)> {
    let plain = version.trim().trim_start_matches('v');
    let mut parts = plain.splitn(3, '.');
    let mut next = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..end)?.parse().ok()
    };
    Some((next()?, next()?, next()?))
}

/// What is wrong with a plugin that is needed; `None` when it runs.
fn trouble(plugins: &[Plugin], kind: &str, id: &str) -> Option<String> {
    let plugin = plugins.iter().find(|plugin| plugin.kind == kind && plugin.id == id);
    match plugin.map(|plugin| &plugin.state) {
        Some(PluginState::Ok) => None,
        Some(PluginState::Failed(why)) => Some(format!("plugin {kind}.{id} failed: {}", short(why))),
        Some(PluginState::Skipped(why)) => Some(format!("plugin {kind}.{id} was skipped: {}", short(why))),
        None => {
            Some(format!("plugin {kind}.{id} is not there: it is disabled, or not part of this containerd"))
        }
    }
}

/// From 2.0 on any snapshotter that fails takes the metadata and the CRI with
/// it (containerd: `plugins/metadata/plugin.go`); before, only its own users.
fn foreign_snapshotters(plugins: &[Plugin], chosen: &str) -> Vec<String> {
    let others = plugins.iter().filter(|plugin| plugin.kind == SNAPSHOTTER_KIND && plugin.id != chosen);
    let failed = others.filter(|plugin| matches!(plugin.state, PluginState::Failed(_)));
    failed.filter_map(|plugin| trouble(plugins, SNAPSHOTTER_KIND, &plugin.id)).collect()
}

/// Whether the snapshotter's own database opens: it is opened at the first use.
pub(super) fn snapshots(answer: Result<u64, CallError>, snapshotter: &str) -> Found {
    match answer {
        Ok(count) => (State::Ok, format!("{snapshotter} has {count} snapshots")),
        Err(error) => {
            let (state, words) = unanswered(&error);
            (state, format!("{snapshotter} cannot tell its snapshots: {words}"))
        }
    }
}

/// `RuntimeReady` and `NetworkReady`.
pub(super) fn cri(answer: Result<CriStatus, CallError>) -> [Found; 2] {
    match answer {
        Ok(status) => [runtime(&status.runtime), cni(&status.network)],
        Err(error) if error.rpc().is_some_and(super::GrpcError::is_unimplemented) => {
            let words = "containerd serves no CRI: its plugin failed or is disabled";
            [(State::Failed, format!("{words}; {JOURNAL}")), (State::Unknown, words.to_owned())]
        }
        Err(error) => [unanswered(&error), (State::Unknown, "the CRI did not answer".to_owned())],
    }
}

fn runtime(condition: &Condition) -> Found {
    if condition.is_true {
        return (State::Ok, "RuntimeReady".to_owned());
    }
    (State::Failed, format!("not RuntimeReady: {}; {JOURNAL}", short(&condition.why)))
}

/// Without a network the node is not Ready, while what runs goes on.
fn cni(condition: &Condition) -> Found {
    if condition.is_true {
        return (State::Ok, "NetworkReady".to_owned());
    }
    let next = format!(
        "see that {CNI_DIR} holds a valid network, and that containerd has not lost that directory: \
         it takes up one that was made anew only at its own restart"
    );
    (State::Degraded, format!("not NetworkReady: {}; {next}", short(&condition.why)))
}

fn short(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MAX_WORDS {
        return line;
    }
    line.chars().take(MAX_WORDS).chain(" …".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(kind: &str, id: &str, state: PluginState) -> Plugin {
        Plugin { kind: kind.into(), id: id.into(), state }
    }

    fn all(second: bool) -> Vec<Plugin> {
        wanted("overlayfs", second).iter().map(|(kind, id)| plugin(kind, id, PluginState::Ok)).collect()
    }

    fn with(second: bool, id: &str, state: PluginState) -> Vec<Plugin> {
        let mut plugins = all(second);
        plugins.retain(|plugin| plugin.id != id);
        plugins.push(plugin(SNAPSHOTTER_KIND, id, state));
        plugins
    }

    fn devmapper() -> PluginState {
        PluginState::Failed("devmapper not configured".into())
    }

    #[test]
    fn on_1_x_only_the_chosen_snapshotter_matters_and_on_2_x_any_that_fails() {
        let found =
            |second, id: &str, state, version| plugins(Ok(with(second, id, state)), "overlayfs", version);
        assert_eq!(found(false, "devmapper", devmapper(), "1.6.20~ds1").0, State::Ok);
        let (state, words) = found(true, "devmapper", devmapper(), "2.1.9+unknown");
        assert_eq!(state, State::Failed);
        assert!(
            words.starts_with(
                "plugin io.containerd.snapshotter.v1.devmapper failed: devmapper not configured; "
            ),
            "{words}"
        );
        let skipped = PluginState::Skipped("no such module: skip plugin".into());
        assert_eq!(found(true, "devmapper", skipped, "v2.3.4").0, State::Ok);
        let (state, words) = found(false, "overlayfs", devmapper(), "1.7.24~ds1");
        assert!(state == State::Failed && words.contains("overlayfs failed"), "{words}");
    }

    #[test]
    fn a_plugin_that_is_not_there_or_skipped_is_told() {
        let mut without = all(false);
        without.retain(|plugin| plugin.id != "cri");
        let (state, words) = plugins(Ok(without), "overlayfs", "1.6.20");
        assert!(
            state == State::Failed && words.starts_with("plugin io.containerd.grpc.v1.cri is not there"),
            "{words}"
        );
        let skipped = PluginState::Skipped("aufs: skip plugin".into());
        let (state, words) = plugins(Ok(with(false, "overlayfs", skipped)), "overlayfs", "1.6.20");
        assert!(state == State::Failed && words.contains("overlayfs was skipped: aufs"), "{words}");
        // 1.x has no plugins of the second kind, and needs none.
        assert_eq!(plugins(Ok(all(false)), "overlayfs", "1.7.24").0, State::Ok);
        assert_eq!(plugins(Ok(all(false)), "overlayfs", "2.0.0").0, State::Failed);
    }

    #[test]
    fn versions_of_packages_are_read() {
        let cases = [
            ("1.6.20~ds1", Some((1, 6, 20))),
            ("v2.3.4", Some((2, 3, 4))),
            ("2.1.9+unknown", Some((2, 1, 9))),
            ("2.1.0-rc.1", Some((2, 1, 0))),
            ("", None),
            ("unknown", None),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn long_words_are_cut_and_lines_joined() {
        let words = short(&format!("a\n b {}", "x".repeat(400)));
        assert!(
            words.starts_with("a b xxx") && words.ends_with('…') && words.chars().count() == MAX_WORDS + 2
        );
    }
}
