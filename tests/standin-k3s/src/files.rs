//! Owns the files of a server below `D/server`: CA set, leaf certificates,
//! token files, kubeconfig, member name, and how they are compared with the
//! datastore at a start (k3s: pkg/cluster/bootstrap.go,
//! pkg/daemons/control/deps/deps.go). It contacts nobody.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::paths::{self, DataDir};
use crate::pki::{self, Leaf, Pair};
use crate::settings::Settings;
use crate::store::{self, BootFile};
use crate::tls::ClientCheck;
use crate::token::Token;
use crate::{durable, log};

const CAS: &[(&str, &str)] = &[
    ("tls/server-ca", "server"),
    ("tls/client-ca", "client"),
    ("tls/request-header-ca", "request-header"),
    ("tls/etcd/server-ca", "etcd-server"),
    ("tls/etcd/peer-ca", "etcd-peer"),
];
const KEYS: &[&str] = &["tls/service.key", "cred/ipsec.psk"];
/// Keys of a server that no certificate stands beside.
const LONE: &[&str] =
    &["tls/client-kube-proxy", "tls/client-k3s-controller", "tls/client-kubelet", "tls/serving-kubelet"];

/// Makes what is missing of the CA set; what exists stays, even when damaged,
/// because "exists" is enough for k3s.
pub fn ensure_cas(data: &DataDir) -> Result<()> {
    for (path, kind) in CAS {
        let (cert, key) = (data.server(&format!("{path}.crt")), data.server(&format!("{path}.key")));
        if !cert.exists() || !key.exists() {
            let pair = pki::new_ca(kind)?;
            durable::write(&key, pair.key.as_bytes(), 0o600)?;
            durable::write(&cert, pair.cert.as_bytes(), 0o644)?;
        }
    }
    for path in KEYS {
        if !data.server(path).exists() {
            durable::write(&data.server(path), pki::new_key()?.as_bytes(), 0o600)?;
        }
    }
    Ok(())
}

/// Makes the keys that are missing; one that is there and is no key ends the start.
pub fn own_keys(data: &DataDir) -> Result<()> {
    for name in LONE {
        let path = data.server(&format!("{name}.key"));
        whole_key(&path)?;
        if !path.exists() {
            durable::write(&path, pki::new_key()?.as_bytes(), 0o600)?;
        }
    }
    Ok(())
}

/// A key is missing or whole (dynamiclistener: cert/io.go LoadOrGenerateKeyFile).
pub fn whole_key(path: &Path) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(text) if pki::key(&text).is_err() => {
            Err(anyhow!("error loading key from {}: <nil>", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads the CA set for the datastore.
pub fn collect(data: &DataDir) -> Result<BTreeMap<String, BootFile>> {
    let mut all = BTreeMap::new();
    let mut names: Vec<String> = KEYS.iter().map(|path| (*path).to_owned()).collect();
    for (path, _) in CAS {
        names.extend([format!("{path}.crt"), format!("{path}.key")]);
    }
    for name in names {
        let content = read(&data.server(&name))?;
        all.insert(name, BootFile { content, stamp: store::now() });
    }
    Ok(all)
}

/// Writes the CA set of a cluster that this host joins.
pub fn write_set(data: &DataDir, set: &BTreeMap<String, BootFile>) -> Result<()> {
    for (name, file) in set {
        let mode = if Path::new(name).extension().is_some_and(|end| end == "crt") { 0o644 } else { 0o600 };
        durable::write_if_changed(&data.server(name), file.content.as_bytes(), mode)?;
    }
    Ok(())
}

/// k3s: pkg/cluster/bootstrap.go: missing or older is rewritten, at least 3 s
/// newer and different is fatal.
pub fn reconcile(data: &DataDir, set: &BTreeMap<String, BootFile>) -> Result<()> {
    let mut newer = Vec::new();
    for (name, file) in set {
        let path = data.server(name);
        match std::fs::read_to_string(&path) {
            Ok(text) if text == file.content => continue,
            Ok(_) if modified(&path)? >= file.stamp + 3 => newer.push(path.display().to_string()),
            _ => log::warn(&format!("{} will be updated from the datastore.", path.display())),
        }
    }
    if !newer.is_empty() {
        log::fatal(&format!(
            "{} newer than datastore and could cause a cluster outage. Remove the file(s) from disk and \
             restart to be recreated from datastore.",
            newer.join(", ")
        ));
    }
    write_set(data, set)
}

fn modified(path: &Path) -> Result<u64> {
    let at = std::fs::metadata(path)?.modified()?;
    Ok(at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs()))
}

/// A text file, with its path in the error.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// A CA of the set, checked to be readable.
pub fn ca(data: &DataDir, name: &str) -> Result<Pair> {
    let (cert, key) = (data.tls(&format!("{name}.crt")), data.tls(&format!("{name}.key")));
    let pair = Pair { cert: read(&cert)?, key: read(&key)? };
    pki::certs(&pair.cert).with_context(|| cert.display().to_string())?;
    pki::key(&pair.key).with_context(|| key.display().to_string())?;
    Ok(pair)
}

/// A client certificate: made when missing or of another CA. A zero-length or
/// damaged one stays and hinders nothing but its users (seen with v1.36.2).
pub fn leaf(data: &DataDir, name: &str, ca: &Pair, what: &Leaf<'_>) -> Result<Pair> {
    let (cert, key) = (data.tls(&format!("{name}.crt")), data.tls(&format!("{name}.key")));
    if cert.exists() && key.exists() {
        let pair = Pair { cert: read(&cert)?, key: read(&key)? };
        let damaged = pki::certs(&pair.cert).is_err() || pki::key(&pair.key).is_err();
        if damaged || ClientCheck::new(&ca.cert)?.identify(&pki::certs(&pair.cert)?).is_some() {
            return Ok(pair);
        }
    }
    let pair = pki::issue(ca, what)?;
    durable::write(&key, pair.key.as_bytes(), 0o600)?;
    durable::write(&cert, pair.cert.as_bytes(), 0o644)?;
    Ok(pair)
}

/// The password of the server token: from the settings, else from
/// `server/token`, else from `cred/passwd`.
pub fn server_password(settings: &Settings) -> Result<Option<String>> {
    if !settings.token.is_empty() {
        return Ok(Some(Token::parse_for_server(&settings.token)?.password));
    }
    let text = std::fs::read_to_string(settings.data.server("token")).unwrap_or_default();
    if let Ok(token) = Token::parse(text.trim()) {
        return Ok(Some(token.password));
    }
    let text = std::fs::read_to_string(settings.data.server("cred/passwd")).unwrap_or_default();
    let row = text.lines().find(|line| line.split(',').nth(1) == Some("server"));
    Ok(row.and_then(|line| line.split(',').next()).map(str::to_owned))
}

/// `server/token`, `node-token`, `agent-token`, `cred/passwd`. Returns the
/// password that agents use.
pub fn write_tokens(settings: &Settings, password: &str, ca: &Pair) -> Result<String> {
    let data = &settings.data;
    let hash = pki::ca_hash(ca.cert.as_bytes());
    let token = format!("{}\n", Token::full(&hash, "server", password));
    durable::write_if_changed(&data.server("token"), token.as_bytes(), 0o600)?;
    durable::link(&data.server("token"), &data.server("node-token"))?;
    let node = if settings.agent_token.is_empty() {
        durable::link(&data.server("token"), &data.server("agent-token"))?;
        password.to_owned()
    } else {
        let node = Token::parse(&settings.agent_token)?.password;
        let text = format!("{}\n", Token::full(&hash, "node", &node));
        let path = data.server("agent-token");
        if path.is_symlink() {
            std::fs::remove_file(&path)?;
        }
        durable::write_if_changed(&path, text.as_bytes(), 0o600)?;
        node
    };
    write_passwd(data, password, &node)?;
    Ok(node)
}

/// The server's own part of them, when its token is changed while it runs.
pub fn write_server_token(data: &DataDir, password: &str, ca: &Pair, node: &str) -> Result<()> {
    write_passwd(data, password, node)?;
    let token = Token::full(&pki::ca_hash(ca.cert.as_bytes()), "server", password);
    durable::write_if_changed(&data.server("token"), format!("{token}\n").as_bytes(), 0o600)
}

fn write_passwd(data: &DataDir, password: &str, node: &str) -> Result<()> {
    let passwd = format!("{node},node,node,k3s:agent\n{password},server,server,k3s:server\n");
    durable::write_if_changed(&data.server("cred/passwd"), passwd.as_bytes(), 0o600)
}

/// The member name, made once (k3s: pkg/etcd/etcd.go setName); a zero-length file stays and
/// gives an empty name.
pub fn member_name(settings: &Settings) -> Result<String> {
    let path = settings.data.etcd("name");
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(name.trim().into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = format!("{}-{}", settings.node_name, pki::random_hex(4)?);
            durable::write(&path, name.as_bytes(), 0o600)?;
            Ok(name)
        }
        Err(error) => Err(anyhow!("{}: {error}", path.display())),
    }
}

/// `/etc/rancher/k3s/k3s.yaml`, rewritten at each start.
pub fn write_kubeconfig(settings: &Settings, server_ca: &Pair, admin: &Pair) -> Result<()> {
    let encode = |text: &str| STANDARD.encode(text);
    let text = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: \
         https://{}:{}\n  name: default\ncontexts:\n- context:\n    cluster: default\n    user: \
         default\n  name: default\ncurrent-context: default\nkind: Config\nusers:\n- name: default\n  \
         user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encode(&server_ca.cert),
        paths::loopback(),
        settings.port(),
        encode(&admin.cert),
        encode(&admin.key),
    );
    let path = settings.values.text("write-kubeconfig").map_or_else(paths::kubeconfig, Into::into);
    durable::write(&path, text.as_bytes(), 0o600)
}
