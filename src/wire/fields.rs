//! Fields of an assignment that this version does not know.
//!
//! Owns the names in each table of the payload. serde passes over a field that
//! it does not know without a word, and a misspelt one would then be no setting
//! at all. What lies below a free-form map is not looked at.

use serde_json::Value;

use super::assignment::Payload;

/// The tables of the payload, one a line: its path and the names in it. One text
/// is smaller in the program than a list of them.
const TABLES: &str = "\
node name ip labels taints
cluster name epoch cluster_cidr service_cidr init ca_hash servers tls_san restore retired rejoin
cluster.restore snapshot sha256 token
cluster.retired name node_id etcd_member
join server_token agent_token previous_server_token
k3s version artifacts config
runtime snapshotter sandbox_image mirrors images
runtime.mirrors registry endpoints
runtime.images url sha256
etcd snapshots
etcd.snapshots schedule retention s3
etcd.snapshots.s3 endpoint bucket folder region access_key secret_key
manifests name content
room name ip role node_id
trust pins signing_keys endpoints
policy repair";

/// Reads a payload; what it does not know is in `unknown`, also of its tables:
/// `cluster.cluster-cidr`.
///
/// # Errors
/// What is no JSON, or has another shape.
pub fn payload(json: &[u8]) -> Result<Payload, serde_json::Error> {
    let mut payload: Payload = serde_json::from_slice(json)?;
    let document: Value = serde_json::from_slice(json)?;
    for (path, names) in TABLES.lines().filter_map(|line| line.split_once(' ')) {
        let found = path.split('.').try_fold(&document, |value, name| value.get(name));
        for field in
            found.into_iter().flat_map(fields).filter(|field| !names.split(' ').any(|it| it == *field))
        {
            payload.unknown.insert(format!("{path}.{field}"), Value::Null);
        }
    }
    Ok(payload)
}

/// Names in a table, or in each one of a list.
fn fields(value: &Value) -> impl Iterator<Item = &String> {
    let tables = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    tables.iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::wire::Secret;
    use crate::wire::assignment::{
        Artifact, Cluster, Etcd, Image, Join, K3s, Manifest, Mirror, Node, Policy, Restore, Retired,
        RoomHost, Runtime, S3, Snapshots, Trust,
    };

    fn text() -> String {
        "x".to_owned()
    }

    fn secret() -> Secret {
        Secret::new("x")
    }

    fn etcd() -> Etcd {
        let s3 = S3 {
            endpoint: text(),
            bucket: text(),
            folder: text(),
            region: text(),
            access_key: secret(),
            secret_key: secret(),
        };
        Etcd { snapshots: Some(Snapshots { schedule: text(), retention: 1, s3: Some(s3) }) }
    }

    fn cluster() -> Cluster {
        Cluster {
            name: text(),
            epoch: 1,
            cluster_cidr: text(),
            service_cidr: text(),
            init: true,
            ca_hash: Some(text()),
            servers: vec![text()],
            tls_san: vec![text()],
            restore: Some(Restore { snapshot: text(), sha256: text(), token: secret() }),
            retired: vec![Retired { name: text(), node_id: text(), etcd_member: text() }],
            rejoin: true,
        }
    }

    /// Every field is named, so that a new one does not compile before it is here.
    fn full() -> Payload {
        let ip = "10.0.0.1".parse().unwrap();
        let artifact = Artifact { urls: vec![text()], sha256: text() };
        let (server_token, agent_token) = (Some(secret()), Some(secret()));
        Payload {
            schema: 1,
            node_id: Some(text()),
            generation: 1,
            issued_at: Some(text()),
            site: text(),
            role: text(),
            node: Some(Node {
                name: text(),
                ip,
                labels: BTreeMap::from([(text(), text())]),
                taints: vec![text()],
            }),
            cluster: Some(cluster()),
            join: Join { server_token, agent_token, previous_server_token: Some(secret()) },
            k3s: Some(K3s {
                version: text(),
                artifacts: BTreeMap::from([(text(), artifact)]),
                config: BTreeMap::from([(text(), json!({"free": {"form": 1}}))]),
            }),
            runtime: Runtime {
                snapshotter: Some(text()),
                sandbox_image: Some(text()),
                mirrors: vec![Mirror { registry: text(), endpoints: vec![text()] }],
                images: vec![Image { url: text(), sha256: text() }],
            },
            etcd: etcd(),
            manifests: vec![Manifest { name: text(), content: text() }],
            room: vec![RoomHost { name: text(), ip, role: text(), node_id: text() }],
            trust: Trust { pins: vec![text()], signing_keys: vec![text()], endpoints: vec![text()] },
            policy: Policy { repair: Some(text()) },
            unknown: BTreeMap::new(),
        }
    }

    fn document() -> Value {
        serde_json::to_value(full()).unwrap()
    }

    fn unknown(document: &Value) -> Vec<String> {
        payload(document.to_string().as_bytes()).unwrap().unknown.into_keys().collect()
    }

    /// Paths of all tables of fixed names: what is below a free-form map is none.
    fn tables(value: &Value, path: &str) -> Vec<String> {
        let inner = value.as_array().map_or(value, |list| &list[0]);
        let Some(table) = inner.as_object() else { return Vec::new() };
        let below = table.iter().flat_map(|(name, value)| tables(value, &format!("{path}.{name}")));
        [path.trim_start_matches('.').to_owned()].into_iter().chain(below).collect()
    }

    #[test]
    fn every_field_of_the_payload_is_known_and_no_other_name_is() {
        let document = document();
        assert_eq!(unknown(&document), [] as [String; 0]);
        let known_tables: Vec<_> = TABLES.lines().filter_map(|line| line.split_once(' ')).collect();
        for (path, names) in &known_tables {
            let found = path.split('.').fold(&document, |value, name| &value[name]);
            let mut named: Vec<&str> = names.split(' ').collect();
            named.sort_unstable();
            let mut there: Vec<&String> = fields(found).collect();
            there.sort_unstable();
            assert_eq!(there, named, "{path}");
        }
        let free = ["k3s.artifacts", "k3s.config", "node.labels"];
        let mut fixed = tables(&document, "");
        fixed.retain(|path| !path.is_empty() && !free.iter().any(|free| path.starts_with(free)));
        fixed.sort_unstable();
        let mut known: Vec<&str> = known_tables.iter().map(|(path, _)| *path).collect();
        known.sort_unstable();
        assert_eq!(fixed, known);
    }

    #[test]
    fn a_misspelt_field_is_told_with_its_table() {
        let mut document = document();
        document["node"]["lables"] = json!({});
        document["cluster"]["cluster-cidr"] = "x".into();
        document["etcd"]["snapshots"]["s3"]["acces_key"] = "canary".into();
        document["manifests"][0]["content "] = 1.into();
        document["runtime"]["snapshoter"] = "x".into();
        document["later"] = 1.into();
        let told = [
            "cluster.cluster-cidr",
            "etcd.snapshots.s3.acces_key",
            "later",
            "manifests.content ",
            "node.lables",
            "runtime.snapshoter",
        ];
        assert_eq!(unknown(&document), told);
    }
}
