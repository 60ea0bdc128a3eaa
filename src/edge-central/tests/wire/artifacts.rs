//! Artifacts by digest, whole and in parts.

use reqwest::StatusCode;
use reqwest::header::{ACCEPT_RANGES, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};

use crate::common::{Central, code};

/// More than one chunk, and no two chunks alike.
fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_be_bytes).collect()
}

async fn with_artifact() -> (Central, String) {
    let central = Central::start().await;
    let file = central.dir.path().join("k3s");
    std::fs::write(&file, content()).unwrap();
    let arguments = ["artifact", "add", file.to_str().unwrap(), "--version", "v1.36.2+k3s1"];
    let url = format!("{}/v1/artifacts/{}/k3s", central.url, central.cli(&arguments).trim());
    (central, url)
}

#[tokio::test]
async fn an_artifact_comes_whole_and_without_a_certificate() {
    let (central, url) = with_artifact().await;
    let answer = central.client().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[ACCEPT_RANGES], "bytes");
    assert_eq!(answer.bytes().await.unwrap(), content());
}

#[tokio::test]
async fn a_broken_download_resumes() {
    let (central, url) = with_artifact().await;
    let client = central.client().build().unwrap();
    let rest = client.get(&url).header(RANGE, "bytes=200000-").send().await.unwrap();
    assert_eq!(rest.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(rest.headers()[CONTENT_RANGE], "bytes 200000-1199999/1200000");
    let etag = rest.headers()[ETAG].clone();
    assert_eq!(rest.bytes().await.unwrap(), content()[200_000..]);
    let same = client.get(&url).header(RANGE, "bytes=0-9").header(IF_RANGE, etag).send().await.unwrap();
    assert_eq!(same.status(), StatusCode::PARTIAL_CONTENT);
    let other = client.get(&url).header(RANGE, "bytes=0-9").header(IF_RANGE, "\"x\"").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_range_outside_the_file_is_refused_with_its_length() {
    let (central, url) = with_artifact().await;
    let client = central.client().build().unwrap();
    let outside = client.get(&url).header(RANGE, "bytes=1200000-").send().await.unwrap();
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(outside.headers()[CONTENT_RANGE], "bytes */1200000");
    assert_eq!(code(&outside.json().await.unwrap()), "range_outside");
}

#[tokio::test]
async fn only_digests_name_artifacts() {
    let (central, _) = with_artifact().await;
    let client = central.client().build().unwrap();
    for name in ["..%2F..%2Fcentral.db", "incoming.new", &"0".repeat(64)] {
        let answer = client.get(format!("{}/v1/artifacts/{name}/k3s", central.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{name}");
        assert_eq!(code(&answer.json().await.unwrap()), "artifact_unknown");
    }
}
