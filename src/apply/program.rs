//! A program that came by digest, before it is put in force.
//!
//! Owns that it is asked who it is: the digest says that it is the file of the
//! assignment, and only its own word that this is the k3s that was meant, for
//! this machine. Switches nothing.

use std::time::Duration;

use crate::error::Chain;
use crate::paths::FIXTURES;
use crate::plan::{PlannedArtifact, binary};
use crate::sys::{Root, exec};

/// On a cold disk a program of 70 MB takes seconds to load.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest part of its own words that is told.
const WORDS: usize = 160;

/// Why the program at `at` is not what `artifact` wants. Below a foreign root
/// nothing is run: it may be for another machine.
///
/// # Errors
/// With the words for that.
pub(super) async fn fits(root: &Root, artifact: &PlannedArtifact, at: &str) -> Result<(), String> {
    let begin = root.begin(at, 64).map_err(|error| Chain(&error).to_string())?.unwrap_or_default();
    binary::is_built_for(&begin, &artifact.arch)?;
    if root.is_host() {
        return binary::is_version(&ask(at).await?, &artifact.version);
    }
    match root.read_text(&format!("{FIXTURES}/k3s-version")) {
        Ok(Some(printed)) => binary::is_version(&printed, &artifact.version),
        _ => Ok(()),
    }
}

/// What `program --version` prints. k3s reads the host's configuration first and
/// ends at a broken one (k3s: cmd/k3s/main.go), so it is given an empty one.
async fn ask(program: &str) -> Result<String, String> {
    let args = ["K3S_CONFIG_FILE=/dev/null", program, "--version"];
    match exec::run("env", &args, DEADLINE).await {
        Ok(output) if output.code == Some(0) => Ok(output.stdout.trim().to_owned()),
        Ok(output) => {
            let last = output.stderr.trim().lines().last().unwrap_or("it said nothing");
            let last: String = last.chars().take(WORDS).collect();
            let ended = output.code.map_or_else(|| "by a signal".to_owned(), |code| format!("with {code}"));
            Err(format!("it does not run here: {program} --version ended {ended}: {last}"))
        }
        Err(error) => Err(format!("it does not run here: {}", Chain(&error))),
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and makes programs"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn says(script: &[u8], mode: u32) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k3s");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        ask(path.to_str().unwrap()).await
    }

    #[tokio::test]
    async fn a_program_is_asked_without_the_hosts_configuration() {
        let script = b"#!/bin/sh\necho \"$1 $K3S_CONFIG_FILE $HOME\"\n";
        assert_eq!(says(script, 0o755).await.unwrap(), "--version /dev/null");
    }

    #[tokio::test]
    async fn a_program_that_does_not_run_is_told_in_its_own_words() {
        for (script, mode, words) in [
            (
                &b"#!/bin/sh\necho first >&2\necho 'no such library' >&2\nexit 3\n"[..],
                0o755,
                "ended with 3: no such library",
            ),
            (b"#!/bin/sh\nkill -9 $$\n", 0o755, "ended by a signal: it said nothing"),
            // A cut file of a format that the kernel does not know.
            (b"\x7fELF\x02\x01\x01", 0o755, "ended with"),
            (b"#!/bin/sh\nexit 0\n", 0o644, "ended with 126"),
        ] {
            let why = says(script, mode).await.unwrap_err();
            assert!(why.starts_with("it does not run here: ") && why.contains(words), "{why}");
        }
    }
}
