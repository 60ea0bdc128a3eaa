//! Owns `--cluster-reset`: one member left, with a new name and the present
//! address, also on a file that `etcd-snapshot save` wrote (k3s: pkg/etcd/etcd.go).

use std::path::Path;

use anyhow::{Result, bail};

use crate::register::Register;
use crate::settings::Settings;
use crate::{durable, files, log, store};

const FLAG: &str = "db/reset-flag";

/// Ends the process with k3s's words; the exit code is 0 on success.
pub fn run(settings: &Settings) -> Result<()> {
    if settings.server.is_some() {
        bail!(
            "cannot perform cluster-reset while server URL is set - remove server from configuration \
             before resetting"
        );
    }
    let flag = settings.data.server(FLAG);
    if flag.exists() {
        bail!(
            "Managed etcd cluster membership was previously reset, please remove the cluster-reset flag \
             and start k3s normally. If you need to perform another cluster reset, you must first \
             manually delete the file at {}",
            flag.display()
        );
    }
    let snapshot = settings.values.text("cluster-reset-restore-path");
    if snapshot.is_none() && !settings.data.wal().is_dir() {
        bail!("cluster-reset was requested but etcd has not been initialized");
    }
    durable::write(&flag, b"", 0o600)?;
    if let Some(file) = snapshot {
        restore(settings, Path::new(file))?;
    }
    shrink(settings)?;
    log::shutdown(
        "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. \
         Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes",
    )
}

/// The old database is kept beside the new one.
fn restore(settings: &Settings, snapshot: &Path) -> Result<()> {
    let etcd = settings.data.server("db/etcd");
    if etcd.is_dir() {
        durable::rename(&etcd, &settings.data.server(&format!("db/etcd-old-{}", store::now())))?;
    }
    Register::restore(&settings.data, snapshot)
}

fn shrink(settings: &Settings) -> Result<()> {
    let register = Register::load_member(&settings.data)?;
    let name = settings.data.etcd("name");
    if name.exists() {
        std::fs::remove_file(name)?;
    }
    let (name, url) = (files::member_name(settings)?, settings.peer_url());
    register.overwrite(|store| {
        store.members.clear();
        store.add_member(&settings.node_name, &name, &url)?;
        store.publish(&name, &url)?;
        store.members.iter_mut().for_each(|member| member.learner = false);
        store.passwords.remove(&settings.node_name);
        Ok(())
    })
}

/// A normal start clears the flag.
pub fn clear_flag(settings: &Settings) -> Result<()> {
    match std::fs::remove_file(settings.data.server(FLAG)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
