//! What whoever stands before a quarantined host gets to see.
//!
//! Owns one line on the console and in the journal per boot. Everything else
//! about a copied disk is the pass's: it stops before it does anything.

use tracing::{info, warn};

use crate::boot::Pass;
use crate::paths;
use crate::report::status::one_line;
use crate::sys::{Root, atomic, notify};

/// Holds what was said in this boot.
fn mark() -> String {
    format!("{}/quarantined", paths::RUN_DIR)
}

/// Says it when it is news in this boot; forgets it when a person accepted the hardware.
pub(super) fn tell(root: &Root, pass: &Pass) {
    let was_told = root.exists(&mark());
    let Some(stop) = pass.stop.as_ref().filter(|_| pass.is_quarantined()) else {
        if was_told && root.remove_file(&mark()).is_ok() {
            info!(EDGE_STEP = "identity", "quarantine is over");
        }
        return;
    };
    // The reason grows while drivers come; `status` has all of it.
    if was_told {
        return;
    }
    let line = one_line(&format!("edge-bootstrap: this host is in quarantine: {}", stop.why));
    warn!(EDGE_STEP = "identity", EDGE_CODE = %stop.why.code, EDGE_REASON = %stop.why.reason, "host is in quarantine");
    notify::console(root, &line);
    // Without the mark the line comes again with the next pass, which harms nobody.
    let _ = atomic::write_volatile(root, &mark(), line.as_bytes(), 0o644);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::boot::{Stop, StopKind};
    use crate::plan::Refusal;

    #[test]
    fn the_console_is_told_once_per_boot_and_again_after_a_new_quarantine() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir(paths::RUN_DIR, 0o755).unwrap();
        root.ensure_dir("/dev").unwrap();
        atomic::write(&root, "/dev/console", b"", 0o600).unwrap();
        let told = |pass: &Pass| {
            tell(&root, pass);
            let text = root.read_text("/dev/console").unwrap().unwrap();
            atomic::write(&root, "/dev/console", b"", 0o600).unwrap();
            text
        };
        let why = Refusal::new("EB-copied-disk", "other board", "accept it");
        let copy = Pass { stop: Some(Stop { why, kind: StopKind::Held }), ..Pass::default() };
        assert!(told(&copy).contains("EB-copied-disk: other board; accept it"));
        assert_eq!(told(&copy), "");
        assert_eq!(told(&Pass::default()), "");
        assert!(told(&copy).contains("quarantine"));
    }
}
