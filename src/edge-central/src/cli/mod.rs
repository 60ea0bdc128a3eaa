//! The command line: serve, and everything that people do.
//!
//! Owns arguments. Every command but `serve` works on the database itself, so
//! it works while the service runs and while it does not.

mod artifact;
mod moves;
mod node;
mod output;
mod retire;
mod serve;
mod site;
mod token;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use edge_bootstrap::wire::Secret;

use crate::clock;
use crate::files;
use crate::store::audit::Entry;
use crate::store::{Store, audit};

/// Reference central service of edge-bootstrap.
#[derive(Debug, Parser)]
#[command(name = "edge-central", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Directory of database, keys and artifacts.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/edge-central")]
    data: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Serve(serve::Serve),
    /// Print pin, CA file and signing key, making the keys when there are none.
    Info,
    /// Machine rooms.
    #[command(subcommand)]
    Site(site::Command),
    /// Enrolment tokens.
    #[command(subcommand)]
    Token(token::Command),
    /// Hosts.
    #[command(subcommand)]
    Node(node::Command),
    /// Give a waiting host its place, or let a claimed one become a server.
    Approve(node::Approve),
    /// Say what a host shall be; this wins over the policy.
    Assign(node::Assign),
    /// Files that hosts fetch by digest.
    #[command(subcommand)]
    Artifact(artifact::Command),
    /// Who changed what.
    Audit {
        /// How many of the newest entries.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u64,
    },
}

/// What every command needs.
#[derive(Debug)]
struct Context {
    data: PathBuf,
    json: bool,
    actor: String,
}

/// Runs the command.
///
/// # Errors
/// What the command says, with its causes.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let context = Context { data: cli.data, json: cli.json, actor: login_name() };
    match cli.command {
        Command::Serve(command) => serve::run(&context, command).await,
        Command::Info => serve::info(&context).await,
        Command::Site(command) => site::run(&context, command).await,
        Command::Token(command) => token::run(&context, command).await,
        Command::Node(command) => node::run(&context, command).await,
        Command::Approve(command) => node::approve(&context, command).await,
        Command::Assign(command) => node::assign(&context, command).await,
        Command::Artifact(command) => artifact::run(&context, command).await,
        Command::Audit { limit } => audit_log(&context, limit).await,
    }
}

/// Prints why a command failed.
pub fn print_failure(error: &anyhow::Error) {
    output::failure(&format!("edge-central: {error:#}"));
}

fn login_name() -> String {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

impl Context {
    async fn store(&self) -> anyhow::Result<Store> {
        files::private_directory(&self.data)?;
        Ok(Store::open(&self.data).await?)
    }

    /// An audit entry of this person.
    fn entry(&self, action: &str, detail: impl Into<String>) -> Entry {
        Entry {
            at: clock::now(),
            actor: self.actor.clone(),
            action: action.to_owned(),
            site: None,
            node: None,
            detail: detail.into(),
        }
    }
}

/// Reads a document of settings; secrets come by file, never by argument.
fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> anyhow::Result<T> {
    let text = Secret::new(files::read_argument(path)?);
    serde_json::from_str(text.expose())
        .map_err(|error| anyhow::anyhow!("`{}` is not of the right shape: {error}", path.display()))
}

async fn audit_log(context: &Context, limit: u64) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.read().await?;
    let entries = audit::newest(&mut tx, limit).await?;
    output::list(
        context.json,
        "entries",
        &entries,
        entry_json,
        entry_row,
        &["TIME", "ACTOR", "ACTION", "SITE", "NODE", "DETAIL"],
    );
    Ok(())
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    serde_json::json!({
        "time": clock::rfc3339(entry.at), "actor": entry.actor, "action": entry.action,
        "site": entry.site, "node": entry.node, "detail": entry.detail,
    })
}

fn entry_row(entry: &Entry) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        clock::rfc3339(entry.at),
        entry.actor.clone(),
        entry.action.clone(),
        or_dash(&entry.site),
        or_dash(&entry.node),
        entry.detail.clone(),
    ]
}
