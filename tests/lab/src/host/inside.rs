//! Programs inside a host: its namespaces, its cgroup, a clean environment.
//!
//! No machined and no login: the lab enters by the host's PID 1, which is the
//! child of systemd-nspawn, which is the child of the supervisor.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::Host;
use crate::cmd::{Cmd, Output};

impl Host {
    /// Runs a program inside, as root; its exit code is part of the output.
    ///
    /// # Errors
    /// It takes longer than two minutes, or cannot be started at all. When the
    /// host is off the exit code is 125.
    pub fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        self.cmd(argv).run()
    }

    /// Runs a shell script inside and gives its standard output, trimmed.
    ///
    /// # Errors
    /// Its exit code is not 0, or it takes longer than two minutes.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-euc", script])?.ok()
    }

    /// A program to run inside, for those who need input or another limit.
    #[must_use]
    pub fn cmd<S: AsRef<str>>(&self, argv: &[S]) -> Cmd {
        let words: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
        let shown = format!("{}: {}", self.name(), words.join(" "));
        let entry = self.entry().unwrap_or_else(|| OFF.map(str::to_owned).to_vec());
        let all: Vec<&str> = entry.iter().map(String::as_str).chain(words).collect();
        Cmd::new(&all).shown(&shown)
    }

    /// A program to run inside with the caller's own input and outputs, for a person.
    ///
    /// # Errors
    /// The host is off.
    pub fn interactive<S: AsRef<str>>(&self, argv: &[S]) -> Result<Command> {
        let entry = self.entry().with_context(|| format!("{} is off", self.name()))?;
        let mut command = Command::new("env");
        command.args(entry).args(argv.iter().map(AsRef::as_ref));
        Ok(command)
    }

    /// The words before a program that runs inside; `None` while the host is off.
    fn entry(&self) -> Option<Vec<String>> {
        let leader = self.leader()?.to_string();
        let groups: Vec<String> = self.group.inside().iter().map(|dir| dir.display().to_string()).collect();
        Some(["sh", "-c", JOIN, "enter", &groups.join(" "), &leader].map(str::to_owned).to_vec())
    }

    /// Where the machine sees its root directory while it is on.
    #[must_use]
    pub fn seen_from_outside(&self) -> Option<PathBuf> {
        self.leader().map(|pid| PathBuf::from(format!("/proc/{pid}/root")))
    }

    /// The host's PID 1 as the machine sees it: supervisor, nspawn, init.
    fn leader(&self) -> Option<i32> {
        let nspawn = child_of(self.supervisor_pid()?, "systemd-nspawn")?;
        child_of(nspawn, "systemd").or_else(|| child_of(nspawn, "init"))
    }
}

/// Stands in for a program inside a host that is off; the program's words become unused arguments.
const OFF: [&str; 3] = ["sh", "-c", "echo the host is off >&2; exit 125"];

/// Enters a host's cgroups ($1, several) and all namespaces of its PID 1 ($2),
/// with a clean environment.
const JOIN: &str = r#"for group in $1; do echo 0 >"$group/cgroup.procs"; done 2>/dev/null
leader=$2; shift 2
exec nsenter -t "$leader" -m -u -i -n -p -C -r -w -- env -i HOME=/root LANG=C.UTF-8 \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@""#;

/// The first child of `parent` with that command name. Asked for very often: the
/// kernel's own list is read, not all of /proc.
fn child_of(parent: i32, comm: &str) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let mut pids = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    pids.find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|text| text.trim_end() == comm))
}
