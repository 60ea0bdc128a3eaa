//! Generation directories: copies for a way back, and which of them stay.
//!
//! Owns four rules: the generation in force, the one before it and the newest
//! good one stay; one that was never finished goes before another is begun, so
//! that it never takes the place of one that can be put back; the last three
//! server tokens stay in `backup/`, because an old snapshot opens only with the
//! token of its day; and the one in force goes on in a generation that is put back,
//! because the datastore opens with no other.

use crate::paths;
use crate::plan::Plan;
use crate::sys::root::FileError;
use crate::sys::{Root, atomic};
use crate::wire::secret::sha256_hex;

/// Files that a way back needs, with their name inside a generation.
pub(super) const COPIES: [(&str, &str); 2] =
    [(paths::K3S_CONFIG, "config.yaml"), (paths::CONTAINERD_CONFIG, "containerd.toml")];

/// How many server tokens are kept.
const TOKENS: usize = 3;

/// Puts copies of the files outside `generations/N/` into it.
pub(super) fn keep_copies(root: &Root, plan: &Plan) -> Result<(), FileError> {
    let Some(generation) = &plan.generation else { return Ok(()) };
    root.make_dir(&format!("{}/{}", paths::GENERATIONS, generation.number), 0o700)?;
    for (path, name) in COPIES {
        if let Some(file) = plan.files.iter().find(|file| file.path == path) {
            atomic::write(root, &paths::generation_file(generation.number, name), &file.bytes, 0o600)?;
        }
    }
    Ok(())
}

/// Removes generations above the one in force, other than `planned`: a pass that
/// was interrupted began them, or they were rolled back.
pub(super) fn drop_unfinished(root: &Root, planned: Option<u64>) -> Result<(), FileError> {
    let in_force = in_force(root)?.unwrap_or(0);
    let is_over = |number: &u64| *number > in_force && Some(*number) != planned;
    numbers(root)?.into_iter().filter(is_over).try_for_each(|number| remove(root, number))
}

/// Removes generations that nothing names any more.
pub(super) fn clean(root: &Root, current: Option<u64>, last_good: Option<u64>) -> Result<(), FileError> {
    let Some(current) = current else { return Ok(()) };
    let numbers = numbers(root)?;
    let previous = numbers.iter().copied().filter(|number| *number < current).max();
    let stays = [Some(current), previous, last_good];
    let goes = |number: &u64| !stays.contains(&Some(*number));
    numbers.into_iter().filter(goes).try_for_each(|number| remove(root, number))
}

fn numbers(root: &Root) -> Result<Vec<u64>, FileError> {
    Ok(root.list(paths::GENERATIONS)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The generation whose files `config.yaml` names.
fn in_force(root: &Root) -> Result<Option<u64>, FileError> {
    let bytes = root.read(paths::K3S_CONFIG)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let named = text.split(paths::GENERATIONS).nth(1).and_then(|rest| rest.strip_prefix('/'));
    Ok(named.and_then(|rest| rest.split_once('/')?.0.parse().ok()))
}

fn remove(root: &Root, number: u64) -> Result<(), FileError> {
    // Without this copy it was never about to be in force: no snapshot has its token.
    if root.exists(&paths::generation_file(number, "config.yaml")) {
        keep_token(root, number)?;
    }
    root.remove_own_dir(&format!("{}/{number}", paths::GENERATIONS))
}

/// Puts the server token in force into generation `number`, which is put back. What
/// that one holds may be the cluster's no more.
pub(super) fn carry_token(root: &Root, number: u64) -> Result<(), FileError> {
    let Some(now) = in_force(root)? else { return Ok(()) };
    let path = paths::generation_file(number, "server-token");
    let token = root.read(&paths::generation_file(now, "server-token"))?.filter(|token| !token.is_empty());
    match (token, root.read(&path)?) {
        (Some(token), Some(before)) if password(&token) != password(&before) => {
            keep_token(root, number)?;
            atomic::write(root, &path, &token, 0o600).map(drop)
        }
        _ => Ok(()),
    }
}

/// Moves the server token of a generation that goes into the backup.
fn keep_token(root: &Root, number: u64) -> Result<(), FileError> {
    let Some(token) = root.read(&paths::generation_file(number, "server-token"))? else { return Ok(()) };
    root.make_dir(paths::BACKUP, 0o700)?;
    let suffix = format!("-{}", &sha256_hex(password(&token))[..12]);
    let kept: Vec<String> = tokens(root)?;
    if kept.iter().any(|name| name.ends_with(&suffix)) {
        return Ok(());
    }
    atomic::write(root, &format!("{}/server-token-{number:010}{suffix}", paths::BACKUP), &token, 0o600)?;
    let names = tokens(root)?;
    for name in names.iter().take(names.len().saturating_sub(TOKENS)) {
        root.remove_file(&format!("{}/{name}", paths::BACKUP))?;
    }
    Ok(())
}

/// Names of the kept tokens, oldest first.
fn tokens(root: &Root) -> Result<Vec<String>, FileError> {
    Ok(root.list(paths::BACKUP)?.into_iter().filter(|name| name.starts_with("server-token-")).collect())
}

/// The bare password: the K10 form around it changes without a rotation.
fn password(token: &[u8]) -> &[u8] {
    let start = token.iter().rposition(|byte| *byte == b':').map_or(0, |at| at + 1);
    token[start..].trim_ascii()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn two_generations_and_three_tokens_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for number in 1..=8_u64 {
            root.make_dir(&format!("{}/{number}", paths::GENERATIONS), 0o700).unwrap();
            let config = paths::generation_file(number, "config.yaml");
            atomic::write(&root, &config, b"x", 0o600).unwrap();
            let token = format!("K10aa::server:password-{}\n", number / 2);
            atomic::write(&root, &paths::generation_file(number, "server-token"), token.as_bytes(), 0o600)
                .unwrap();
            clean(&root, Some(number), None).unwrap();
        }
        assert_eq!(root.list(paths::GENERATIONS).unwrap(), ["7", "8"]);
        assert_eq!(tokens(&root).unwrap().len(), TOKENS);
    }

    #[test]
    fn the_newest_good_generation_stays_and_an_unfinished_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for number in [3, 5, 6, 7] {
            root.make_dir(&format!("{}/{number}", paths::GENERATIONS), 0o700).unwrap();
        }
        root.make_dir("/etc/rancher/k3s", 0o755).unwrap();
        let config = format!("token-file: \"{}\"\n", paths::generation_file(5, "server-token"));
        atomic::write(&root, paths::K3S_CONFIG, config.as_bytes(), 0o600).unwrap();
        drop_unfinished(&root, Some(7)).unwrap();
        assert_eq!(root.list(paths::GENERATIONS).unwrap(), ["3", "5", "7"]);
        clean(&root, Some(7), Some(3)).unwrap();
        assert_eq!(root.list(paths::GENERATIONS).unwrap(), ["3", "5", "7"]);
        clean(&root, Some(7), Some(7)).unwrap();
        assert_eq!(root.list(paths::GENERATIONS).unwrap(), ["5", "7"]);
    }
}
