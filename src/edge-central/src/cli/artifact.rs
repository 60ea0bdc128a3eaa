//! `artifact`: files that hosts fetch by digest.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use edge_bootstrap::role::K3sVersion;
use edge_bootstrap::role::words::SiteName;
use serde_json::json;

use super::{Context, output};
use crate::service::ARTIFACTS;
use crate::store::artifacts::{self, Artifact};
use crate::store::{audit, commit, sites};
use crate::{clock, files};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Copy a file into the store.
    Add {
        /// The file.
        file: PathBuf,
        /// What it is.
        #[arg(long, value_name = "NAME", default_value = "k3s")]
        name: SiteName,
        /// Its version, for example v1.36.2+k3s1.
        #[arg(long, value_name = "VERSION")]
        version: String,
        /// Its architecture.
        #[arg(long, default_value = "amd64")]
        arch: Arch,
    },
    /// List the files.
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Arch {
    Amd64,
    Arm64,
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { file, name, version, arch } => {
            if name.as_str() == "k3s" && version.parse::<K3sVersion>().is_err() {
                bail!("{version:?} is not a k3s version, for example v1.36.2+k3s1");
            }
            let arch = if arch == Arch::Amd64 { "amd64" } else { "arm64" };
            add(context, &file, (name.as_str(), &version, arch)).await
        }
        Command::List => list(context).await,
    }
}

async fn add(
    context: &Context,
    file: &std::path::Path,
    (name, version, arch): (&str, &str, &str),
) -> anyhow::Result<()> {
    let store = context.store().await?;
    let directory = context.data.join(ARTIFACTS);
    files::private_directory(&directory)?;
    let stored = files::store_artifact(file, &directory)?;
    let artifact = Artifact {
        sha256: stored.sha256,
        name: name.to_owned(),
        version: version.to_owned(),
        arch: arch.to_owned(),
        size: stored.size,
        added_at: clock::now(),
    };
    let mut tx = store.write().await?;
    artifacts::put(&mut tx, &artifact).await?;
    sites::touch_all(&mut tx).await?;
    let detail = format!("{name} {version} {arch} {}", artifact.sha256);
    audit::add(&mut tx, &context.entry("artifact-add", detail)).await?;
    commit(tx).await?;
    output::outcome(context.json, artifact_json(&artifact), &artifact.sha256);
    Ok(())
}

fn artifact_json(file: &Artifact) -> serde_json::Value {
    json!({
        "name": file.name, "version": file.version, "arch": file.arch, "size": file.size,
        "sha256": file.sha256, "added": clock::rfc3339(file.added_at),
    })
}

fn artifact_row(file: &Artifact) -> Vec<String> {
    vec![
        file.name.clone(),
        file.version.clone(),
        file.arch.clone(),
        file.size.to_string(),
        file.sha256.clone(),
    ]
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let store = context.store().await?;
    let files = artifacts::list(&mut *store.read().await?).await?;
    let heads = ["NAME", "VERSION", "ARCH", "BYTES", "SHA256"];
    output::list(context.json, "artifacts", &files, artifact_json, artifact_row, &heads);
    Ok(())
}
