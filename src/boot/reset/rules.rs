//! Chains and rules of k3s in the kernel, through the programs that made them.
//!
//! Owns which programs are asked and how long they may take. iptables has two
//! kinds, and a host may have rules of both; each is asked by its own program.
//! Rules of others are never written: `--noflush` touches what it names.

use std::time::Duration;

use super::told;
use crate::plan::reset::network;
use crate::plan::reset::rules::{self, Table};
use crate::sys::{Root, exec};

/// How long one program may take. Another one may hold the lock of iptables.
const LIMIT: Duration = Duration::from_secs(20);
/// The usual ones first: what they remove the others do not see any more.
const PROGRAMS: [&str; 6] =
    ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// By program.
    pub tables: Vec<(&'static str, Vec<Table>)>,
    /// Tables of nft's own.
    pub nft: Vec<String>,
    /// Sets of addresses.
    pub sets: Vec<String>,
}

impl Found {
    /// One line for people per table and set.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (program, tables) in &self.tables {
            let line = |table: &Table| {
                format!(
                    "{program} table {}: {} chains ({}), {} rules that lead there",
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
    for program in PROGRAMS {
        let tables = rules::to_remove(&printed(root, &format!("{program}-save"), &[]).await, shared);
        let known = found.tables.iter().any(|(_, before)| *before == tables);
        if !tables.is_empty() && !known {
            found.tables.push((program, tables));
        }
    }
    found.nft = network::tables(&printed(root, "nft", &["list", "tables"]).await);
    found.sets = network::sets(&printed(root, "ipset", &["list", "-n"]).await);
    found
}

/// What a program prints; nothing when it is not installed or fails.
async fn printed(root: &Root, program: &str, args: &[&str]) -> String {
    if !exec::is_installed(root, program) {
        return String::new();
    }
    match exec::run(program, args, LIMIT).await {
        Ok(output) if output.code == Some(0) => output.stdout,
        Ok(_) => String::new(),
        Err(error) => {
            told(&format!("{program} does not tell"), &error);
            String::new()
        }
    }
}

/// Removes what was found; sets last, because rules name them.
pub(super) async fn remove(found: &Found) {
    for (program, tables) in &found.tables {
        let words = rules::script(tables);
        run(&format!("{program}-restore"), &["--noflush"], &words).await;
    }
    for table in &found.nft {
        let words: Vec<&str> = ["delete", "table"].into_iter().chain(table.split(' ')).collect();
        run("nft", &words, "").await;
    }
    for set in &found.sets {
        run("ipset", &["destroy", set], "").await;
    }
}

async fn run(program: &str, args: &[&str], input: &str) {
    match exec::feed(program, args, input, LIMIT).await {
        Ok(output) if output.code == Some(0) => {}
        Ok(output) => {
            tracing::warn!(EDGE_STEP = "reset", "{program} says: {}", output.stderr.trim());
        }
        Err(error) => told(&format!("{program} cannot be run"), &error),
    }
}
