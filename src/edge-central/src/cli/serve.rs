//! `serve` and `info`.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, output};
use crate::ca::{self, CA_FILE};
use crate::files;
use crate::serve::Server;
use crate::service::{Deadlines, Options, SIGNING_KEY};
use crate::sign::Signer;
use crate::store::sites;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address and port.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Names and addresses for the serving certificate; several with commas.
    #[arg(long, value_name = "NAME|IP", value_delimiter = ',', default_value = "localhost")]
    tls_san: Vec<String>,
    /// URL under which hosts reach the service [default: first name and the port].
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    public_url: String,
    /// How long a host must be up before the role policy counts it.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32))]
    steady_seconds: u32,
    /// How often hosts report.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    report_seconds: u64,
}

/// How long the database may take to fold in its log at the end.
const CLOSE: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) async fn run(context: &Context, command: Serve) -> anyhow::Result<()> {
    let options = Options {
        data: context.data.clone(),
        public_url: command.public_url.trim_end_matches('/').to_owned(),
        steady: i64::from(command.steady_seconds),
        report_every: command.report_seconds,
        deadlines: Deadlines::default(),
    };
    let server = Server::bind(command.listen, &command.tls_san, options).await?;
    announce(context, &server)?;
    let store = server.service().store.clone();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        // Every answer is durable before it is given: the service may end at any point.
        () = server.run() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Tasks that still run keep their connections; SQLite recovers its WAL at the
    // next start as well as it folds it in now.
    let _ = tokio::time::timeout(CLOSE, store.close()).await;
    Ok(())
}

fn announce(context: &Context, server: &Server) -> anyhow::Result<()> {
    let address = server.address().context("listening address")?;
    let (url, pin) = (&server.service().options.public_url, server.pin());
    let ca_file = context.data.join(CA_FILE);
    let text = format!("listening on {address}\nurl {url}\npin {pin}\nca {}", ca_file.display());
    output::outcome(
        context.json,
        json!({"listening": address.to_string(), "url": url, "pin": pin, "ca_file": ca_file}),
        &text,
    );
    Ok(())
}

pub(super) async fn info(context: &Context) -> anyhow::Result<()> {
    files::private_directory(&context.data)?;
    let pin = ca::identity(&context.data, &[])?.pin;
    let signing_key: String = Signer::load_or_make(&context.data.join(SIGNING_KEY))?.public().clone().into();
    let store = context.store().await?;
    let url = sites::remembered(&mut *store.read().await?, "public_url").await?;
    let ca_file = context.data.join(CA_FILE);
    let known = url.as_deref().unwrap_or("not yet served");
    let text = format!("url {known}\npin {pin}\nca {}\nsigning-key {signing_key}", ca_file.display());
    let value = json!({"url": url, "pin": pin, "ca_file": ca_file, "signing_key": signing_key});
    output::outcome(context.json, value, &text);
    Ok(())
}
