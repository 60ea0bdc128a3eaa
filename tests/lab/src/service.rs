//! A server on the bridge's side of the network, such as the central service.
//!
//! Owns the process and its log. The process is dead when this is dropped;
//! one that an aborted run left is found by its network namespace and killed
//! when the lab is opened again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cmd::wait_until;
use crate::lab::Lab;

/// A running server.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts a program in the lab's network namespace; its outputs are
    /// appended to `NAME.log` in the lab's directory.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start<S: AsRef<str>>(lab: &Lab, name: &str, argv: &[S]) -> Result<Self> {
        let log = lab.dir().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = Command::new("ip")
            .args(["netns", "exec", lab.net().netns()])
            .args(argv.iter().map(AsRef::as_ref))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, log })
    }

    /// Waits until it listens on a TCP port.
    ///
    /// # Errors
    /// It ends, or does not listen within `limit`; the message holds its log's end.
    pub fn wait_listening(&mut self, port: u16, limit: Duration) -> Result<()> {
        let what = format!("a server listens on port {port}");
        let done = wait_until(limit, &what, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended: {status}");
            }
            Ok(listens(self.child.id(), port).then_some(()))
        });
        done.with_context(|| self.log_tail())
    }

    /// Asks it to end (SIGTERM) and waits; kills it after a minute.
    ///
    /// # Errors
    /// It had to be killed, or ended with another exit code than 0.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = wait_until(Duration::from_secs(60), "the server ends", || Ok(self.child.try_wait()?))
            .with_context(|| self.log_tail())?;
        if !status.success() {
            bail!("the server ended with {status}\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Its process id, for those who want to stop it for a while by a signal.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log on the machine.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Errors mean that it is dead already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whether something in the network namespace of that process listens on the port.
fn listens(pid: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().any(|line| {
            // sl local_address rem_address st ...; state 0A is LISTEN.
            let words: Vec<&str> = line.split_whitespace().collect();
            let local = words.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
            local && words.get(3) == Some(&"0A")
        })
    })
}
