//! How systemd-nspawn is called for a host, and by whom.
//!
//! Never grants `CAP_SYS_TIME`: a time zone set inside would warp the machine's
//! own clock. Never registers with machined: hosts work without it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::Host;
use super::hardware::{INSIDE, hardware_dir};
use super::spec::{Bind, Cgroups};

impl Host {
    /// Starts the supervisor, which boots and reboots the host until it is off.
    pub(super) fn supervise(&self) -> Result<Child> {
        let console = File::options().create(true).append(true).open(self.console())?;
        let groups: Vec<String> = self.group.create()?.iter().map(|dir| dir.display().to_string()).collect();
        Command::new("setsid")
            .args(["unshare", "-m", "--propagation", "private", "sh", "-c", SUPERVISE, "supervise"])
            .args(self.nspawn_arguments())
            .env("DIR", &self.dir)
            .env("ROOT", &self.root)
            .env("KEEPER", self.group.keeper()?)
            .env("GROUPS", groups.join(" "))
            .envs(self.nspawn_environment())
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("cannot start the host's supervisor")
    }

    fn nspawn_arguments(&self) -> Vec<String> {
        let mut all: Vec<String> = NSPAWN.split_whitespace().map(str::to_owned).collect();
        let dir = self.dir.display();
        all.push(format!("--directory={dir}/root"));
        all.push(format!("--bind={dir}/disk/var:/var"));
        all.push(format!("--machine=edge-{}.{}", self.lab.name(), self.name()));
        all.push(format!("--hostname={}", self.spec.hostname));
        all.push(format!("--network-namespace-path=/run/netns/{}", self.netns));
        if self.spec.cgroups != Cgroups::V2 {
            all.push("--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1".to_owned());
        }
        if self.spec.kubelet {
            // The machine may restrict its kernel log to those who have this.
            all.push("--capability=CAP_SYSLOG".to_owned());
        }
        let devices = [("/dev/fuse", true), ("/dev/kmsg", self.spec.kubelet)];
        let wanted = devices.iter().filter(|(path, wanted)| *wanted && Path::new(path).exists());
        all.extend(wanted.map(|(path, _)| format!("--bind={path}")));
        if self.spec.hardware.is_some() {
            let fixture = hardware_dir(&self.dir);
            all.push(format!("--bind-ro={}:{INSIDE}", fixture.display()));
        }
        all.extend(self.spec.binds.iter().map(Bind::argument));
        all.extend(self.spec.nspawn.iter().cloned());
        all
    }

    fn nspawn_environment(&self) -> Vec<(&'static str, &'static str)> {
        // runc needs keyctl and bpf, CNI plugins need the network's settings.
        let mut all = vec![("SYSTEMD_SECCOMP", "0"), ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")];
        match self.spec.cgroups {
            Cgroups::V2 => all.push(("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")),
            Cgroups::V1 => all.push(("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "0")),
            Cgroups::Hybrid => {}
        }
        all
    }
}

const SUPERVISE: &str = include_str!("supervise.sh");

/// Arguments that every host has. nspawn takes `CAP_NET_ADMIN` away from hosts
/// whose network namespace it did not make; theirs is their own all the same.
const NSPAWN: &str = "--register=no --keep-unit --quiet --boot --console=pipe \
    --capability=CAP_NET_ADMIN \
    --link-journal=no --resolv-conf=off --timezone=off";
