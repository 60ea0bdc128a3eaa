//! Chains and rules of k3s in the kernel, through the programs that made them.
//!
//! Owns which programs are asked and how long they may take. iptables has two
//! kinds, and a host may have rules of both; each is asked by its own program,
//! and where the host has none by the one that k3s brings. That no program tells
//! of a chain proves nothing: the kernel itself is asked too. Rules of others are
//! never written: `--noflush` touches what it names.

use std::time::Duration;

use super::told;
use crate::error::Chain;
use crate::paths;
use crate::plan::reset::network;
use crate::plan::reset::rules::{self, Table};
use crate::sys::{Root, exec, netfilter};

/// How long one program may take. Another one may hold the lock of iptables.
const LIMIT: Duration = Duration::from_secs(20);
/// The usual ones first: what they remove the others do not see any more.
const PROGRAMS: [&str; 6] =
    ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"];

/// Where k3s keeps the programs that it brings, below its data directory.
const BUNDLED: [&str; 2] = ["data/current/bin/aux", "data/current/bin"];
/// Tables of the legacy kind that the kernel has.
const LEGACY: [(&str, &str); 2] =
    [("iptables", "/proc/net/ip_tables_names"), ("ip6tables", "/proc/net/ip6_tables_names")];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// By program.
    pub tables: Vec<(&'static str, Vec<Table>)>,
    /// Tables of nft's own.
    pub nft: Vec<String>,
    /// Sets of addresses.
    pub sets: Vec<String>,
    /// Chains that the kernel has and no program tells of.
    pub untold: Vec<String>,
    /// What could not be looked at, in words.
    pub unseen: Vec<String>,
}

impl Found {
    /// One line for people per table and set.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (program, tables) in &self.tables {
            let line = |table: &Table| {
                format!(
                    "{program} table {}: chains {} ({}), rules that lead there {}",
                    table.name,
                    table.chains.len(),
                    shortened(&table.chains),
                    table.rules.len()
                )
            };
            lines.extend(tables.iter().map(line));
        }
        lines.extend(self.nft.iter().map(|name| format!("nft table {name}")));
        lines.extend(self.sets.iter().map(|name| format!("ipset {name}")));
        lines.extend(
            self.untold.iter().map(|name| format!("chain {name}, for which iptables must be installed")),
        );
        lines
    }
}

fn shortened(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(4).map(String::as_str).collect();
    let more = if names.len() > first.len() { ", …" } else { "" };
    format!("{}{more}", first.join(", "))
}

/// Looks at the rules of the running host. `shared`: others use the CNI too.
pub(super) async fn look(root: &Root, shared: bool) -> Found {
    let mut found = Found::default();
    if !root.is_host() {
        return found;
    }
    let mut printed = Vec::new();
    for program in PROGRAMS {
        let text = ask(root, &format!("{program}-save"), &[], &mut found.unseen).await;
        let tables = rules::to_remove(&text, shared);
        let known = found.tables.iter().any(|(_, before)| *before == tables);
        if !tables.is_empty() && !known {
            found.tables.push((program, tables));
        }
        printed.push(text);
    }
    found.nft = network::tables(&ask(root, "nft", &["list", "tables"], &mut found.unseen).await);
    found.sets = network::sets(&ask(root, "ipset", &["list", "-n"], &mut found.unseen).await);
    heed_kernel(root, &printed.concat(), &mut found);
    found
}

/// What a program prints. That it is not installed is no trouble, nor that the
/// kernel has no such thing at all.
async fn ask(root: &Root, name: &str, args: &[&str], trouble: &mut Vec<String>) -> String {
    let Some(program) = program(root, name) else { return String::new() };
    match exec::run(&program, args, LIMIT).await {
        Ok(output) if output.code == Some(0) => return output.stdout,
        Ok(output) if rules::says_unsupported(&output.stderr) => {}
        Ok(output) => {
            let said = output.stderr.lines().next().unwrap_or_default().trim();
            trouble.push(format!("{name} fails: {said}"));
        }
        Err(error) => trouble.push(format!("{name}: {}", Chain(&error))),
    }
    String::new()
}

/// The host's own program, or the one that k3s brings.
fn program(root: &Root, name: &str) -> Option<String> {
    if exec::is_installed(root, name) {
        return Some(name.to_owned());
    }
    let mut bundled = BUNDLED.iter().map(|directory| format!("{}/{directory}/{name}", paths::K3S_DATA));
    bundled.find(|path| root.exists(path))
}

/// The kernel's word, against programs that are missing or of the other kind.
fn heed_kernel(root: &Root, printed: &str, found: &mut Found) {
    match netfilter::chains() {
        Ok(chains) => {
            let known = |name: &str| {
                found
                    .tables
                    .iter()
                    .flat_map(|(_, tables)| tables)
                    .any(|table| table.chains.iter().any(|it| it == name))
            };
            let own = chains.into_iter().filter(|(_, name)| rules::is_own_alone(name) && !known(name));
            found.untold = own.map(|(table, name)| format!("{name} of table {table}")).collect();
            // What a program did not tell the kernel did.
            found.unseen.retain(|reason| !reason.contains("-nft"));
        }
        Err(errno) => found.unseen.push(format!("the kernel does not tell its chains: {}", errno.desc())),
    }
    for (program, names) in LEGACY {
        let tables = root.read_kernel(names).unwrap_or_default();
        if tables.is_empty() {
            found.unseen.retain(|reason| !reason.starts_with(&format!("{program}-legacy")));
        } else if !rules::has_legacy(printed, program) {
            found.unseen.push(format!(
                "no program tells the legacy tables of {program}: {}",
                tables.replace('\n', " ")
            ));
        }
    }
}

/// Removes what was found; sets last, because rules name them.
pub(super) async fn remove(root: &Root, found: &Found) {
    for (program, tables) in &found.tables {
        let words = rules::script(tables);
        run(root, &format!("{program}-restore"), (&["--noflush"], &words)).await;
    }
    for table in &found.nft {
        let words: Vec<&str> = ["delete", "table"].into_iter().chain(table.split(' ')).collect();
        run(root, "nft", (&words, "")).await;
    }
    for set in &found.sets {
        run(root, "ipset", (&["destroy", set], "")).await;
    }
}

async fn run(root: &Root, name: &str, (args, input): (&[&str], &str)) {
    let program = program(root, name).unwrap_or_else(|| name.to_owned());
    match exec::feed(&program, args, input, LIMIT).await {
        Ok(output) if output.code == Some(0) => {}
        Ok(output) => {
            tracing::warn!(EDGE_STEP = "reset", "{program} says: {}", output.stderr.trim());
        }
        Err(error) => told(&format!("{program} cannot be run"), &error),
    }
}
