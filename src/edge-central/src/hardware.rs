//! What the claim's facts tell about the machine behind a key.
//!
//! Owns the comparison of two sets of hardware. Facts are no secret and no
//! proof: they only ever make a claim wait for a person.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Hardware in classes. Empty means unknown and speaks neither for nor against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Board UUID and serials.
    pub board: BTreeSet<String>,
    /// Permanent MACs.
    pub nics: BTreeSet<String>,
    /// Disk serials.
    pub disks: BTreeSet<String>,
}

impl Hardware {
    /// Reads the classes out of `facts --json`; what is not there is unknown.
    #[must_use]
    pub fn from_facts(facts: &Value) -> Self {
        let board = ["uuid", "product_serial", "board_serial", "chassis_serial"];
        let board = board.iter().filter_map(|key| text(facts.pointer("/identity/board")?, key));
        Self {
            board: board.collect(),
            nics: each(facts, "/network/interfaces", "permanent_mac"),
            disks: each(facts, "/hardware/disks", "serial"),
        }
    }

    /// Another machine than before: board and NICs are known on both sides and
    /// have nothing in common (two classes, one of them the board).
    #[must_use]
    pub fn contradicts(&self, before: &Self) -> bool {
        differ(&self.board, &before.board) && differ(&self.nics, &before.nics)
    }

    /// The same machine: the boards share something, and so do the NICs or the disks
    /// (two classes, one of them the board).
    #[must_use]
    pub fn is_same_machine(&self, other: &Self) -> bool {
        let shares = |one: &BTreeSet<String>, other: &BTreeSet<String>| !one.is_disjoint(other);
        shares(&self.board, &other.board)
            && (shares(&self.nics, &other.nics) || shares(&self.disks, &other.disks))
    }
}

fn differ(one: &BTreeSet<String>, other: &BTreeSet<String>) -> bool {
    !one.is_empty() && !other.is_empty() && one.is_disjoint(other)
}

fn each(facts: &Value, list: &str, key: &str) -> BTreeSet<String> {
    let items = facts.pointer(list).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(|item| text(item, key)).collect()
}

fn text(object: &Value, key: &str) -> Option<String> {
    let text = object.get(key)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine(uuid: &str, mac: &str) -> Hardware {
        Hardware::from_facts(&json!({
            "identity": {"board": {"uuid": uuid, "board_serial": {"unknown": "no DMI"}}},
            "network": {"interfaces": [{"name": "eth0", "permanent_mac": mac}]},
            "hardware": {"disks": {"unknown": "not readable"}},
        }))
    }

    #[test]
    fn unknown_facts_speak_neither_for_nor_against() {
        let unknown = Hardware::from_facts(&json!({}));
        let known = machine("aa", "52:54:00:00:00:01");
        assert!(!unknown.contradicts(&known) && !known.contradicts(&unknown));
        assert!(!unknown.is_same_machine(&known) && !unknown.is_same_machine(&unknown));
    }

    #[test]
    fn a_board_and_one_more_class_tell_a_machine() {
        let set = |text: &str| BTreeSet::from([text.to_owned()]);
        let known = Hardware { board: set("b"), nics: set("n"), disks: set("d") };
        for (nics, disks, is_same) in [("n", "x", true), ("x", "d", true), ("x", "x", false)] {
            let other = Hardware { nics: set(nics), disks: set(disks), ..known.clone() };
            assert_eq!(known.is_same_machine(&other), is_same, "{nics} {disks}");
            assert!(!known.is_same_machine(&Hardware { board: set("x"), ..other }));
        }
    }

    #[test]
    fn a_replaced_board_alone_is_no_contradiction() {
        let before = machine("aa", "52:54:00:00:00:01");
        assert!(!machine("bb", "52:54:00:00:00:01").contradicts(&before));
        assert!(machine("bb", "52:54:00:00:00:02").contradicts(&before));
    }
}
