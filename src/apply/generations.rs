//! Generation directories: copies for a way back, and which of them stay.
//!
//! Owns two rules: the generation in force and the one before it stay; the last
//! three server tokens stay in `backup/`, because an old snapshot opens only
//! with the token of its day.

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

/// Removes generations that nothing names any more.
pub(super) fn clean(root: &Root, current: Option<u64>) -> Result<(), FileError> {
    let Some(current) = current else { return Ok(()) };
    let mut numbers: Vec<u64> =
        root.list(paths::GENERATIONS)?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    let previous = numbers.iter().copied().filter(|number| *number < current).max();
    for number in numbers.into_iter().filter(|number| *number != current && Some(*number) != previous) {
        keep_token(root, number)?;
        root.remove_own_dir(&format!("{}/{number}", paths::GENERATIONS))?;
    }
    Ok(())
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
            let token = format!("K10aa::server:password-{}\n", number / 2);
            atomic::write(&root, &paths::generation_file(number, "server-token"), token.as_bytes(), 0o600)
                .unwrap();
            clean(&root, Some(number)).unwrap();
        }
        assert_eq!(root.list(paths::GENERATIONS).unwrap(), ["7", "8"]);
        assert_eq!(tokens(&root).unwrap().len(), TOKENS);
    }
}
