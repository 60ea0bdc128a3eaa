//! Puts an earlier generation back in force.
//!
//! Owns the way back: the copies that a generation keeps of its files are
//! written to their places, `config.yaml` last. The server token is the cluster's
//! and goes back with none of them.

use super::generations::{COPIES, carry_token};
use super::{Applied, ApplyError};
use crate::paths;
use crate::sys::{FileError, Root, atomic};

/// Puts generation `number` back. A file that it has no copy of stays, but
/// without a copy of `config.yaml` there is nothing to go back to.
///
/// # Errors
/// When that copy is missing, or a file cannot be read or written.
pub fn rollback(root: &Root, number: u64) -> Result<Applied, ApplyError> {
    let mut applied = Applied { generation: Some(number), ..Applied::default() };
    let copy = paths::generation_file(number, "config.yaml");
    if root.read(&copy)?.is_none() {
        return Err(FileError::new("read", copy, std::io::ErrorKind::NotFound.into()).into());
    }
    carry_token(root, number)?;
    // The commit point is the first of COPIES and must come last.
    for (path, name) in COPIES.iter().rev() {
        let Some(bytes) = root.read(&paths::generation_file(number, name))? else { continue };
        let mode = if *path == paths::K3S_CONFIG { 0o600 } else { 0o644 };
        let change = atomic::write(root, path, &bytes, mode)?;
        applied.note(path, change);
    }
    Ok(applied)
}

/// Whether generation `to` puts anything else in force than `from`: one that differs
/// only by its number, or its server token, is no reason for what k3s does.
#[must_use]
pub fn is_a_way_back(root: &Root, from: u64, to: u64) -> bool {
    let place = |number: u64| format!("{}/{number}", paths::GENERATIONS);
    let names = |number| {
        let names = root.list(&place(number)).unwrap_or_default().into_iter();
        // The manifest names the whole, the token with it.
        let is_own = |name: &String| !["server-token", "manifest.json"].contains(&name.as_str());
        names.filter(is_own).collect::<Vec<_>>()
    };
    let text = |number: u64, name: &str| {
        let bytes = root.read(&paths::generation_file(number, name)).ok().flatten();
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).replace(&format!("{}/", place(number)), ""))
    };
    let all = names(from);
    all != names(to) || all.iter().any(|name| text(from, name) != text(to, name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_keeps_the_server_token_with_which_the_datastore_opens() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.make_dir("/etc/rancher/k3s", 0o755).unwrap();
        for (number, token) in [(4, "K10aa::server:former\n"), (5, "K10aa::server:new\n")] {
            root.make_dir(&format!("{}/{number}", paths::GENERATIONS), 0o700).unwrap();
            let path = paths::generation_file(number, "server-token");
            let config = format!("token-file: \"{path}\"\n");
            atomic::write(&root, &path, token.as_bytes(), 0o600).unwrap();
            for place in [paths::generation_file(number, "config.yaml"), paths::K3S_CONFIG.to_owned()] {
                atomic::write(&root, &place, config.as_bytes(), 0o600).unwrap();
            }
        }
        assert_eq!(rollback(&root, 4).unwrap().generation, Some(4));
        let read = |path: &str| root.read_text(path).unwrap().unwrap();
        assert!(read(paths::K3S_CONFIG).contains("generations/4/server-token"));
        assert_eq!(read(&paths::generation_file(4, "server-token")), "K10aa::server:new\n");
        let kept = root.list(paths::BACKUP).unwrap();
        assert_eq!(read(&format!("{}/{}", paths::BACKUP, kept[0])), "K10aa::server:former\n", "{kept:?}");
    }

    #[test]
    fn a_generation_that_differs_by_its_number_only_is_no_way_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |number: u64, level: &str| {
            root.ensure_dir(&format!("{}/{number}", paths::GENERATIONS)).unwrap();
            let token = paths::generation_file(number, "server-token");
            let config = format!("token-file: \"{token}\"\nkubelet-arg: v={level}\n");
            atomic::write(&root, &paths::generation_file(number, "config.yaml"), config.as_bytes(), 0o600)
                .unwrap();
            let own = ["server-token", "manifest.json"].map(|name| (name, number.to_string()));
            for (name, text) in own.into_iter().chain([("agent-token", "a".to_owned())]) {
                let path = paths::generation_file(number, name);
                atomic::write(&root, &path, text.as_bytes(), 0o600).unwrap();
            }
        };
        put(9, "1");
        put(10, "1");
        assert!(!is_a_way_back(&root, 10, 9));
        put(11, "2");
        assert!(is_a_way_back(&root, 11, 9));
        root.remove_file(&paths::generation_file(10, "agent-token")).unwrap();
        assert!(is_a_way_back(&root, 10, 9));
    }
}
