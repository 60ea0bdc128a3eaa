//! The site's statement: from the service, on disk, and from host to host.

use std::net::IpAddr;
use std::time::Instant;

use edge_bootstrap::enrol::peers::{self, Asked};
use edge_bootstrap::sys::datagram::Datagrams;
use edge_bootstrap::wire::envelope::Envelope;
use edge_bootstrap::wire::statement::{PORT, Question};

use super::*;

/// A statement about `site`.
fn about(signer: &Signer, site: &str, epoch: u64) -> Envelope {
    let issued_at = "2026-11-21T10:00:00Z";
    signer.sign(&json!({"schema": 1, "site": site, "cluster": site, "epoch": epoch, "issued_at": issued_at}))
}

/// A host that took over an assignment, with `statement` beside it.
async fn claimed(signer: &Arc<Signer>, statement: Option<Envelope>) -> (Central, Host) {
    let central = Central::start(signer.clone()).await;
    central.state().statement = statement;
    let host = Host::new(&central);
    host.enrol().await;
    (central, host)
}

/// The epoch of the statement that counts, as a later start finds it.
fn told(host: &Host) -> Option<u64> {
    let node_id = credential::node_id(&host.root()).unwrap().unwrap();
    cache::load(&host.root(), &node_id).unwrap().told.map(|told| told.epoch)
}

/// A host of the room that answers everything with `answer`.
fn peer(ip: &str, answer: Vec<u8>) -> IpAddr {
    let ip: IpAddr = ip.parse().unwrap();
    let socket = std::net::UdpSocket::bind((ip, PORT)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((size, from)) = socket.recv_from(&mut buffer) {
            assert!(Question::is_asked(&buffer[..size], "hz-017", answer.len().min(1024)));
            socket.send_to(&answer, from).unwrap();
        }
    });
    ip
}

fn json_of(envelope: &Envelope) -> Vec<u8> {
    serde_json::to_vec(envelope).unwrap()
}

async fn ask(host: &Host, peers: &[IpAddr], patience: Duration) -> Option<u64> {
    let from = "127.0.0.1".parse().unwrap();
    peers::highest(&host.root(), Asked { from, peers, patience }).await.unwrap()
}

#[tokio::test]
async fn a_statement_is_kept_with_the_assignment_and_only_a_higher_epoch_replaces_it() {
    let signer = Signer::new();
    let (central, host) = claimed(&signer, Some(about(&signer, "hz-017", 2))).await;
    assert_eq!(told(&host), Some(2));
    let mut generation = 7;
    for (statement, expected) in [(None, 2), (Some(1), 2), (Some(3), 3)]
        .map(|(epoch, kept): (Option<u64>, u64)| (epoch.map(|epoch| about(&signer, "hz-017", epoch)), kept))
    {
        generation += 1;
        central.state().statement = statement;
        central.assign(payload(generation));
        let enrolled = host.enrol().await;
        assert_eq!(enrolled.told.unwrap().epoch, expected);
        assert_eq!(told(&host), Some(expected));
    }
}

#[tokio::test]
async fn a_statement_that_does_not_count_costs_no_assignment() {
    let signer = Signer::new();
    for wrong in [
        about(&Signer::new(), "hz-017", 2),
        about(&signer, "hz-018", 2),
        signer.sign(&payload(9)),
        Envelope { payload: "?".to_owned(), ..about(&signer, "hz-017", 2) },
    ] {
        let (_central, host) = claimed(&signer, Some(wrong)).await;
        assert_eq!(told(&host), None);
        assert_eq!(host.enrol().await.assignment.generation, 7);
    }
}

#[tokio::test]
async fn the_highest_epoch_that_a_peer_proves_is_taken_over_and_kept() {
    let signer = Signer::new();
    let (_central, host) = claimed(&signer, Some(about(&signer, "hz-017", 1))).await;
    let peers = [
        peer("127.64.17.1", json_of(&about(&signer, "hz-017", 2))),
        peer("127.64.17.2", json_of(&about(&signer, "hz-017", 4))),
        peer("127.64.17.3", json_of(&about(&signer, "hz-017", 3))),
    ];
    let began = Instant::now();
    assert_eq!(ask(&host, &peers, PATIENCE).await, Some(4));
    assert!(began.elapsed() < PATIENCE, "all have answered, nobody is waited for");
    assert_eq!(told(&host), Some(4), "and this host can prove it to others");
    assert_eq!(ask(&host, &peers[..1], PATIENCE).await, Some(2));
    assert_eq!(told(&host), Some(4));
}

#[tokio::test]
async fn what_no_peer_can_prove_is_as_good_as_silence_and_ends_in_time() {
    let signer = Signer::new();
    let (_central, host) = claimed(&signer, Some(about(&signer, "hz-017", 1))).await;
    let patience = Duration::from_millis(900);
    let peers = [
        peer("127.64.18.1", json_of(&about(&Signer::new(), "hz-017", 9))),
        peer("127.64.18.2", json_of(&about(&signer, "hz-018", 9))),
        peer("127.64.18.3", json_of(&signer.sign(&payload(9)))),
        peer("127.64.18.4", b"{".to_vec()),
        "127.64.18.5".parse().unwrap(),
    ];
    let began = Instant::now();
    assert_eq!(ask(&host, &peers, patience).await, None);
    assert!(began.elapsed() >= patience && began.elapsed() < patience * 3, "{:?}", began.elapsed());
    assert_eq!(told(&host), Some(1));
}

#[tokio::test]
async fn a_lost_question_is_asked_again() {
    let signer = Signer::new();
    let (_central, host) = claimed(&signer, None).await;
    let ip: IpAddr = "127.64.19.1".parse().unwrap();
    let answer = json_of(&about(&signer, "hz-017", 2));
    let late = async {
        let socket = Datagrams::bind(ip, PORT).await.unwrap();
        let mut buffer = [0; 2048];
        socket.receive(&mut buffer).await.unwrap();
        let (_, from) = socket.receive(&mut buffer).await.unwrap();
        socket.send(&answer, from).await.unwrap();
    };
    let peers = [ip];
    assert_eq!(tokio::join!(ask(&host, &peers, PATIENCE), late).0, Some(2));
}

#[tokio::test]
async fn a_host_that_has_claimed_nowhere_asks_nobody() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    assert_eq!(ask(&host, &["127.64.20.1".parse().unwrap()], PATIENCE).await, None);
}
