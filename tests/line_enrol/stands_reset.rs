//! Enrolment while a reset of the host stands.

use std::time::Duration;

use edge_bootstrap::paths::{ASSIGNMENT, NODE_CERT, NODE_KEY};
use edge_bootstrap::reset::{self, Reset};

use super::Host;
use super::central::{Central, Signer};

/// The daemon talks beside its passes, also while a person resets the host.
#[tokio::test]
async fn a_daemon_asks_for_nothing_while_a_reset_stands() {
    let central = Central::start(Signer::new()).await;
    let host = Host::new(&central);
    host.enrol().await;
    let mut daemon = host.enrolment();
    for finished in [false, true] {
        let reset = Reset { number: 1, forget: true, finished, ..Reset::default() };
        reset::record(&host.root(), &reset).unwrap();
        for path in [ASSIGNMENT, NODE_KEY, NODE_CERT] {
            host.root().remove_file(path).unwrap();
        }
        let error = daemon.poll(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.code(), "EB-reset");
        assert!(daemon.client().is_err(), "nor is anything reported");
        for path in [ASSIGNMENT, NODE_KEY, NODE_CERT] {
            assert!(!host.root().exists(path), "{path} came back");
        }
    }
    reset::end(&host.root()).unwrap();
    host.put_token();
    assert!(host.enrolment().poll(Duration::ZERO).await.unwrap().is_some());
}
