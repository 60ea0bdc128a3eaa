//! Privileged acts: what the daemon's sandbox forbids, done by systemd for it.
//!
//! Owns the way from a name and its words to `edge-bootstrap act NAME …` in a
//! transient unit, and what became of it. What an act does is `cli/act`'s; each
//! may be done twice.

use std::time::Duration;

use thiserror::Error;

use crate::sys::systemd::{Ran, Systemd, SystemdError, Transient};
use crate::sys::{Root, host};

/// Why an act was not done.
#[derive(Debug, Error)]
pub enum ActError {
    /// Acts change the running host, which is not the one below this root.
    #[error("act {0}: not on a foreign root")]
    ForeignRoot(String),
    /// The path of this program is not known.
    #[error("act {name}: find this program's file")]
    Program {
        /// Name of the act.
        name: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// systemd did not take it, or not tell its end.
    #[error("act {name}: ask systemd")]
    Systemd {
        /// Name of the act.
        name: String,
        /// Why not.
        #[source]
        source: SystemdError,
    },
    /// It ended with a failure.
    #[error("act {name}: failed ({result}{}); run: journalctl -u {unit}", status.map_or_else(String::new, |status| format!(", status {status}")))]
    Failed {
        /// Name of the act.
        name: String,
        /// Its unit.
        unit: String,
        /// `exit-code`, `signal`, `timeout`, …
        result: String,
        /// Exit status, or number of the signal.
        status: Option<i32>,
    },
    /// It has not ended in time.
    #[error("act {name}: {unit} did not end within {seconds} s")]
    Unfinished {
        /// Name of the act.
        name: String,
        /// Its unit.
        unit: String,
        /// The limit in seconds.
        seconds: u64,
    },
}

impl ActError {
    /// Exit status of the act, when it has exited with one.
    #[must_use]
    pub fn exit_status(&self) -> Option<i32> {
        match self {
            Self::Failed { status, result, .. } if result == "exit-code" => *status,
            _ => None,
        }
    }
}

/// Name of the unit in which an act runs.
#[must_use]
pub fn unit(name: &str) -> String {
    format!("edge-bootstrap-act-{name}.service")
}

/// Runs `edge-bootstrap act NAME ARGUMENTS…` outside our sandbox, to its end.
/// One that runs already is waited for. Arguments are seen by everybody: no
/// secrets.
///
/// # Errors
/// On a root that is not the running host, when systemd is not reached, and
/// when the act failed or did not end within `limit`.
pub async fn run_act(
    (root, systemd): (&Root, &Systemd),
    name: &str,
    arguments: &[String],
    limit: Duration,
) -> Result<(), ActError> {
    let owned = || name.to_owned();
    if !root.is_host() {
        return Err(ActError::ForeignRoot(owned()));
    }
    let program = host::program().map_err(|source| ActError::Program { name: owned(), source })?;
    let mut command = vec![program, "act".to_owned(), owned()];
    command.extend_from_slice(arguments);
    let transient =
        Transient { unit: unit(name), description: format!("edge-bootstrap: act {name}"), command, limit };
    let ran = systemd.run_transient(&transient).await;
    match ran.map_err(|source| ActError::Systemd { name: owned(), source })? {
        Ran::Done => Ok(()),
        Ran::Failed { result, status } => {
            Err(ActError::Failed { name: owned(), unit: transient.unit, result, status })
        }
        Ran::Running => {
            Err(ActError::Unfinished { name: owned(), unit: transient.unit, seconds: limit.as_secs() })
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_done_for_a_root_that_is_not_the_running_host() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let systemd = Systemd::new(&root);
        let limit = Duration::from_secs(1);
        let error = run_act((&root, &systemd), "set-clock", &[], limit).await.unwrap_err();
        assert_eq!(error.to_string(), "act set-clock: not on a foreign root");
    }

    #[test]
    fn a_failed_act_names_its_status_and_where_its_words_are() {
        let failed = ActError::Failed {
            name: "set-clock".into(),
            unit: unit("set-clock"),
            result: "exit-code".into(),
            status: Some(1),
        };
        assert_eq!(
            failed.to_string(),
            "act set-clock: failed (exit-code, status 1); run: journalctl -u edge-bootstrap-act-set-clock.service"
        );
        assert_eq!(failed.exit_status(), Some(1));
    }
}
