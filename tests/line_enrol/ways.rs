//! The ways to the service, and the settings that name them.

use super::*;

#[tokio::test]
async fn endpoints_are_tried_in_order_and_the_good_one_first_next_time() {
    let central = Central::start(Signer::new()).await;
    let (dead, calls) = hang_up().await;
    let other = Central::start(Signer::new()).await;
    let mut host = Host::new(&central);
    host.settings.endpoints = vec![format!("https://{dead}"), other.endpoint(), central.endpoint()];
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh);
    let mut enrolment = host.enrolment();
    let before = calls.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert!(enrolment.poll(Duration::ZERO).await.unwrap().is_none());
    }
    assert_eq!(
        calls.load(Ordering::SeqCst),
        before + 1,
        "only the first question goes through the whole list"
    );
    host.settings.endpoints.pop();
    let trouble = host.enrol().await.trouble.unwrap();
    assert_eq!(trouble.code(), "EB-central-untrusted", "what a person can mend is told, not the dead one");
}

/// Ends every connection at once, and counts them.
async fn hang_up() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (address, calls)
}

#[tokio::test]
async fn an_own_authority_is_enough_and_a_strange_one_is_not() {
    let signer = Signer::new();
    let (central, other) = (Central::with_dates(signer.clone(), 9999).await, Central::start(signer).await);
    let mut host = Host::new(&central);
    host.settings.pins = Vec::new();
    host.settings.ca_file = Some("/etc/edge-bootstrap/central-ca.pem".to_owned());
    assert_eq!(host.once().await.unwrap_err().code(), "EB-central-settings", "the file is not there");
    let file = host.root().path("/etc/edge-bootstrap/central-ca.pem");
    std::fs::write(&file, &other.proof.ca_pem).unwrap();
    assert_eq!(host.once().await.unwrap_err().code(), "EB-central-untrusted");
    std::fs::write(&file, &central.proof.ca_pem).unwrap();
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh);
}

#[tokio::test]
async fn own_resolvers_are_asked_and_the_good_address_is_remembered() {
    let central = Central::start(Signer::new()).await;
    let mut host = Host::new(&central);
    host.settings.endpoints = vec![format!("https://central.invalid:{}", central.address.port())];
    assert_eq!(host.once().await.unwrap_err().code(), "EB-central-unreachable");
    let (resolver, task) = dns().await;
    host.settings.resolvers = vec![resolver];
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh);
    let known = String::from_utf8(host.root().read(CENTRAL).unwrap().unwrap()).unwrap();
    assert!(known.contains("central.invalid") && known.contains("127.0.0.1"), "{known}");
    task.abort();
    host.settings.resolvers = Vec::new();
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh, "by the address that answered before");
    for copy in [CENTRAL.to_owned(), format!("{CENTRAL}.prev")] {
        std::fs::remove_file(host.root().path(&copy)).unwrap();
    }
    assert_eq!(host.enrol().await.trouble.unwrap().code(), "EB-central-unreachable");
    host.settings.addresses = vec![[127, 0, 0, 1].into()];
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh, "by the fixed address");
}

/// Says 127.0.0.1 to every question for an A record.
async fn dns() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let mut answer = packet[..length].to_vec();
            let is_a = answer[length - 3] == 1;
            answer[2] |= 0x80;
            answer[7] = u8::from(is_a);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_proxy_is_used_and_sees_only_the_tunnel() {
    let central = Central::start(Signer::new()).await;
    let mut host = Host::new(&central);
    let heads = Arc::new(Mutex::new(Vec::new()));
    let proxy = proxy(central.address, heads.clone()).await;
    host.settings.endpoints = vec!["https://central.invalid:8443".to_owned()];
    host.settings.proxy = Some(edge_bootstrap::wire::Secret::new(format!("http://user:canary-pass@{proxy}")));
    assert_eq!(host.enrol().await.freshness, Freshness::Fresh);
    let heads = heads.lock().unwrap().join("");
    assert!(heads.contains("CONNECT central.invalid:8443"), "{heads}");
    assert!(heads.to_lowercase().contains("proxy-authorization: basic"), "{heads}");
    assert!(!heads.contains("canary-enrol"), "{heads}");
    host.settings.proxy = Some(edge_bootstrap::wire::Secret::new("http://user:canary-pass@127.0.0.1:9"));
    let trouble = host.enrol().await.trouble.unwrap();
    let text = format!("{} {trouble:?} {:?}", Chain(&trouble), host.settings);
    assert!(trouble.code() == "EB-central-unreachable" && !text.contains("canary"), "{text}");
}

/// A proxy that leads every tunnel to `target`.
async fn proxy(target: SocketAddr, heads: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let heads = heads.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                heads.lock().unwrap().push(String::from_utf8(head).unwrap());
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

// === settings and files ===

#[tokio::test]
async fn without_a_source_the_host_waits_and_says_what_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut enrolment = Enrolment::new(&Root::new(dir.path()), Source::None, Introduction::default(), 1);
    let outcome = enrolment.assignment(PATIENCE).await.unwrap();
    assert!(waiting(outcome).to_string().contains("central.endpoints"));
    assert!(!Root::new(dir.path()).exists(NODE_KEY), "a host that nobody asked for has no key");
}

#[tokio::test]
async fn a_token_that_others_can_read_is_refused() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    let file = host.root().path(TOKEN_FILE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = host.once().await.unwrap_err();
    assert_eq!(error.code(), "EB-secret-exposed");
    assert!(error.to_string().contains(&format!("chmod 600 {TOKEN_FILE}")), "{error}");
    assert!(central.lines().is_empty());
}

#[tokio::test]
async fn a_claim_needs_a_site_and_an_address() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    let mut enrolment = host.enrolment();
    for (introduction, setting) in [
        (Introduction::default(), "node.site"),
        (Introduction { site: "hz-017".to_owned(), ..Introduction::default() }, "node.ip"),
    ] {
        enrolment.introduce(introduction);
        let error = enrolment.assignment(PATIENCE).await.unwrap_err();
        assert!(error.code() == "EB-not-configured" && error.to_string().contains(setting), "{error}");
    }
}

#[tokio::test]
async fn settings_are_taken_over_whole() {
    let text = r#"
        [central]
        endpoints = ["https://central.example.net:8443"]
        addresses = ["203.0.113.7"]
        pins = ["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
        enrol-token-file = "/etc/edge-bootstrap/enrol-token"
        resolvers = ["114.114.114.114"]
        proxy = "http://user:canary@172.16.36.10:3128"
    "#;
    let source = edge_bootstrap::config::Source {
        path: "/etc/edge-bootstrap/config.toml".into(),
        text: text.to_owned(),
    };
    let configuration = edge_bootstrap::config::parse(&[source]).unwrap();
    let Source::Central(central) = Source::from(&configuration.settings) else { panic!("not central") };
    assert_eq!(central.endpoints, ["https://central.example.net:8443"]);
    assert_eq!((central.addresses.len(), central.pins, central.resolvers.len()), (1, vec![[0; 32]], 1));
    assert_eq!(central.token_file.unwrap(), TOKEN_FILE);
    assert!(central.proxy.unwrap().expose().contains("user:canary"));
}
