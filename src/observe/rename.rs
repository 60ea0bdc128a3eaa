//! What the writers of a hostname leave behind.
//!
//! Owns where the traces lie: journal, leases, cloud-init's log. Judges
//! nothing. Costs one `journalctl`, so it is asked only after a name had to be
//! put back, never before READY.

use std::time::Duration;

use super::text;
use crate::facts::Fact;
use crate::facts::rename::{Entry, Lease, Rename, Traces, Writer};
use crate::plan::suspects;
use crate::sys::{Root, exec};

/// How long journalctl may take; a journal of years on a slow disk is not worth more.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many of the newest lines are read.
const LINES: &str = "400";
/// How far from the change of the file a line may be, in seconds.
const AROUND: u64 = 120;
/// Lines of these senders, as journald itself names them: `+` is its `or`.
const SENDERS: [&str; 7] = [
    "_SYSTEMD_UNIT=systemd-hostnamed.service",
    "+",
    "_SYSTEMD_UNIT=NetworkManager.service",
    "+",
    "_SYSTEMD_UNIT=dbus.service",
    "+",
    "_EXE=/usr/bin/sudo",
];
const CLOUD_INIT_LOG: &str = "/var/log/cloud-init.log";

/// Directories with leases, how a lease's file begins there, and whose it is.
const LEASES: [(&str, &str, Writer); 5] = [
    ("/run/systemd/netif/leases", "", Writer::Networkd),
    ("/var/lib/NetworkManager", "dhclient-", Writer::NetworkManager),
    ("/var/lib/NetworkManager", "internal-", Writer::NetworkManager),
    ("/var/lib/dhcp", "dhclient", Writer::Dhclient),
    ("/var/lib/dhclient", "dhclient", Writer::Dhclient),
];

/// All traces that may have to do with `rename`.
pub async fn traces(root: &Root, rename: &Rename) -> Traces {
    Traces {
        journal: journal(root, rename).await,
        leases: leases(root),
        cloud_init_log: text::file(root, CLOUD_INIT_LOG),
    }
}

/// This boot's lines; around the change of the file when that was in an earlier one.
async fn journal(root: &Root, rename: &Rename) -> Fact<Vec<Entry>> {
    if !root.is_host() {
        return Fact::unknown("only the running host has a journal");
    }
    let window = match rename.file_changed.filter(|_| rename.is_of_an_earlier_boot()) {
        Some(at) => vec![
            format!("--since=@{}", at.saturating_sub(AROUND)),
            format!("--until=@{}", at.saturating_add(AROUND)),
        ],
        None => vec!["-b".to_owned()],
    };
    let mut words = vec!["-q", "-o", "json", "--no-pager", "-n", LINES];
    words.extend(window.iter().map(String::as_str).chain(SENDERS));
    match exec::run("journalctl", &words, DEADLINE).await {
        Ok(output) if output.code == Some(0) => Fact::Known(suspects::entries(&output.stdout)),
        // No line at all is no failure; what it says on its error output is one.
        Ok(output) if output.stderr.trim().is_empty() => Fact::Known(Vec::new()),
        Ok(output) => Fact::unknown(output.stderr.lines().next().unwrap_or_default()),
        Err(error) => text::because(&error),
    }
}

fn leases(root: &Root) -> Vec<Lease> {
    LEASES.iter().flat_map(|(directory, begin, client)| leases_in(root, (directory, begin), client)).collect()
}

fn leases_in(root: &Root, (directory, begin): (&str, &str), client: &Writer) -> Vec<Lease> {
    let names = root.list(directory).unwrap_or_default().into_iter();
    let paths = names.filter(|name| name.starts_with(begin)).map(|name| format!("{directory}/{name}"));
    let read = |path: String| {
        let names = suspects::lease_names(text::file(root, &path).known()?);
        (!names.is_empty()).then(|| Lease { path, client: client.clone(), names })
    };
    paths.filter_map(read).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    #[tokio::test]
    async fn leases_and_log_are_found_where_their_programs_put_them() {
        let tree = Tree::new();
        tree.file("/run/systemd/netif/leases/2", "ADDRESS=10.0.0.9\nHOSTNAME=a\n")
            .file("/var/lib/NetworkManager/internal-1-eth0.lease", "HOSTNAME=b\n")
            .file("/var/lib/NetworkManager/secret_key", b"\xff\xfe")
            .file("/var/lib/dhcp/dhclient.eth0.leases", "option host-name \"c\";\n")
            .file("/var/lib/dhclient/dhclient--eth0.lease", "no name\n")
            .file(CLOUD_INIT_LOG, "one line\n");
        let traces = traces(&tree.root(), &Rename::default()).await;
        let found: Vec<(&Writer, &str)> =
            traces.leases.iter().map(|lease| (&lease.client, lease.names[0].as_str())).collect();
        assert_eq!(
            found,
            [(&Writer::Networkd, "a"), (&Writer::NetworkManager, "b"), (&Writer::Dhclient, "c")]
        );
        assert_eq!(traces.cloud_init_log.known().unwrap(), "one line\n");
        assert!(traces.journal.reason().is_some(), "a foreign root has no journal");
    }
}
