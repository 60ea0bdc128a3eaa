//! Sites and nodes for unit tests.

use std::net::{IpAddr, Ipv4Addr};

use edge_bootstrap::wire::Secret;

use crate::settings::SiteSettings;
use crate::store::nodes::{Node, NodeState};
use crate::store::sites::Site;

/// A site with everything that an assignment needs.
pub fn site() -> Site {
    Site {
        name: "hz-017".to_owned(),
        settings: SiteSettings {
            cluster_name: "hz-017".to_owned(),
            k3s_version: Some("v1.36.2+k3s1".to_owned()),
            ..SiteSettings::default()
        },
        epoch: 1,
        server_token: Secret::new("server-canary"),
        previous_server_token: None,
        agent_token: Secret::new("agent-canary"),
        ca_hash: None,
        lease: None,
        revision: 1,
        created_at: 0,
    }
}

/// Host `number` of the room, claimed, without a role.
pub fn node(number: u8) -> Node {
    let letter = char::from(b'a' + number % 26);
    let id = format!("{}{}", letter.to_string().repeat(25), char::from(b'2' + number / 26));
    let ip = IpAddr::V4(Ipv4Addr::new(172, 16, 36, number));
    Node {
        ordinal: i64::from(number),
        state: NodeState::Claimed,
        claimed_at: Some(0),
        ..Node::new(&id, "hz-017", (&format!("172-16-36-{number}"), ip), 0)
    }
}
