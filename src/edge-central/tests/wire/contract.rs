//! `docs/openapi.yaml` says what the service does.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_central::refusal::Code;
use serde_json::{Value, json};

use crate::common::{Central, SITE};

fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn required(document: &Value, schema: &str) -> BTreeSet<String> {
    let names = document["components"]["schemas"][schema]["required"].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// What an envelope holds, without a look at its signature.
fn open(envelope: &Value) -> Value {
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[test]
fn the_list_of_error_codes_is_the_documented_one() {
    let listed = document()["components"]["schemas"]["ErrorCode"]["enum"].clone();
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    assert_eq!(listed, json!(known));
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(root: &Value, value: &Value) {
        match value {
            Value::Object(object) => {
                if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                    assert!(root.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
                }
                object.values().for_each(|value| check(root, value));
            }
            Value::Array(items) => items.iter().for_each(|value| check(root, value)),
            _ => {}
        }
    }
    check(&document(), &document());
}

#[tokio::test]
async fn answers_have_the_documented_fields() {
    let (central, document) = (Central::start().await, document());
    let mut host = central.host(1);
    assert_eq!(keys(&host.claim(None).await.1), required(&document, "Pending"));
    let (_, claimed) = host.claim(Some(&central.server_token("1"))).await;
    assert_eq!(keys(&claimed), required(&document, "Claimed"));
    let envelope: Value = host.ask(0, 15).await.json().await.unwrap();
    assert_eq!(keys(&envelope), keys(&document["components"]["schemas"]["Granted"]["properties"]));
    assert_eq!(keys(&envelope["statement"]), required(&document, "Envelope"));
    let statement: Value = open(&envelope["statement"]);
    assert_eq!(keys(&statement), required(&document, "Statement"));
    let report = host.report_body(1, &json!({}));
    assert_eq!(keys(&host.send_report(&report).await.1), required(&document, "ReportAnswer"));
    let (_, refused) = central.host(2).claim(Some("wrong")).await;
    assert_eq!(keys(&refused), required(&document, "Error"));
    let (payload, _) = host.assignment(0).await;
    let payload = serde_json::to_value(&payload).unwrap();
    assert!(required(&document, "Assignment").is_subset(&keys(&payload)));
    let documented = keys(&document["components"]["schemas"]["Assignment"]["properties"]);
    assert!(keys(&payload).is_subset(&documented));
    assert_eq!(payload["site"], SITE);
}
