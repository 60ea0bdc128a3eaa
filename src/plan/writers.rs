//! Programs that would give the host another name, each told not to.
//!
//! Owns one small file per program, only where that program is installed and
//! only while the hostname is ours to keep. Whoever is not told here, or does
//! not heed it, is put back by the daemon.

use super::Inputs;
use super::item::{PlannedFile, PlannedRemoval};
use crate::paths;

/// Marks a file as ours.
const MARK: &str = "# Written by edge-bootstrap";

/// One program and what tells it.
struct Writer {
    /// Present when the program is installed: all of them.
    installed: &'static [&'static str],
    path: &'static str,
    text: &'static str,
    reason: &'static str,
}

const WRITERS: [Writer; 3] = [
    Writer {
        installed: &["/usr/bin/cloud-init"],
        path: paths::CLOUD_INIT,
        text: CLOUD_INIT,
        reason: "cloud-init would rename the host at a boot and write /etc/hosts anew",
    },
    Writer {
        installed: &["/usr/sbin/NetworkManager"],
        path: paths::NETWORK_MANAGER,
        text: NETWORK_MANAGER,
        reason: "NetworkManager would rename the host by a DHCP lease or a reverse lookup",
    },
    Writer {
        installed: &["/sbin/dhclient", paths::DHCLIENT_HOOKS],
        path: paths::DHCLIENT,
        text: DHCLIENT,
        reason: "dhclient's script would rename the host by a DHCP lease",
    },
];

/// Modules cc_set_hostname, cc_update_hostname and cc_update_etc_hosts heed these.
const CLOUD_INIT: &str = "\
# Written by edge-bootstrap; changes here are put back.
preserve_hostname: true
manage_etc_hosts: false
";

/// Heeded from NetworkManager's next start on: NetworkManager.conf(5).
const NETWORK_MANAGER: &str = "\
# Written by edge-bootstrap; changes here are put back.
[main]
hostname-mode=none
";

/// Read by dhclient-script(8) of Debian before it acts.
const DHCLIENT: &str = "\
# Written by edge-bootstrap; changes here are put back.
# A lease's name is not this host's. Hooks of others do not see it either.
unset new_host_name
set_hostname() {
    :
}
";

/// Paths that say whether these programs are installed.
pub fn programs() -> impl Iterator<Item = &'static str> {
    WRITERS.iter().flat_map(|writer| writer.installed.iter().copied())
}

/// Paths of the files that tell them.
pub fn paths() -> impl Iterator<Item = &'static str> {
    WRITERS.iter().map(|writer| writer.path)
}

/// What tells the programs that are installed.
pub(super) fn files(inputs: Inputs<'_>) -> Vec<PlannedFile> {
    wanted(inputs).map(|writer| PlannedFile::public(writer.path, writer.text, writer.reason)).collect()
}

fn wanted(inputs: Inputs<'_>) -> impl Iterator<Item = &'static Writer> {
    let files = &inputs.facts.runtime.files;
    let keeps = inputs.local.manage_hostname && inputs.assignment.duty.is_some();
    WRITERS
        .iter()
        .filter(move |writer| keeps && writer.installed.iter().all(|path| files.contains_key(*path)))
}

/// Files of ours that tell a program which may name the host again, or which is gone.
pub(super) fn removals(inputs: Inputs<'_>) -> Vec<PlannedRemoval> {
    let files = &inputs.facts.runtime.files;
    let is_ours = |writer: &&Writer| {
        let text = files.get(writer.path).and_then(|file| file.text.as_deref());
        text.is_some_and(|text| text.starts_with(MARK))
    };
    let is_wanted = |writer: &&Writer| wanted(inputs).any(|wanted| wanted.path == writer.path);
    let gone = WRITERS.iter().filter(is_ours).filter(|writer| !is_wanted(writer));
    gone.map(|writer| PlannedRemoval {
        path: writer.path.to_owned(),
        reason: "the hostname is not ours to keep, or its program is gone".to_owned(),
    })
    .collect()
}
