//! Files of a host, while it is on and while it is off.
//!
//! Everything written here is synced: a test that wants to lose a file in a
//! power cut writes it by [`Host::sh`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Host;

impl Host {
    /// Writes a file with mode 0644 and syncs it, while on or off; directories are made.
    ///
    /// # Errors
    /// The host's file system refuses it.
    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.write_file_mode(path, content, 0o644)
    }

    /// Writes a file with `mode` and syncs it, while on or off; directories are made.
    ///
    /// # Errors
    /// The host's file system refuses it.
    pub fn write_file_mode(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = path.trim_start_matches('/');
        let script = format!(
            "mkdir -p \"$(dirname './{path}')\"; umask 077; cat >'./{path}'; chmod {mode:o} './{path}'; sync './{path}' \"$(dirname './{path}')\""
        );
        self.at_root(&script, content.as_ref())?;
        Ok(())
    }

    /// Copies a file of the machine into the host, with its mode, while on or off.
    ///
    /// # Errors
    /// It cannot be read, or the host's file system refuses it.
    pub fn copy_in(&self, source: &Path, path: &str) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = fs::metadata(source)?.permissions().mode() & 0o7777;
        self.write_file_mode(path, content, mode)
    }

    /// The text of a file, while on or off; `None` when there is none.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn read_file(&self, path: &str) -> Result<Option<String>> {
        let path = path.trim_start_matches('/');
        let text = self.at_root(
            &format!(
                "[ -e './{path}' ] || [ -L './{path}' ] || {{ echo no; exit; }}; echo yes; cat './{path}'"
            ),
            &[],
        )?;
        Ok(text.strip_prefix("yes\n").map(str::to_owned))
    }

    /// Runs a shell script with the root of the host that is off as its
    /// working directory (so: relative paths), to break or to look at files.
    ///
    /// # Errors
    /// The host is on, or the script's exit code is not 0.
    pub fn edit(&self, script: &str) -> Result<String> {
        self.refuse_while_on()?;
        self.disk.edit(script, &[])?.ok()
    }

    /// Keeps a copy of the disk as it is now, for [`Host::put_disk_back`].
    ///
    /// # Errors
    /// The host is on, or the machine's own disk is full.
    pub fn keep_disk(&self) -> Result<()> {
        self.refuse_while_on()?;
        self.disk.keep()
    }

    /// Makes the disk what it was at [`Host::keep_disk`]: another host of the same make.
    ///
    /// # Errors
    /// The host is on, or nothing was kept.
    pub fn put_disk_back(&self) -> Result<()> {
        self.refuse_while_on()?;
        self.disk.put_back()
    }

    pub(super) fn refuse_while_on(&self) -> Result<()> {
        if self.is_on() {
            bail!("{} is on: its disk can be edited only while it is off", self.name());
        }
        Ok(())
    }

    fn at_root(&self, script: &str, input: &[u8]) -> Result<String> {
        let output = if self.is_on() {
            let script = format!("cd /; {script}");
            self.cmd(&["sh", "-euc", &script]).input(input).run()?
        } else {
            self.disk.edit(script, input)?
        };
        if output.success() { Ok(output.stdout) } else { output.ok() }
    }

    /// Installs a Debian package from the machine, as a person would.
    ///
    /// # Errors
    /// The host is off, or dpkg refuses it.
    pub fn install(&self, package: &Path) -> Result<()> {
        self.copy_in(package, "/root/package.deb")?;
        self.sh("dpkg -i /root/package.deb && rm /root/package.deb")?;
        Ok(())
    }
}
