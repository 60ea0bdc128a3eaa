//! Golden plans: one folder per case below `tests/plan/`.
//!
//! | in a case | what |
//! |---|---|
//! | `root/` | the host as a file tree, observed by the program's own `observe` |
//! | `assignment.json` or `assignment.toml` | what it shall be |
//! | `config.toml` | its own settings, when there are any |
//! | `case.toml` | see [`Case`]; `after` names a case whose plan was carried out before, `root/` then lies over it |
//! | `expected/` | each file that the plan creates or replaces, byte for byte, and `PLAN.txt`, or `WAITING.txt`, or `REFUSED.txt` |
//!
//! `EDGE_GOLDEN=update cargo test --test plan` writes `expected/` anew (`EDGE_GOLDEN=67-`
//! that of the cases which begin so); the diff is then for a person to read.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and works on its own files"
)]

#[path = "common/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edge_bootstrap::facts::HostFacts;
use edge_bootstrap::facts::runtime::{Joined, PinnedNic};
use edge_bootstrap::facts::upgrade::{Attempt, Progress};
use edge_bootstrap::plan::diff::{self, Changes, UnitChange};
use edge_bootstrap::plan::{self, Inputs, Local, Plan, WaitingOn};
use edge_bootstrap::role::{self, Assignment};
use edge_bootstrap::upgrade;
use edge_bootstrap::wire::assignment::Payload;
use edge_bootstrap::wire::secret::sha256_hex;
use tree::{TestHost, files_below};

/// `case.toml`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is special, for the reader.
    says: String,
    /// The case whose plan was carried out on this host before.
    after: Option<String>,
    /// Whether the service confirmed the assignment in this boot.
    #[serde(default)]
    confirmed: bool,
    /// The case is about the snapshotter: its reason and inputs are expected too.
    #[serde(default)]
    shows_storage: bool,
    /// Unit states, `active enabled`.
    #[serde(default)]
    units: BTreeMap<String, String>,
    /// Paths that are gone.
    #[serde(default)]
    remove: Vec<String>,
    /// The host has been READY as this.
    joined: Option<Joined>,
    /// The interface that carried the node IP when the host was last healthy.
    nic: Option<PinnedNic>,
    /// The assigned version was tried before, and this became of it.
    tried: Option<Progress>,
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan")
}

fn names() -> Vec<String> {
    let entries =
        std::fs::read_dir(cases()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn case(name: &str) -> Case {
    let path = cases().join(name).join("case.toml");
    toml::from_str(&std::fs::read_to_string(&path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Host, assignment and settings of a case, ready to be planned.
struct Scene {
    host: TestHost,
    facts: HostFacts,
    assignment: Assignment,
    local: Local,
    confirmed: bool,
    shows_storage: bool,
}

impl Scene {
    async fn of(name: &str) -> Self {
        let case = case(name);
        assert!(!case.says.is_empty());
        let mut host = match &case.after {
            Some(before) => Box::pin(Self::of(before)).await.carried_out(),
            None => TestHost::new(),
        };
        host.overlay(&cases().join(name).join("root"));
        case.remove.iter().for_each(|path| host.remove(path));
        case.units.iter().for_each(|(unit, words)| host.set_unit(unit, words));
        case.joined.into_iter().for_each(|joined| host.join(joined));
        case.nic.into_iter().for_each(|nic| host.pin_nic(nic));
        if let Ok(text) = std::fs::read(cases().join(name).join("config.toml")) {
            std::fs::create_dir_all(host.root().path("/etc/edge-bootstrap")).unwrap();
            std::fs::write(host.root().path("/etc/edge-bootstrap/config.toml"), text).unwrap();
        }
        let mut facts = host.facts().await;
        let local = host.local();
        if let Some(state) = case.tried {
            let assignment = assignment(name);
            let inputs = Inputs { facts: &facts, assignment: &assignment, local: &local, confirmed: false };
            let planned = plan::upgrade::decide(inputs, assignment.duty.as_ref().unwrap()).unwrap();
            let attempt = planned.attempt(&facts, "2026-11-21T10:00:00Z".to_owned());
            let reason = Some("its unit has failed".to_owned());
            upgrade::store(&host.root(), &Attempt { state, reason, ..attempt }).unwrap();
            facts = host.facts().await;
        }
        Self {
            host,
            facts,
            local,
            assignment: assignment(name),
            confirmed: case.confirmed,
            shows_storage: case.shows_storage,
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            facts: &self.facts,
            assignment: &self.assignment,
            local: &self.local,
            confirmed: self.confirmed,
        }
    }

    fn carried_out(mut self) -> TestHost {
        let plan = plan::plan(self.inputs()).unwrap();
        self.host.carry_out(&plan);
        self.host
    }
}

fn assignment(name: &str) -> Assignment {
    let folder = cases().join(name);
    if let Ok(bytes) = std::fs::read(folder.join("assignment.json")) {
        return role::parse_payload(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let text = std::fs::read_to_string(folder.join("assignment.toml")).unwrap();
    let payload: Payload = toml::from_str(&text).unwrap();
    role::validate(&payload, sha256_hex(text.as_bytes())).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Files below `expected/`, by path.
type Expected = BTreeMap<String, Vec<u8>>;

fn result(scene: &Scene) -> Expected {
    let refused = |words: String| Expected::from([("REFUSED.txt".to_owned(), words.into_bytes())]);
    let plan = match plan::plan(scene.inputs()) {
        Ok(plan) => plan,
        Err(WaitingOn::Refused(refusal)) => return refused(format!("{refusal}\n")),
        Err(waiting) => {
            let words = format!("{waiting}\nholds k3s: {}\n", waiting.holds_k3s());
            return Expected::from([("WAITING.txt".to_owned(), words.into_bytes())]);
        }
    };
    let changes = diff::changes(&plan, &scene.facts);
    match plan::check(plan, scene.inputs()) {
        Ok(checked) => {
            let mut tree = tree_of(checked.plan(), &changes);
            if scene.shows_storage {
                tree.insert("STORAGE.txt".to_owned(), storage(checked.plan(), &changes).into_bytes());
            }
            tree
        }
        Err(broken) => refused(broken.iter().map(|refusal| format!("{refusal}\n")).collect()),
    }
}

fn tree_of(plan: &Plan, changes: &Changes) -> Expected {
    let changed = |path: &str| changes.files.iter().any(|change| change.path == path);
    let mut tree = Expected::from([("PLAN.txt".to_owned(), summary(plan, changes).into_bytes())]);
    for file in plan.files.iter().filter(|file| changed(&file.path)) {
        tree.insert(file.path.trim_start_matches('/').to_owned(), file.bytes.clone());
        let shown = file.shown.as_ref().filter(|shown| shown.as_bytes() != file.bytes);
        if let Some(shown) = shown {
            tree.insert(format!("shown{}", file.path), shown.clone().into_bytes());
        }
    }
    tree
}

/// The plan in a form that a person reads in one look.
fn summary(plan: &Plan, changes: &Changes) -> String {
    let mut out = String::new();
    let departure = plan.departure.iter();
    section(
        &mut out,
        "leaves etcd",
        departure.flat_map(|it| std::iter::once(it.reason.clone()).chain(changes.leaves.iter().cloned())),
    );
    let retirement = plan.retirement.iter();
    section(
        &mut out,
        "leaves the old life",
        retirement.flat_map(|it| std::iter::once(it.reason.clone()).chain(changes.leaves.iter().cloned())),
    );
    let quarantines = plan.quarantines.iter();
    section(
        &mut out,
        "moved aside",
        quarantines.map(|it| format!("{} while {} is down: {}", it.path, it.needs_stopped, it.reason)),
    );
    section(
        &mut out,
        "put back",
        plan.restores.iter().map(|it| format!("{} from {:?}: {}", it.path, it.from, it.reason)),
    );
    section(
        &mut out,
        "removed as empty",
        plan.empty.iter().flat_map(|it| std::iter::once(&it.reason).chain(&it.paths)).cloned(),
    );
    section(&mut out, "identity", plan.identity.iter().map(|identity| {
        let new = if changes.identity { "pin" } else { "keep" };
        let joined = identity.joined.as_ref().map_or("assigned".to_owned(), |joined| format!("joined {joined:?}"));
        format!(
            "{new} {} {} {}, site {}, cluster {}, epoch {}, init started {:?}, manages hostname {}, {joined}, {:?}",
            identity.role, identity.node_name, identity.node_ip, identity.site, identity.cluster, identity.epoch,
            identity.init_started, identity.manage_hostname, identity.fingerprint
        )
    }));
    section(
        &mut out,
        "generation",
        plan.generation.iter().map(|generation| {
            format!("{}{}", generation.number, if generation.exists { ", in force" } else { ", new" })
        }),
    );
    let renamed = changes.hostname.as_deref().unwrap_or("right already");
    section(
        &mut out,
        "hostname",
        plan.hostname.iter().map(|name| format!("{}: {} ({renamed})", name.name, name.reason)),
    );
    let added = if changes.address.is_some() { "add" } else { "is there" };
    section(
        &mut out,
        "address",
        plan.address.iter().map(|it| format!("{added} {} on {}: {}", it.cidr, it.interface, it.reason)),
    );
    section(&mut out, "upgrade", changes.upgrade.iter().cloned());
    let staged = plan.upgrade.iter().flat_map(|upgrade| &upgrade.artifact);
    section(
        &mut out,
        "artifacts",
        plan.artifacts.iter().chain(staged).map(|artifact| {
            let urls: Vec<&str> = artifact.urls.iter().map(|url| url.as_str()).collect();
            format!(
                "{} -> {} from {} sha256 {}",
                artifact.title,
                artifact.path,
                urls.join(" "),
                artifact.sha256
            )
        }),
    );
    section(
        &mut out,
        "files",
        plan.files.iter().map(|file| {
            let action = changes
                .files
                .iter()
                .find(|change| change.path == file.path)
                .map_or("same", |change| change.action);
            format!("{action:7} {:04o} {}: {}", file.mode, file.path, file.reason)
        }),
    );
    section(
        &mut out,
        "links",
        plan.links.iter().map(|link| {
            let line = format!("{} -> {}", link.path, link.target);
            let action = if changes.links.contains(&line) { "set " } else { "same" };
            format!("{action} {line}: {}", link.reason)
        }),
    );
    section(
        &mut out,
        "removals",
        plan.removals.iter().map(|removal| format!("{}: {}", removal.path, removal.reason)),
    );
    section(
        &mut out,
        "units",
        plan.units.iter().map(|unit| {
            let boot = if unit.manage_boot { ", also at boot" } else { "" };
            let restart = unit.restart.iter().map(|reason| format!(", restart ({reason})"));
            let pending =
                unit.restart_pending.iter().map(|reason| format!(", restart waits for the Lease ({reason})"));
            format!(
                "{} {:?}{boot}{}: {}",
                unit.name,
                unit.wanted,
                restart.chain(pending).collect::<String>(),
                unit.reason
            )
        }),
    );
    let verb = |change: &UnitChange| format!("{} {}", change.action, change.name);
    section(&mut out, "verbs", changes.units.iter().map(verb));
    section(&mut out, "pending", changes.pending.iter().map(verb));
    section(&mut out, "notes", plan.notes.iter().cloned());
    if changes.is_empty() {
        out += "nothing to change\n";
    }
    out
}

fn storage(plan: &Plan, changes: &Changes) -> String {
    let mut out = String::new();
    let planned = plan.storage.as_ref().unwrap();
    section(&mut out, "changes", changes.storage.iter().cloned());
    section(
        &mut out,
        "chosen",
        std::iter::once(format!("{}: {}", planned.choice.snapshotter, planned.reason)),
    );
    section(&mut out, "looked at", planned.inputs.iter().cloned());
    section(&mut out, "notes", plan.notes.iter().filter(|note| note.starts_with("EB-")).cloned());
    out
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.map(|line| format!("  {line}\n")).collect();
    if !lines.is_empty() {
        *out += &format!("{title}\n{}", lines.concat());
    }
}

fn read_expected(name: &str) -> Expected {
    let files = files_below(&cases().join(name).join("expected"));
    files.into_iter().map(|(path, real)| (path, std::fs::read(real).unwrap())).collect()
}

fn update(name: &str, result: &Expected) {
    let folder = cases().join(name).join("expected");
    let _ = std::fs::remove_dir_all(&folder);
    for (path, bytes) in result {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Every difference, for people.
fn differences(name: &str, expected: &Expected, result: &Expected) -> String {
    let paths: std::collections::BTreeSet<&String> = expected.keys().chain(result.keys()).collect();
    let mut out = String::new();
    for path in paths.into_iter().filter(|path| expected.get(*path) != result.get(*path)) {
        let text = |tree: &Expected| {
            tree.get(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
        };
        let diff = diffy::DiffOptions::new()
            .set_original_filename("expected")
            .set_modified_filename("planned")
            .create_patch(&text(expected), &text(result))
            .to_string();
        out += &match (expected.contains_key(path), result.contains_key(path)) {
            (true, false) => format!("{name}: {path} is expected and not planned\n"),
            (false, _) => format!("{name}: {path} is planned and not expected\n{diff}"),
            _ => format!("{name}: {path}\n{diff}"),
        };
    }
    out
}

#[tokio::test]
async fn every_case_gives_the_plan_that_was_reviewed() {
    let names = names();
    assert!(names.len() >= 25, "{} cases", names.len());
    let golden = std::env::var("EDGE_GOLDEN").unwrap_or_default();
    let updating = |name: &str| golden == "update" || (!golden.is_empty() && name.starts_with(&golden));
    let mut wrong = String::new();
    for name in &names {
        let result = result(&Scene::of(name).await);
        if updating(name) {
            update(name, &result);
        }
        wrong += &differences(name, &read_expected(name), &result);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn a_plan_that_was_carried_out_changes_nothing_more() {
    for name in &names() {
        let mut scene = Scene::of(name).await;
        let Ok(mut plan) = plan::plan(scene.inputs()) else { continue };
        if plan::check(plan.clone(), scene.inputs()).is_err() {
            continue;
        }
        scene.host.carry_out(&plan);
        scene.facts = scene.host.facts().await;
        // What a server that leaves etcd does next is another plan.
        while plan.departure.is_some() {
            plan = plan::plan(scene.inputs()).unwrap();
            scene.host.carry_out(&plan);
            scene.facts = scene.host.facts().await;
        }
        let again = plan::plan(scene.inputs()).unwrap();
        let changes = diff::changes(&again, &scene.facts);
        assert!(changes.is_empty() && changes.pending.is_empty(), "{name}: {changes:#?}");
    }
}

#[tokio::test]
async fn no_secret_of_a_case_is_shown() {
    for name in &names() {
        let scene = Scene::of(name).await;
        let Ok(plan) = plan::plan(scene.inputs()) else { continue };
        let changes = diff::changes(&plan, &scene.facts);
        let shown = format!(
            "{}{}{}{plan:?}",
            plan::to_json(&plan),
            serde_json::to_string(&changes).unwrap(),
            summary(&plan, &changes)
        );
        assert!(!shown.contains("-canary"), "{name}: {shown}");
    }
}
