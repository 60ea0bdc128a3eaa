//! What a Node object says about its own readiness. Pure.

use serde::Deserialize;

/// The Ready condition of a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeReady {
    /// `True`.
    Ready,
    /// `False`, or `Unknown` when the kubelet went silent; with reason and message.
    NotReady(String),
    /// No such condition: the kubelet has not reported yet.
    NotReported,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// Reads the Ready condition out of a Node as JSON.
///
/// # Errors
/// When it is no Node.
pub fn parse_node(text: &str) -> Result<NodeReady, serde_json::Error> {
    let node: Node = serde_json::from_str(text)?;
    let ready = node.status.conditions.into_iter().find(|condition| condition.kind == "Ready");
    Ok(match ready {
        None => NodeReady::NotReported,
        Some(condition) if condition.status == "True" => NodeReady::Ready,
        Some(condition) => NodeReady::NotReady(
            format!("Ready={} {}: {}", condition.status, condition.reason, condition.message)
                .trim()
                .to_owned(),
        ),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn only_true_is_ready() {
        let node = |status: &str| {
            format!(
                r#"{{"kind":"Node","status":{{"conditions":[
                {{"type":"MemoryPressure","status":"False"}},
                {{"type":"Ready","status":"{status}","reason":"R","message":"why"}}]}}}}"#
            )
        };
        assert_eq!(parse_node(&node("True")).unwrap(), NodeReady::Ready);
        assert_eq!(parse_node(&node("False")).unwrap(), NodeReady::NotReady("Ready=False R: why".into()));
        assert_eq!(parse_node(&node("Unknown")).unwrap(), NodeReady::NotReady("Ready=Unknown R: why".into()));
        assert_eq!(parse_node(r#"{"kind":"Node"}"#).unwrap(), NodeReady::NotReported);
        assert!(parse_node("<html>").is_err());
    }
}
