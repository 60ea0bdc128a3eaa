//! What is looked at after READY.

use super::*;

mod local_api {
    //! A TLS server that wants a client certificate, as k3s's API does.
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;

    use edge_bootstrap::sys::Root;

    use crate::tls::Ca;

    /// Writes authority and client files below `root` and answers every request
    /// with what `reply` makes of its first line. Gives the port.
    pub fn serve(root: &Root, reply: impl Fn(&str) -> (u16, String) + Send + 'static) -> u16 {
        let ca = Ca::new();
        let (certificate, key) = ca.issue("client");
        for (stem, authority) in [
            ("server/tls/client-admin", "server/tls/server-ca.crt"),
            ("agent/client-kubelet", "agent/server-ca.crt"),
        ] {
            let put = |name: &str, text: &str| {
                let path = root.path(&format!("/var/lib/rancher/k3s/{name}"));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            put(authority, &ca.pem());
            put(&format!("{stem}.crt"), &certificate);
            put(&format!("{stem}.key"), &key);
        }
        listen(ca.server("127.0.0.1"), reply)
    }

    fn listen(
        config: Arc<rustls::ServerConfig>,
        reply: impl Fn(&str) -> (u16, String) + Send + 'static,
    ) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
                let mut request = [0; 4096];
                let Ok(size) = stream.read(&mut request) else { continue };
                let request = String::from_utf8_lossy(&request[..size]).into_owned();
                let (status, body) = reply(request.lines().next().unwrap_or_default());
                let head = format!(
                    "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        port
    }
}

fn ready_node(status: &str) -> String {
    format!(
        r#"{{"status":{{"conditions":[{{"type":"Ready","status":"{status}","reason":"KubeletNotReady"}}]}}}}"#
    )
}

async fn look(lab: &Lab, port: u16) -> Verdict {
    let ports = Ports { server: port, api: port, kubelet: port };
    let probing = Probing {
        root: &lab.root,
        systemd: &lab.systemd,
        containerd: None,
        k3s_unit: Some(K3S),
        node_name: NAME,
        ports,
    };
    verify::look(&probing, &mut Memory::default()).await
}

fn running() -> Lab {
    Lab::with(&[(CONTAINERD, FakeUnit::up()), (K3S, FakeUnit::up())]).private()
}

#[tokio::test]
async fn a_ready_server_is_healthy_and_a_node_that_is_not_degrades_it() {
    for (status, health) in [("True", Health::Healthy), ("False", Health::Degraded)] {
        let lab = running();
        let port = local_api::serve(&lab.root, move |line| match line {
            "GET /readyz HTTP/1.1" => (200, "ok".into()),
            "GET /api/v1/nodes/172-16-36-1 HTTP/1.1" => (200, ready_node(status)),
            _ => (404, String::new()),
        });
        let verdict = look(&lab, port).await;
        assert_eq!(verdict.health, health, "{verdict:#?}");
    }
}

#[tokio::test]
async fn before_ready_nothing_that_k3s_serves_can_fail() {
    let lab = running();
    let port = local_api::serve(&lab.root, |_| (503, "apiserver not ready".into()));
    let failed = look(&lab, port).await;
    assert_eq!(failed.cause.as_deref(), Some("api-server: status 503: apiserver not ready"));
    assert_eq!(failed.health, Health::Failed);
    lab.fake.unit(K3S, |unit| (unit.active, unit.sub) = ("activating".into(), "start".into()));
    let waiting = look(&lab, port).await;
    assert_eq!((waiting.health, waiting.waiting), (Health::Unknown, true), "{waiting:#?}");
}

#[tokio::test]
async fn another_authority_is_no_ready_server() {
    let lab = running();
    let other = running();
    let port = local_api::serve(&other.root, |_| (200, "ok".into()));
    local_api::serve(&lab.root, |_| (200, "ok".into()));
    let verdict = look(&lab, port).await;
    assert_eq!(verdict.health, Health::Failed);
    assert!(verdict.cause.unwrap().starts_with("api-server: ask https://127.0.0.1:"));
}

#[tokio::test]
async fn a_dead_containerd_is_the_first_cause() {
    let lab = Lab::bare().private();
    let verdict = look(&lab, 1).await;
    assert_eq!(verdict.health, Health::Failed);
    assert_eq!(verdict.cause.as_deref(), Some("containerd-unit: containerd.service is inactive/dead"));
}
