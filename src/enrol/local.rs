//! A local assignment file instead of a central service, and files with secrets.
//!
//! Owns that such a file is root's alone, and its TOML form. It is not signed:
//! whoever may write it is root. Its digest takes the place of a generation.

use super::EnrolError;
use crate::role::{Assignment, validate};
use crate::sys::Root;
use crate::wire::secret::sha256_hex;
use crate::wire::written;

/// Reads and validates the assignment file at `path`.
///
/// # Errors
/// When there is none, others can read it, or it is not an assignment.
pub fn assignment(root: &Root, path: &str) -> Result<Assignment, EnrolError> {
    let Some(text) = read_secret(root, path)? else {
        let problem = "is not there, and central.assignment-file names it".to_owned();
        return Err(EnrolError::Unusable { path: path.to_owned(), problem });
    };
    let payload = written::payload(&text).map_err(|error| EnrolError::Unusable {
        path: path.to_owned(),
        problem: format!("is not an assignment: {error}"),
    })?;
    validate(&payload, sha256_hex(text.as_bytes())).map_err(EnrolError::Invalid)
}

/// Reads a text file that holds secrets; `None` when there is none.
///
/// # Errors
/// [`EnrolError::Exposed`] when anybody but the owner of the system may read or
/// write it; file errors.
pub fn read_secret(root: &Root, path: &str) -> Result<Option<String>, EnrolError> {
    let Some(stat) = root.stat(path)? else { return Ok(None) };
    // The owner of `/` is root on a host, and whoever runs a test in a test.
    let system = root.stat("/")?.map_or(0, |stat| stat.uid);
    if stat.mode & 0o077 != 0 || (stat.uid != system && stat.uid != 0) {
        return Err(EnrolError::Exposed { path: path.to_owned(), mode: stat.mode, owner: stat.uid });
    }
    Ok(root.read_text(path)?)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and breaks files by hand"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::role::Role;

    const FILE: &str = "/assignment.toml";
    const TEXT: &str = r#"
schema = 1
site = "hz-017"
role = "server"
[node]
name = "172-16-36-1"
ip = "172.16.36.1"
[cluster]
name = "hz-017"
init = true
[join]
server_token = "canary-server"
agent_token = "canary-agent"
[k3s]
version = "v1.36.2+k3s1"
"#;

    fn put(root: &Root, text: &str, mode: u32) {
        std::fs::write(root.path(FILE), text).unwrap();
        std::fs::set_permissions(root.path(FILE), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_digest_tells_two_files_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        put(&root, TEXT, 0o600);
        let first = assignment(&root, FILE).unwrap();
        assert_eq!((first.role(), first.generation), (Role::Server, 0));
        assert_eq!(assignment(&root, FILE).unwrap().digest, first.digest);
        put(&root, &TEXT.replace("36.1", "36.2"), 0o600);
        assert_ne!(assignment(&root, FILE).unwrap().digest, first.digest);
    }

    #[test]
    fn a_file_that_others_can_use_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for mode in [0o644, 0o640, 0o620, 0o604] {
            put(&root, TEXT, mode);
            let error = assignment(&root, FILE).unwrap_err();
            assert_eq!(error.code(), "EB-secret-exposed");
            assert!(error.to_string().contains("chmod 600 /assignment.toml"), "{error}");
        }
        put(&root, TEXT, 0o400);
        assert!(assignment(&root, FILE).is_ok());
    }

    #[test]
    fn errors_name_the_place_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(assignment(&root, FILE).unwrap_err().to_string().contains("is not there"));
        for (text, place) in [
            (TEXT.replace("\"canary-server\"", "\"canary-server"), "line 12"),
            (TEXT.replace("\"canary-server\"", "[\"canary-server\"]"), "line 12"),
            (TEXT.replace("schema = 1", "schema = \"canary-1\""), "line 2"),
            (TEXT.replace("canary-server", "canary server"), "join.server_token"),
        ] {
            put(&root, &text, 0o600);
            let error = assignment(&root, FILE).unwrap_err();
            let text = crate::error::Chain(&error).to_string();
            assert!(text.contains(place) && !text.contains("canary"), "{text}");
        }
    }
}
