//! Owns `k3s etcd-snapshot save`: a server with etcd's majority writes a file into
//! its snapshot directory (k3s: pkg/etcd/snapshot.go). Other verbs are not imitated.

use anyhow::{Result, bail};

use crate::paths::DataDir;
use crate::{durable, kubectl, store};

/// Runs one command and returns what it prints.
pub fn run(arguments: &[String]) -> Result<String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, rest) = match words.as_slice() {
        ["save", "--name", name, rest @ ..] => (*name, rest),
        ["save", rest @ ..] => ("on-demand", rest),
        _ => bail!("stand-in: of etcd-snapshot only save is imitated"),
    };
    if let Some(unknown) = rest.iter().find(|word| !word.starts_with("--etcd-s3=")) {
        bail!("flag provided but not defined: {unknown}");
    }
    let ready = ["get", "--raw", "/readyz"].map(str::to_owned);
    kubectl::run(&ready)?;
    let data = DataDir::new(std::env::var("K3S_DATA_DIR").ok().as_deref());
    if !data.wal().is_dir() {
        bail!("etcd datastore disabled");
    }
    let directory = data.server("db/snapshots");
    durable::make_dir(&directory)?;
    let file = format!("{name}-{}", store::now());
    let state = std::fs::read(data.etcd("member/snap/db"))?;
    durable::write(&directory.join(&file), &state, 0o600)?;
    Ok(format!("Snapshot {file} saved.\n"))
}
