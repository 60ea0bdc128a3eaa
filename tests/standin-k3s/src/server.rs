//! Owns the start of `k3s server`: decision, datastore, files, listeners,
//! readiness (k3s: pkg/cli/server/server.go). What handlers answer is in `supervisor`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cluster::{Cluster, Me};
use crate::decide::{Found, Outcome, decide};
use crate::http::Reply;
use crate::pki::{self, Leaf, Pair};
use crate::register::{Register, Slot};
use crate::settings::Settings;
use crate::store::{self, Store};
use crate::supervisor::{Phase, Supervisor};
use crate::tls::ClientCheck;
use crate::token::Token;
use crate::{deploy, durable, files, join, listen, log, node, notify, paths, reset, tls, trailer};

/// Real k3s loses its leases within about this time without a quorum.
const LEASES: Duration = Duration::from_secs(20);

/// Seen with v1.36.2 for a wrong or lost token at the restart of a member (k3s:
/// pkg/cluster/storage.go).
pub const OTHER_TOKEN: &str = "bootstrap data already found and encrypted with different token";
const RECONCILE: &str = "failed to bootstrap cluster data: failed to reconcile with local datastore";

/// Runs until the process ends.
pub fn run(settings: &Settings) -> Result<Infallible> {
    if settings.values.on("cluster-reset") {
        reset::run(settings)?;
    }
    reset::clear_flag(settings)?;
    let (cluster, password) = prepare(settings).context("preparing server")?;
    let server = assemble(settings, cluster, password).context("preparing server")?;
    listen_all(settings, &server)?;
    if !settings.values.on("disable-agent") {
        let (settings, server) = (settings.clone(), server.clone());
        std::thread::spawn(move || node::run_on_server(&settings, &server));
    }
    {
        let (settings, server) = (settings.clone(), server.clone());
        std::thread::spawn(move || deploy::run(&settings, &server));
    }
    wait_for_datastore(settings, &server);
    become_ready(settings, &server);
    keep(&server)
}

/// The decision table, then the datastore.
fn prepare(settings: &Settings) -> Result<(Arc<Cluster>, String)> {
    for name in ["cred", "etc", "tls/etcd"] {
        durable::make_dir(&settings.data.server(name))?;
    }
    let tombstone = settings.data.etcd("tombstone").exists();
    let found = Found {
        wal: settings.data.wal().is_dir(),
        tombstone,
        server: settings.server.is_some(),
        token: !settings.token.is_empty(),
        init: settings.values.on("cluster-init"),
        endpoint: settings.values.text("datastore-endpoint").is_some_and(|text| !text.is_empty()),
    };
    let outcome = decide(found);
    settings.record(&format!("{outcome:?}"))?;
    match outcome {
        Outcome::Join => join::client(settings).map(drop)?,
        Outcome::Rejoin | Outcome::Fork => join::move_aside(settings)?,
        _ => {}
    }
    let password = files::server_password(settings)?;
    let given = password.clone().map_or_else(|| pki::random_hex(16), Ok)?;
    let register = match outcome {
        Outcome::Existing { reconcile } => existing(settings, reconcile, password.as_deref(), &given)?,
        Outcome::NewEtcd => new_etcd(settings, &given)?,
        Outcome::Join => join::join(settings)?,
        Outcome::Rejoin => join::rejoin(settings)?,
        Outcome::Fork => new_etcd(settings, &given)?,
        Outcome::Sqlite => return Ok((sqlite(settings, &given)?, given)),
        Outcome::External => bail!("stand-in: an external datastore is not imitated"),
        Outcome::Refuse(message) => bail!(message),
    };
    let me = Me { name: files::member_name(settings)?, peer_url: settings.peer_url(), single: false };
    let leaf = Leaf { name: "etcd-peer", ..Leaf::default() };
    let ca = files::ca(&settings.data, "client-ca")?;
    let pair = files::leaf(&settings.data, "etcd/peer-server-client", &ca, &leaf)?;
    let trust = files::ca(&settings.data, "server-ca")?.cert;
    Ok((Cluster::new(me, register, settings.data.clone(), Some((trust, pair))), given))
}

fn existing(settings: &Settings, reconcile: bool, password: Option<&str>, given: &str) -> Result<Register> {
    log::info("Managed etcd cluster bootstrap already complete and initialized");
    if reconcile && let Err(error) = remote_reconcile(settings) {
        log::warn(&format!("Unable to reconcile with remote datastore: {error:#}"));
    }
    log::info("Reconciling bootstrap data between datastore and disk");
    let register = Register::load_member(&settings.data).context(RECONCILE)?;
    if password.is_none() {
        log::fatal(&format!("Error: starting kubernetes: failed to start cluster: {OTHER_TOKEN}"));
    }
    check_record(settings, &register, given)?;
    Ok(register)
}

/// The token is the key of the CA record (k3s: pkg/cluster/storage.go).
fn check_record(settings: &Settings, register: &Register, password: &str) -> Result<()> {
    if register.with(|s| s.token_id != store::token_id(password)) {
        bail!("{RECONCILE}: {OTHER_TOKEN}");
    }
    files::reconcile(&settings.data, &register.with(|s| s.bootstrap.clone()))
}

fn remote_reconcile(settings: &Settings) -> Result<()> {
    let client = join::client(settings)?;
    let set = join::fetch_set(&client, &settings.server_address()?)?;
    files::reconcile(&settings.data, &set)
}

fn new_store(settings: &Settings, password: &str) -> Result<Store> {
    files::ensure_cas(&settings.data)?;
    let ca = files::ca(&settings.data, "server-ca")?;
    if !settings.token.is_empty() {
        Token::parse_for_server(&settings.token)?.check_pin(&pki::ca_hash(ca.cert.as_bytes()))?;
    }
    Ok(Store {
        cluster_id: pki::random_hex(8)?,
        token_id: store::token_id(password),
        bootstrap: files::collect(&settings.data)?,
        critical: settings.critical(),
        ..Store::default()
    })
}

fn new_etcd(settings: &Settings, password: &str) -> Result<Register> {
    log::info("Managed etcd cluster initializing");
    let sqlite = settings.data.server("db/state.db");
    let migrate = sqlite.exists();
    let mut store = if migrate {
        log::info("Migrating content from sqlite to etcd");
        Register::load(&sqlite)?.read().1
    } else {
        new_store(settings, password)?
    };
    let (name, url) = (files::member_name(settings)?, settings.peer_url());
    store.members.clear();
    store.add_member(&settings.node_name, &name, &url)?;
    store.publish(&name, &url)?;
    store.members.iter_mut().for_each(|member| member.learner = false);
    let register = Register::create_member(&settings.data, Slot { value: store, ..Slot::default() })?;
    if migrate {
        durable::rename(&sqlite, &settings.data.server("db/state.db.migrated"))?;
    }
    Ok(register)
}

fn sqlite(settings: &Settings, password: &str) -> Result<Arc<Cluster>> {
    log::info(
        "Configuring sqlite3 database connection pooling: maxIdle=20, maxOpen=0, maxLifetime=0s, maxIdleTime=2m0s",
    );
    let path = settings.data.server("db/state.db");
    let register = if path.exists() {
        let register = Register::load(&path).context("database disk image is malformed")?;
        check_record(settings, &register, password)?;
        register
    } else {
        let slot = Slot { value: new_store(settings, password)?, ..Slot::default() };
        Register::create(&path, slot)?
    };
    let me = Me { name: settings.node_name.clone(), peer_url: settings.peer_url(), single: true };
    Ok(Cluster::new(me, register, settings.data.clone(), None))
}

fn assemble(settings: &Settings, cluster: Arc<Cluster>, password: String) -> Result<Arc<Supervisor>> {
    let server_ca = files::ca(&settings.data, "server-ca")?;
    let client_ca = files::ca(&settings.data, "client-ca")?;
    let node_password = files::write_tokens(settings, &password, &server_ca)?;
    files::own_keys(&settings.data)?;
    let admin = Leaf { name: "system:admin", group: Some("system:masters"), ..Leaf::default() };
    let admin = files::leaf(&settings.data, "client-admin", &client_ca, &admin)?;
    files::write_kubeconfig(settings, &server_ca, &admin)?;
    Ok(Arc::new(Supervisor {
        cluster,
        check: ClientCheck::new(&client_ca.cert)?,
        server_ca,
        client_ca,
        held_password: Mutex::new(password.clone()),
        server_password: password,
        node_password,
        data: settings.data.clone(),
        critical: settings.critical(),
        node_name: settings.node_name.clone(),
        phase: AtomicU8::new(0),
    }))
}

/// The serving certificate; its cache file is kept as k3s keeps it, and a
/// zero-length or damaged one hangs the start for ever (k3s #14220).
fn serving(settings: &Settings, server: &Supervisor) -> Result<Pair> {
    let path = settings.data.tls("dynamic-cert.json");
    if let Ok(bytes) = std::fs::read(&path)
        && serde_json::from_slice::<serde_json::Value>(&bytes).is_err()
    {
        loop {
            log::error(&format!(
                "dynamiclistener [::]:{}: failed to update cert with connection local address: EOF",
                settings.port()
            ));
            std::thread::sleep(Duration::from_secs(5));
        }
    }
    let mut dns: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        .map(str::to_owned)
        .to_vec();
    dns.push(settings.node_name.clone());
    let mut ips = settings.node_ips.clone();
    ips.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    for name in settings.values.list("tls-san") {
        match name.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns.push(name),
        }
    }
    let leaf = Leaf { name: "k3s", group: Some("k3s"), dns, ips, serves: true };
    let pair = pki::issue(&server.server_ca, &leaf)?;
    let cache = json!({"cert": pair.cert});
    durable::write(&path, &serde_json::to_vec(&cache)?, 0o600)?;
    Ok(pair)
}

fn listen_all(settings: &Settings, server: &Arc<Supervisor>) -> Result<()> {
    let local = paths::loopback();
    if !server.cluster.me.single {
        listen_etcd(settings, server)?;
    }
    let outside = listen::bind(&settings.bind())?;
    let inside = listen::bind(&format!("{local}:{}", settings.port() + 1))?;
    let tls = tls::server(&serving(settings, server)?, &server.check)?;
    for listener in [outside, inside] {
        let server = server.clone();
        listen::https(listener, tls.clone(), move |caller, request| server.handle(caller, request));
    }
    Ok(())
}

/// 2380 for peers, 2379 for nobody, 2381 for health.
fn listen_etcd(settings: &Settings, server: &Arc<Supervisor>) -> Result<()> {
    let peers = listen::bind(&format!("{}:2380", settings.ip()))?;
    let clients = listen::bind(&format!("{}:2379", settings.ip()))?;
    let health = listen::bind(&format!("{}:2381", paths::loopback()))?;
    let leaf = Leaf {
        name: "etcd-server",
        dns: vec!["localhost".into()],
        ips: vec![settings.ip(), paths::loopback()],
        serves: true,
        ..Leaf::default()
    };
    let tls = tls::server(&pki::issue(&server.server_ca, &leaf)?, &server.check)?;
    let peer = server.clone();
    listen::https(peers, tls.clone(), move |caller, request| peer.handle_peer(caller, request));
    listen::https(clients, tls, |_, _| Reply::text(404, "404 page not found"));
    let cluster = server.cluster.clone();
    listen::plain(health, move |request| match (request.path.as_str(), cluster.quorum()) {
        ("/health", true) => Reply::json(200, &json!({"health": "true", "reason": ""})),
        ("/health", false) => Reply::json(503, &json!({"health": "false", "reason": "RAFT NO LEADER"})),
        _ => Reply::text(404, "404 page not found"),
    });
    server.cluster.watch();
    Ok(())
}

/// Loops for ever when this host is no member (k3s: pkg/etcd/etcd.go Test).
fn wait_for_datastore(settings: &Settings, server: &Supervisor) {
    let mut said: Option<Instant> = None;
    while let Err(error) = test_datastore(settings, &server.cluster) {
        if said.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
            log::info(&format!("Failed to test etcd connection: {error:#}"));
            said = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    if !server.cluster.me.single {
        log::info("ETCD server is now running");
    }
    server.enter(Phase::Datastore);
}

fn test_datastore(settings: &Settings, cluster: &Cluster) -> Result<()> {
    if cluster.me.single {
        return Ok(());
    }
    let (name, url) = (&cluster.me.name, settings.peer_url());
    let (known, words) = cluster.with(|s| (s.member(name, &url).cloned(), s.member_words()));
    match known {
        None if cluster.with(|s| s.members.iter().any(|m| m.peer_url == url && m.name.is_empty())) => {
            bail!("etcdserver: rpc not supported for learner")
        }
        None => {
            bail!("this server is not a member of the etcd cluster. Found [{words}], expect: {name}={url}")
        }
        Some(member) if member.learner => bail!("etcdserver: rpc not supported for learner"),
        Some(_) if !cluster.quorum() => bail!("context deadline exceeded: etcdserver: no leader"),
        Some(_) => cluster.update(|_| Ok(())),
    }
}

fn become_ready(settings: &Settings, server: &Supervisor) {
    let slow = std::env::var("K3S_STANDIN_SLOW").ok().and_then(|text| text.parse().ok());
    std::thread::sleep(Duration::from_secs(slow.unwrap_or(0)));
    if trailer::ends() {
        log::fatal("Error: starting kubernetes: this version never comes up");
    }
    server.enter(Phase::Ready);
    log::info("Kube API server is now running");
    log::info(&format!("Server node token is available at {}", settings.data.server("token").display()));
    log::info("k3s is up and running");
    notify::ready();
}

/// Without a quorum the leases run out and k3s shuts down with exit 0
/// (k3s: pkg/signals/signals.go).
fn keep(server: &Supervisor) -> Result<Infallible> {
    let mut lost: Option<Instant> = None;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        if server.cluster.quorum() {
            lost = None;
        } else if lost.get_or_insert_with(Instant::now).elapsed() > LEASES {
            log::error("leaderelection lost for k3s");
            log::shutdown("leaderelection lost for k3s");
        }
    }
}
