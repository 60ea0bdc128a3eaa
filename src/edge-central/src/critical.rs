//! What all servers of a room must have alike, as they report it.
//!
//! Owns the comparison that k3s makes only when a server joins (k3s:
//! pkg/cluster/bootstrap.go). Pure, and for people only: nothing is decided by it.

use std::collections::BTreeMap;

/// Keys of k3s in which servers differ: key to value to the names of the servers
/// that were started with it; an empty value is a key that is not set.
pub type Differences = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Compares what servers report, name and values each.
#[must_use]
pub fn differences(servers: &[(String, BTreeMap<String, String>)]) -> Differences {
    let keys = servers.iter().flat_map(|(_, values)| values.keys());
    let mut found = Differences::new();
    for key in keys {
        found.entry(key.clone()).or_insert_with(|| by_value(servers, key));
    }
    found.retain(|_, values| values.len() > 1);
    found
}

fn by_value(servers: &[(String, BTreeMap<String, String>)], key: &str) -> BTreeMap<String, Vec<String>> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, own) in servers {
        values.entry(own.get(key).cloned().unwrap_or_default()).or_default().push(name.clone());
    }
    values
}

/// One line per key, for people.
#[must_use]
pub fn lines(differences: &Differences) -> Vec<String> {
    let side = |(value, names): (&String, &Vec<String>)| {
        let value = if value.is_empty() { "not set" } else { value };
        format!("{value} on {}", names.join(", "))
    };
    let line = |(key, values): (&String, &BTreeMap<String, Vec<String>>)| {
        format!("servers differ in {key}: {}", values.iter().map(side).collect::<Vec<_>>().join("; "))
    };
    differences.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, values: &[(&str, &str)]) -> (String, BTreeMap<String, String>) {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        (name.to_owned(), values.collect())
    }

    #[test]
    fn only_keys_in_which_servers_differ_are_named() {
        let same = ("cluster-cidr", "10.253.0.0/16");
        let servers = [
            server("a", &[same, ("cluster-domain", "room")]),
            server("b", &[same]),
            server("c", &[same, ("cluster-domain", "room")]),
        ];
        let found = lines(&differences(&servers));
        assert_eq!(found, ["servers differ in cluster-domain: not set on b; room on a, c"]);
        assert!(differences(&servers[..1]).is_empty() && differences(&[]).is_empty());
    }
}
