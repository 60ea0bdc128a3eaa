//! `site`: machine rooms and their settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use edge_bootstrap::role::Role;
use edge_bootstrap::role::words::SiteName;
use edge_bootstrap::wire::assignment::{Image, Manifest, Mirror};
use edge_bootstrap::wire::report::Report;
use serde_json::json;
use sqlx::SqliteConnection;

use super::node::{NODE_HEADS, node_json, node_row};
use super::{Context, output, read_json};
use crate::settings::SiteSettings;
use crate::store::audit::Entry;
use crate::store::nodes::{self, Document, Node, NodeState};
use crate::store::retired::{self, Retirement};
use crate::store::sites::{self, Site};
use crate::store::{artifacts, audit, commit};
use crate::{assign, clock, critical, files, ids};

/// What a server reports while it holds another token than the site's.
const TOKEN_CHANGES: &str = "EB-token-rotate";
const SITE_HEADS: &[&str] = &["SITE", "EPOCH", "K3S", "CA-HASH", "LEASE"];

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a site.
    Add {
        /// Its name.
        name: SiteName,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// List the sites.
    List,
    /// Show one site with its hosts.
    Show {
        /// Its name.
        name: String,
    },
    /// Change settings of a site.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Give the site a new server token: its servers take it one after the other,
    /// without a restart. Snapshots of before need the token of before.
    RotateToken {
        /// Its name.
        name: String,
    },
    /// Begin the site's datastore anew: raises the epoch and frees the init
    /// lease. Only when its cluster is lost for good.
    Reinit {
        /// The name of the site, to confirm.
        #[arg(long, value_name = "SITE")]
        confirm: String,
    },
}

/// Settings; an empty value takes an optional one away.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// Cluster name [default: the site's name].
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// Pod network.
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: Option<String>,
    /// Service network.
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    /// Further names for the cluster's serving certificate; several with commas.
    #[arg(long, value_name = "NAME|IP", value_delimiter = ',')]
    tls_san: Option<Vec<String>>,
    /// k3s to run [default: the newest artifact named k3s].
    #[arg(long, value_name = "VERSION")]
    k3s_version: Option<String>,
    /// Further k3s keys, as a JSON object.
    #[arg(long, value_name = "FILE|-")]
    k3s_config_file: Option<PathBuf>,
    /// auto, overlayfs or devmapper.
    #[arg(long, value_name = "NAME")]
    snapshotter: Option<String>,
    /// Pause image.
    #[arg(long, value_name = "IMAGE")]
    sandbox_image: Option<String>,
    /// Registry mirror; may be repeated, replaces all mirrors.
    #[arg(long = "mirror", value_name = "REGISTRY=URL[,URL]")]
    mirrors: Option<Vec<String>>,
    /// Archive of images that every host imports; may be repeated, replaces all
    /// archives.
    #[arg(long = "image", value_name = "SHA256=URL")]
    images: Option<Vec<String>>,
    /// etcd snapshots with their S3 keys, as a JSON object.
    #[arg(long, value_name = "FILE|-")]
    snapshots_file: Option<PathBuf>,
    /// Manifest named eb-NAME.yaml; may be repeated, replaces all manifests.
    #[arg(long = "manifest", value_name = "FILE")]
    manifests: Option<Vec<String>>,
    /// What agents may do by themselves: observe, safe or disruptive.
    #[arg(long, value_name = "POLICY")]
    repair: Option<String>,
}

pub(super) async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { name, settings } => add(context, name.as_str(), *settings).await,
        Command::List => list(context).await,
        Command::Show { name } => show(context, &name).await,
        Command::Set { name, settings } => set(context, &name, *settings).await,
        Command::RotateToken { name } => rotate_token(context, &name).await,
        Command::Reinit { confirm } => reinit(context, &confirm).await,
    }
}

/// The site of this name.
pub(super) async fn find(conn: &mut SqliteConnection, name: &str) -> anyhow::Result<Site> {
    let site = sites::get(conn, name).await?;
    site.with_context(|| format!("there is no site {name}; `edge-central site list` names them"))
}

async fn add(context: &Context, name: &str, settings: Settings) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    if sites::get(&mut tx, name).await?.is_some() {
        bail!("there is a site {name} already; `edge-central site set {name}` changes it");
    }
    let defaults = SiteSettings {
        cluster_name: name.to_owned(),
        k3s_version: newest_k3s(&mut tx).await?,
        ..SiteSettings::default()
    };
    let site = Site {
        name: name.to_owned(),
        settings: settings.apply(defaults)?,
        epoch: 1,
        server_token: ids::password()?,
        previous_server_token: None,
        agent_token: ids::password()?,
        ca_hash: None,
        lease: None,
        revision: 0,
        created_at: clock::now(),
    };
    check(&mut tx, &site).await?;
    sites::add(&mut tx, &site).await?;
    audit::add(&mut tx, &about(context, "site-add", name)).await?;
    commit(tx).await?;
    output::outcome(context.json, json!({"site": name}), &format!("site {name} added"));
    Ok(())
}

async fn newest_k3s(conn: &mut SqliteConnection) -> anyhow::Result<Option<String>> {
    let artifacts = artifacts::list(conn).await?;
    Ok(artifacts.into_iter().find(|file| file.name == "k3s").map(|file| file.version))
}

async fn check(conn: &mut SqliteConnection, site: &Site) -> anyhow::Result<()> {
    let artifacts = artifacts::list(conn).await?;
    let url = sites::remembered(conn, "public_url").await?;
    let url = url.unwrap_or_else(|| "https://localhost".to_owned());
    Ok(assign::check(site, &artifacts, &url)?)
}

fn about(context: &Context, action: &str, site: &str) -> Entry {
    Entry { site: Some(site.to_owned()), ..context.entry(action, "") }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let store = context.store().await?;
    let sites = sites::list(&mut *store.read().await?).await?;
    output::list(context.json, "sites", &sites, site_json, site_row, SITE_HEADS);
    Ok(())
}

fn site_json(site: &Site) -> serde_json::Value {
    let settings = &site.settings;
    json!({
        "name": site.name, "epoch": site.epoch, "ca_hash": site.ca_hash, "lease": site.lease,
        "revision": site.revision, "created": clock::rfc3339(site.created_at),
        "cluster_name": settings.cluster_name, "cluster_cidr": settings.cluster_cidr,
        "service_cidr": settings.service_cidr, "tls_san": settings.tls_san,
        "k3s_version": settings.k3s_version, "k3s_config": settings.k3s_config,
        "snapshotter": settings.snapshotter, "sandbox_image": settings.sandbox_image,
        "mirrors": settings.mirrors, "images": settings.images, "has_snapshots": settings.snapshots.is_some(),
        "manifests": settings.manifests.iter().map(|manifest| &manifest.name).collect::<Vec<_>>(),
    })
}

fn site_row(site: &Site) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        site.name.clone(),
        site.epoch.to_string(),
        or_dash(&site.settings.k3s_version),
        site.ca_hash.as_ref().map_or_else(|| "-".to_owned(), |hash| hash.chars().take(12).collect()),
        or_dash(&site.lease),
    ]
}

async fn show(context: &Context, name: &str) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.read().await?;
    let site = find(&mut tx, name).await?;
    let nodes = nodes::of_site(&mut tx, name).await?;
    let differences = critical::differences(&critical_values(&mut tx, &site, &nodes).await?);
    let leavers = retired::open(&mut tx, name).await?;
    let mut value = site_json(&site);
    if let Some(object) = value.as_object_mut() {
        object.insert("nodes".to_owned(), nodes.iter().map(node_json).collect());
        object.insert("servers_differ_in".to_owned(), json!(differences));
        object.insert("leaving".to_owned(), leavers.iter().map(leaver_json).collect());
    }
    if context.json {
        output::object(value);
        return Ok(());
    }
    output::list(false, "sites", &[site], site_json, site_row, SITE_HEADS);
    output::list(false, "nodes", &nodes, node_json, node_row, NODE_HEADS);
    critical::lines(&differences).iter().for_each(|line| output::line(line));
    leavers.iter().for_each(|it| output::line(&leaver_line(it)));
    Ok(())
}

fn leaver_json(it: &Retirement) -> serde_json::Value {
    json!({
        "id": it.node_id, "name": it.name, "ip": it.ip, "etcd_member": it.member,
        "successor": it.successor, "ordered": clock::rfc3339(it.ordered_at),
    })
}

fn leaver_line(it: &Retirement) -> String {
    let since = clock::rfc3339(it.ordered_at);
    format!(
        "{} ({}) has not left the cluster yet, ordered {since}; the live servers say why",
        it.name, it.node_id
    )
}

/// What each server of this life of the cluster says of the values that all must
/// have alike; older versions say nothing.
async fn critical_values(
    conn: &mut SqliteConnection,
    site: &Site,
    nodes: &[Node],
) -> anyhow::Result<Vec<(String, BTreeMap<String, String>)>> {
    let mut found = Vec::new();
    let is_server = |node: &&Node| node.role == Some(Role::Server) && node.state == NodeState::Claimed;
    for node in nodes.iter().filter(is_server) {
        let Some(text) = nodes::document_of(conn, &node.id, Document::Report).await? else { continue };
        let report: Report = serde_json::from_str(&text).context("read a stored report")?;
        if report.epoch == site.epoch && !report.cluster.critical.is_empty() {
            found.push((node.name.clone(), report.cluster.critical));
        }
    }
    Ok(found)
}

async fn set(context: &Context, name: &str, settings: Settings) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    let mut site = find(&mut tx, name).await?;
    site.settings = settings.apply(site.settings)?;
    check(&mut tx, &site).await?;
    sites::save(&mut tx, &site).await?;
    audit::add(&mut tx, &about(context, "site-set", name)).await?;
    commit(tx).await?;
    output::outcome(context.json, json!({"site": name}), &format!("site {name} changed"));
    Ok(())
}

async fn rotate_token(context: &Context, name: &str) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    let mut site = find(&mut tx, name).await?;
    if let Some(server) = last_to_change(&mut tx, &site).await? {
        bail!(
            "{server} has not said yet that it holds the token of the last change, and one that misses two \
             knows neither: look at it first, or retire it (`edge-central node retire {server}`)"
        );
    }
    site.previous_server_token = Some(std::mem::replace(&mut site.server_token, ids::password()?));
    sites::save(&mut tx, &site).await?;
    audit::add(&mut tx, &about(context, "site-rotate-token", name)).await?;
    commit(tx).await?;
    let told = format!("site {name} has a new server token; its servers take it one after the other");
    output::outcome(context.json, json!({"site": name}), &told);
    Ok(())
}

/// A server that may still hold the token before the site's.
async fn last_to_change(conn: &mut SqliteConnection, site: &Site) -> anyhow::Result<Option<String>> {
    if site.previous_server_token.is_none() {
        return Ok(None);
    }
    let is_server = |node: &Node| node.role == Some(Role::Server) && node.state == NodeState::Claimed;
    for node in nodes::of_site(conn, &site.name).await?.into_iter().filter(is_server) {
        let report = nodes::document_of(conn, &node.id, Document::Report).await?;
        let report: Option<Report> = report.map(|text| serde_json::from_str(&text)).transpose()?;
        let is_told = |report: &Report| report.findings.iter().any(|finding| finding.code == TOKEN_CHANGES);
        let holds = report.is_some_and(|report| !is_told(&report));
        let is_newest = node.issued_revision >= site.revision && node.reported.generation == node.generation;
        if !(holds && is_newest) {
            return Ok(Some(node.name));
        }
    }
    Ok(None)
}

/// What hosts saw of the old datastore says nothing about the new one.
async fn reinit(context: &Context, name: &str) -> anyhow::Result<()> {
    let store = context.store().await?;
    let mut tx = store.write().await?;
    let mut site = find(&mut tx, name).await?;
    site.epoch += 1;
    (site.ca_hash, site.lease) = (None, None);
    for mut node in nodes::of_site(&mut tx, name).await? {
        (node.reported.ca_hash, node.reported.ca_mismatch) = (None, None);
        nodes::save(&mut tx, &node).await?;
    }
    sites::save(&mut tx, &site).await?;
    retired::end_all(&mut tx, name, clock::now()).await?;
    let detail = format!("epoch {}", site.epoch);
    audit::add(&mut tx, &Entry { detail: detail.clone(), ..about(context, "site-reinit", name) }).await?;
    commit(tx).await?;
    let value = json!({"site": name, "epoch": site.epoch});
    output::outcome(context.json, value, &format!("site {name} begins anew with {detail}"));
    Ok(())
}

impl Settings {
    fn apply(self, mut to: SiteSettings) -> anyhow::Result<SiteSettings> {
        put(&mut to.cluster_name, self.cluster_name);
        put(&mut to.cluster_cidr, self.cluster_cidr);
        put(&mut to.service_cidr, self.service_cidr);
        put(&mut to.tls_san, self.tls_san.map(without_empty));
        put_optional(&mut to.k3s_version, self.k3s_version);
        put_optional(&mut to.snapshotter, self.snapshotter);
        put_optional(&mut to.sandbox_image, self.sandbox_image);
        put_optional(&mut to.policy.repair, self.repair);
        if let Some(mirrors) = self.mirrors {
            to.mirrors = without_empty(mirrors).iter().map(|text| mirror(text)).collect::<Result<_, _>>()?;
        }
        if let Some(images) = self.images {
            to.images = without_empty(images).iter().map(|text| image(text)).collect::<Result<_, _>>()?;
        }
        if let Some(path) = self.k3s_config_file {
            to.k3s_config = read_json(&path)?;
        }
        if let Some(path) = self.snapshots_file {
            to.snapshots = read_json(&path)?;
        }
        if let Some(paths) = self.manifests {
            to.manifests =
                without_empty(paths).iter().map(|path| manifest(path)).collect::<Result<_, _>>()?;
        }
        Ok(to)
    }
}

fn put<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

fn put_optional(to: &mut Option<String>, value: Option<String>) {
    if let Some(value) = value {
        *to = (!value.is_empty()).then_some(value);
    }
}

fn without_empty(values: Vec<String>) -> Vec<String> {
    values.into_iter().filter(|value| !value.is_empty()).collect()
}

fn mirror(text: &str) -> anyhow::Result<Mirror> {
    let (registry, urls) =
        text.split_once('=').with_context(|| format!("mirror {text:?} is not REGISTRY=URL"))?;
    Ok(Mirror { registry: registry.to_owned(), endpoints: urls.split(',').map(str::to_owned).collect() })
}

/// The digest comes first, because a URL may hold `=`.
fn image(text: &str) -> anyhow::Result<Image> {
    let (sha256, url) = text.split_once('=').with_context(|| format!("image {text:?} is not SHA256=URL"))?;
    Ok(Image { url: url.to_owned(), sha256: sha256.to_owned() })
}

fn manifest(path: &str) -> anyhow::Result<Manifest> {
    let path = PathBuf::from(path);
    let name = path.file_name().and_then(|name| name.to_str()).context("a manifest needs a file name")?;
    Ok(Manifest { name: name.to_owned(), content: files::read_argument(&path)? })
}
