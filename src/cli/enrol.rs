//! `enrol`: claim a place now, and write the configuration.
//!
//! Owns the drop-in that it writes and the exit code: 0 claimed, 75 waiting for
//! a person, 1 failed. A token comes from a file or standard input, never from
//! the command line.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use toml::Value;

use super::{Common, output, person};
use crate::boot;
use crate::enrol::{Outcome, Waiting};
use crate::sys::{Root, atomic, host};
use crate::{paths, reset};

/// What this verb writes.
const DROP_IN: &str = "/etc/edge-bootstrap/config.d/50-enrol.toml";
/// Where a token goes until it is used.
const TOKEN: &str = "/etc/edge-bootstrap/enrol-token";
/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// URL of the central service
    #[arg(long, value_name = "URL")]
    central: String,
    /// Public key of the service, sha256/BASE64; may be given twice
    #[arg(long, value_name = "PIN", required_unless_present = "ca", conflicts_with = "ca")]
    pin: Vec<String>,
    /// PEM file of the service's authority
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// File with the enrolment token, or - for standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// The machine room
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Node IP that this host proposes
    #[arg(long, value_name = "IP")]
    ip: Option<String>,
    /// Believe this service from now on, whomever the host believed before
    #[arg(long)]
    replace_trust: bool,
}

pub async fn run(common: &Common, args: &EnrolArgs) -> anyhow::Result<u8> {
    let root = common.root();
    let token = token(&root, args)?;
    write(&root, args, token.as_deref())?;
    let mut agent = common.agent()?;
    root.make_dir(paths::STATE_DIR, 0o700)?;
    reset::end(&root)?;
    let facts = boot::facts(&root).await;
    agent.introduce(&facts);
    if args.replace_trust {
        agent.enrolment.replace_trust();
    }
    match agent.enrolment.assignment(PATIENCE).await? {
        Outcome::Enrolled(enrolled) => {
            if let Some(trouble) = enrolled.trouble {
                return Err(trouble.into());
            }
            let assignment = enrolled.assignment;
            let (role, site, generation) = (assignment.role(), &assignment.site, assignment.generation);
            person::done(common, &format!("claimed: {role} of site {site}, generation {generation}"))
        }
        Outcome::Waiting(Waiting::Undecided) => {
            person::done(common, "claimed; the service has not decided yet what this host shall be")?;
            Ok(75)
        }
        Outcome::Waiting(waiting) => {
            output::note(&waiting.to_string());
            person::answer(common)?;
            Ok(75)
        }
    }
}

fn token(root: &Root, args: &EnrolArgs) -> anyhow::Result<Option<String>> {
    match args.token_file.as_deref() {
        None => Ok(None),
        Some("-") => Ok(Some(host::standard_input()?)),
        Some(path) => {
            let text =
                root.read_text(path)?.ok_or_else(|| anyhow::anyhow!("token file {path} is not there"))?;
            Ok(Some(text))
        }
    }
}

fn write(root: &Root, args: &EnrolArgs, token: Option<&str>) -> anyhow::Result<()> {
    root.ensure_dir(paths::CONFIG_DIR)?;
    if let Some(token) = token {
        atomic::write(root, TOKEN, format!("{}\n", token.trim()).as_bytes(), 0o600)?;
    }
    atomic::write(root, DROP_IN, drop_in(args, token.is_some()).as_bytes(), 0o644)?;
    Ok(())
}

fn drop_in(args: &EnrolArgs, has_token: bool) -> String {
    let text = |text: &str| Value::String(text.to_owned()).to_string();
    let mut out =
        format!("# Written by `edge-bootstrap enrol`.\n[central]\nendpoints = [{}]\n", text(&args.central));
    // Writing to a String cannot fail.
    let _ = match &args.ca {
        Some(ca) => writeln!(out, "ca-file = {}", text(ca)),
        None => {
            writeln!(out, "pins = [{}]", args.pin.iter().map(|pin| text(pin)).collect::<Vec<_>>().join(", "))
        }
    };
    if has_token {
        let _ = writeln!(out, "enrol-token-file = {}", text(TOKEN));
    }
    let node = [("site", &args.site), ("ip", &args.ip)];
    if node.iter().any(|(_, value)| value.is_some()) {
        out.push_str("\n[node]\n");
    }
    for (key, value) in node {
        if let Some(value) = value {
            let _ = writeln!(out, "{key} = {}", text(value));
        }
    }
    out
}
