//! Owns what k3s unpacks from its binary at the first start of a version: when it
//! does, and that it takes what lies there for whole (k3s: cmd/k3s/main.go
//! `extract`). One file stands for all of them; it is synced as little as k3s's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use crate::{api, pki};

/// Goes on where k3s would, of the version that this claims to be.
pub fn unpack(data: &Path) -> Result<()> {
    let build = data.join("data").join(pki::hex(&Sha256::digest(api::version())));
    let k3s = build.join("bin/k3s");
    // A directory is whole for k3s, whatever is in it.
    if !k3s.exists() && !build.exists() {
        let mut temporary = build.clone().into_os_string();
        temporary.push("-tmp");
        let temporary = PathBuf::from(temporary);
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir_all(temporary.join("bin"))?;
        fs::write(temporary.join("bin/k3s"), "a program\n")?;
        fs::rename(&temporary, &build)?;
    }
    match fs::metadata(&k3s) {
        Ok(program) if program.len() > 0 => Ok(()),
        Ok(_) => bail!("exec format error"),
        Err(_) => bail!("exec: \"k3s-server\": executable file not found in $PATH"),
    }
}
