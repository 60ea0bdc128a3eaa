//! Values that k3s would refuse, or that mean something else than they say.
//!
//! Owns the forms of addresses, networks, numbers, switches and URLs. Guesses
//! nothing: a value that is wrong is told, and never corrected.

use std::net::IpAddr;

use crate::facts::network::Cidr;

const ADDRESSES: [&str; 5] =
    ["advertise-address", "bind-address", "cluster-dns", "node-external-ip", "node-ip"];
const NETWORKS: [&str; 2] = ["cluster-cidr", "service-cidr"];
/// What is wrong with the values of `key`; never repeats a secret.
pub(super) fn problem(key: &str, values: &[String]) -> Option<String> {
    if ADDRESSES.contains(&key) {
        return wrong(values, "no IP address", |value| value.parse::<IpAddr>().is_ok());
    }
    if NETWORKS.contains(&key) {
        return wrong(values, "no network like 10.42.0.0/16", |value| value.parse::<Cidr>().is_ok());
    }
    if super::table::is_number(key) {
        return wrong(values, "no number", |value| value.parse::<u64>().is_ok());
    }
    if super::table::is_switch(key) {
        return wrong(values, "neither true nor false", |value| truth(value).is_some());
    }
    if key == "server" {
        return wrong(values, "no https URL", |value| value.starts_with("https://"));
    }
    None
}

fn wrong(values: &[String], what: &str, is_right: fn(&str) -> bool) -> Option<String> {
    let value = values.iter().find(|value| !is_right(value))?;
    Some(format!("{value:?} is {what}, which k3s refuses"))
}

/// As Go's `strconv.ParseBool`, which reads k3s's switches.
pub(super) fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
