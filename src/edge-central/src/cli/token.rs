//! `token`: enrolment tokens. The text of a token is shown once.

use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use super::{Context, output, site};
use crate::store::audit::Entry;
use crate::store::tokens::{self, Token};
use crate::store::{audit, commit};
use crate::{clock, ids};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print it, this once.
    Create {
        /// The site that it is for.
        #[arg(long, value_name = "SITE")]
        site: String,
        /// How many hosts it may bring in.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        uses: u64,
        /// How long it works.
        #[arg(long, value_name = "DURATION", default_value = "72h", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// Its hosts may become servers; without this a token alone gives agents.
        #[arg(long)]
        allow_server: bool,
    },
    /// List the tokens, without their text.
    List,
    /// End a token.
    Revoke {
        /// Its id.
        id: String,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { site, uses, ttl, allow_server } => {
            let now = clock::now();
            let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
            let token = Token {
                id: ids::short_id()?,
                site,
                uses,
                used: 0,
                expires_at: now.saturating_add(ttl),
                allow_server,
                revoked: false,
                created_at: now,
            };
            create(context, token).await
        }
        Command::List => list(context).await,
        Command::Revoke { id } => revoke(context, &id).await,
    }
}

async fn create(context: &Context, token: Token) -> anyhow::Result<()> {
    let secret = ids::password()?;
    let store = context.store().await?;
    let mut tx = store.write().await?;
    site::find(&mut tx, &token.site).await?;
    tokens::add(&mut tx, &token, &secret).await?;
    let entry = Entry { site: Some(token.site.clone()), ..context.entry("token-create", token.id.clone()) };
    audit::add(&mut tx, &entry).await?;
    commit(tx).await?;
    let mut value = token_json(&token);
    if let Some(object) = value.as_object_mut() {
        object.insert("token".to_owned(), json!(secret.expose()));
    }
    output::outcome(context.json, value, secret.expose());
    Ok(())
}

fn token_json(token: &Token) -> serde_json::Value {
    json!({
        "id": token.id, "site": token.site, "uses": token.uses, "used": token.used,
        "expires": clock::rfc3339(token.expires_at), "allow_server": token.allow_server, "revoked": token.revoked,
    })
}

fn token_row(token: &Token) -> Vec<String> {
    let gives = if token.allow_server { "server" } else { "agent" };
    let state = match (token.revoked, clock::now() < token.expires_at, token.used < token.uses) {
        (true, _, _) => "revoked",
        (_, false, _) => "expired",
        (_, _, false) => "used up",
        _ => "valid",
    };
    vec![
        token.id.clone(),
        token.site.clone(),
        format!("{}/{}", token.used, token.uses),
        clock::rfc3339(token.expires_at),
        gives.to_owned(),
        state.to_owned(),
    ]
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let store = context.store().await?;
    let tokens = tokens::list(&mut *store.read().await?).await?;
    output::list(
        context.json,
        "tokens",
        &tokens,
        token_json,
        token_row,
        &["ID", "SITE", "USED", "EXPIRES", "GIVES", "STATE"],
    );
    Ok(())
}

async fn revoke(context: &Context, id: &str) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    if !tokens::revoke(&mut tx, id).await? {
        bail!("there is no token {id}; `edge-central token list` names them");
    }
    audit::add(&mut tx, &context.entry("token-revoke", id)).await?;
    commit(tx).await?;
    output::outcome(context.json, json!({"id": id, "revoked": true}), &format!("token {id} revoked"));
    Ok(())
}
