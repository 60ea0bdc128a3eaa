//! The programs under test: built from this workspace, or given by the person.
//!
//! Owns the calls of cargo. Never builds the same thing twice in one process,
//! and builds into the target directory from which it runs itself.
//!
//! Variables: `K3S_BIN` names a real k3s, `EDGE_DEB` a package that is already built.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cmd::Cmd;
use crate::{root, say};

/// How programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Fast to build, with debug assertions.
    Dev,
    /// As shipped; some minutes on a small machine.
    Release,
}

impl Profile {
    fn flag(self) -> &'static str {
        match self {
            Self::Dev => "--profile=dev",
            Self::Release => "--profile=release",
        }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The k3s that hosts run.
#[derive(Debug, Clone)]
pub struct K3s {
    /// The file on the machine.
    pub path: PathBuf,
    /// False for the stand-in: then nothing may be said about k3s itself.
    pub real: bool,
}

/// What was built so far; held while building, so that threads wait for each other.
static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);

/// The workspace's root directory.
#[must_use]
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// The k3s that `K3S_BIN` names; without it the stand-in, which is said aloud.
///
/// # Errors
/// `K3S_BIN` names no file, or the stand-in does not compile.
pub fn k3s() -> Result<K3s> {
    if let Some(path) = std::env::var_os("K3S_BIN").map(PathBuf::from) {
        let path = path.canonicalize().with_context(|| format!("K3S_BIN={}", path.display()))?;
        return Ok(K3s { path, real: true });
    }
    say("K3S_BIN is not set: hosts run the stand-in, not a real k3s");
    Ok(K3s { path: program("standin-k3s", Profile::Dev)?, real: false })
}

/// Builds a program of the workspace; the package and the program have the same name.
///
/// # Errors
/// It does not compile.
pub fn program(name: &str, profile: Profile) -> Result<PathBuf> {
    once(&format!("{name} {profile:?}"), || {
        cargo_build(name, profile, "")?;
        Ok(target_directory()?.join(profile.directory()).join(name))
    })
}

/// The Debian package of edge-bootstrap with the program inside: built with
/// `features` (separated by commas, may be empty), or the one that `EDGE_DEB` names.
///
/// # Errors
/// The program does not compile, or cargo-deb cannot be installed or fails.
pub fn package(profile: Profile, features: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EDGE_DEB").map(PathBuf::from) {
        return path.canonicalize().with_context(|| format!("EDGE_DEB={}", path.display()));
    }
    once(&format!("package {profile:?} {features}"), || {
        cargo_build("edge-bootstrap", profile, features)?;
        make_package(profile, features)
    })
}

/// cargo-deb packs what was just built: other lab processes wait meanwhile.
fn make_package(profile: Profile, features: &str) -> Result<PathBuf> {
    let tool = cargo_deb()?.display().to_string();
    let suffix = if features.is_empty() { String::new() } else { format!("-{}", features.replace(',', "-")) };
    let output = root::home().join("packages").join(format!("{}{suffix}", profile.directory()));
    std::fs::create_dir_all(&output)?;
    remove_of_dead(&output);
    let file = output.join(format!("{}.deb", std::process::id()));
    let manifest = workspace().join("Cargo.toml").display().to_string();
    let argv = [
        tool.as_str(),
        "--no-build",
        "--strip",
        "--fast",
        profile.flag(),
        "--manifest-path",
        &manifest,
        "--output",
        &file.display().to_string(),
    ];
    let target = target_directory()?.display().to_string();
    let made = Cmd::new(&argv).env("CARGO_TARGET_DIR", &target).run()?;
    made.ok().context("cargo-deb cannot make the package")?;
    Ok(file)
}

/// Packages are called by the process that made them, so that runs beside each
/// other do not change each other's; those of ended runs are removed.
fn remove_of_dead(dir: &Path) {
    for name in crate::entries(dir) {
        let pid = name.trim_end_matches(".deb");
        if !Path::new("/proc").join(pid).exists() {
            std::fs::remove_file(dir.join(&name)).ok();
        }
    }
}

/// cargo-deb itself; installed on first use, kept outside the tree.
fn cargo_deb() -> Result<PathBuf> {
    const VERSION: &str = "3.8.0";
    let tools = root::home().join("tools");
    let place = tools.join(format!("cargo-deb-{VERSION}"));
    let binary = place.join("bin/cargo-deb");
    let _one_at_a_time = root::lock("cargo-deb")?;
    if !binary.exists() {
        say("installing cargo-deb (once, about two minutes)");
        let root = format!("--root={}", place.display());
        let argv = ["cargo", "install", "cargo-deb", "--locked", "--version", VERSION, &root];
        let build = tools.join("build").display().to_string();
        Cmd::new(&argv).env("CARGO_TARGET_DIR", &build).limit(LONG).run()?.ok()?;
        root::remove_tree(&tools.join("build"))?;
    }
    Ok(binary)
}

/// Compiling all dependencies on a small, busy machine.
const LONG: Duration = Duration::from_mins(30);

fn cargo_build(package: &str, profile: Profile, features: &str) -> Result<()> {
    let began = Instant::now();
    say(&format!("building {package} ({})", profile.directory()));
    let manifest = workspace().join("Cargo.toml").display().to_string();
    let argv = [
        "cargo",
        "build",
        "--quiet",
        profile.flag(),
        "--manifest-path",
        &manifest,
        "--package",
        package,
        "--bin",
        package,
        "--features",
        features,
    ];
    let target = target_directory()?.display().to_string();
    Cmd::new(&argv).env("CARGO_TARGET_DIR", &target).limit(LONG).run()?.ok()?;
    say(&format!("built {package} in {:.0} s", began.elapsed().as_secs_f32()));
    Ok(())
}

/// The target directory that this very program was built into, whatever cargo was told then.
fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let tagged = |dir: &&Path| dir.join("CACHEDIR.TAG").exists();
    let target = own.ancestors().find(tagged);
    Ok(target.with_context(|| format!("{} lies in no target directory", own.display()))?.to_owned())
}

fn once(what: &str, make: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    if let Some(path) = built.get(what) {
        return Ok(path.clone());
    }
    let path = make()?;
    built.insert(what.to_owned(), path.clone());
    Ok(path)
}
