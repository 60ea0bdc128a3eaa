//! State files: JSON with a checksum and one earlier copy.
//!
//! Owns the form `{"schema":1,"sha256":"…","body":…}` and the fall-back to
//! `PATH.prev`. A damaged file is never taken for a missing one: the caller
//! learns which of the two it was.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::atomic;
use super::root::{FileError, Root};

/// What loading a state file gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// There is no such file and no earlier copy.
    Absent,
    /// The file is whole.
    Good(T),
    /// The file is damaged; this is its earlier copy.
    Previous {
        /// Content of the earlier copy.
        value: T,
        /// What is wrong with the newer one.
        damage: String,
    },
}

impl<T> Loaded<T> {
    /// The value, whichever copy it came from.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Absent => None,
            Self::Good(value) | Self::Previous { value, .. } => Some(value),
        }
    }

    /// The damage that made the earlier copy count.
    pub fn damage(&self) -> Option<&str> {
        match self {
            Self::Previous { damage, .. } => Some(damage),
            _ => None,
        }
    }
}

/// A state file that cannot be used or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// Neither copy can be read.
    #[error("{path} is damaged ({damage}) and has no usable earlier copy")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        damage: String,
    },
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// The value has no JSON form.
    #[error("encode {path}")]
    Encode {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(serde::Deserialize)]
struct Frame<'a> {
    schema: u32,
    sha256: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Serialize)]
struct FrameOut<'a> {
    schema: u32,
    sha256: String,
    body: &'a RawValue,
}

/// Loads `path`, or its earlier copy when it is damaged.
///
/// # Errors
/// [`StateError::Damaged`] when neither copy is whole.
pub fn load<T: DeserializeOwned>(root: &Root, path: &str) -> Result<Loaded<T>, StateError> {
    let damage = match decode(root, path)? {
        Decoded::Good(value) => return Ok(Loaded::Good(value)),
        Decoded::Absent => None,
        Decoded::Damaged(damage) => Some(damage),
    };
    match (decode(root, &previous(path))?, damage) {
        // A cut between the two renames of `store` leaves only the earlier copy.
        (Decoded::Good(value), damage) => {
            Ok(Loaded::Previous { value, damage: damage.unwrap_or_else(|| "file is missing".to_owned()) })
        }
        (Decoded::Absent, None) => Ok(Loaded::Absent),
        (_, damage) => Err(StateError::Damaged {
            path: path.to_owned(),
            damage: damage.unwrap_or_else(|| "file is missing and its earlier copy is damaged".to_owned()),
        }),
    }
}

/// Stores `value` with mode 0600 and keeps the copy that was there.
///
/// # Errors
/// When it cannot be encoded or written; the old file is then still there.
pub fn store<T: Serialize>(root: &Root, path: &str, value: &T) -> Result<atomic::Change, StateError> {
    let bytes = encode(value).map_err(|source| StateError::Encode { path: path.to_owned(), source })?;
    let now = root.read(path)?;
    if now.as_deref() == Some(bytes.as_slice()) {
        return Ok(atomic::Change::Unchanged);
    }
    if let Some(now) = now.filter(|now| frame_is_whole(now)) {
        atomic::write(root, &previous(path), &now, 0o600)?;
    }
    let change = atomic::write(root, path, &bytes, 0o600)?;
    // The first content is its own earlier copy, so that one damaged file is never all there
    // was. After the file itself: a copy alone would count as one whose newer one was lost.
    if !root.exists(&previous(path)) {
        atomic::write(root, &previous(path), &bytes, 0o600)?;
    }
    Ok(change)
}

/// Stores `value` in the place of two copies that cannot be read, which are kept in
/// `directory`. Damage stays damage until a new copy is whole: between a move and a
/// write there would be no file, as if there never had been one.
///
/// # Errors
/// When it cannot be encoded, or a file cannot be kept or written.
pub fn store_anew<T: Serialize>(
    root: &Root,
    path: &str,
    directory: &str,
    value: &T,
) -> Result<atomic::Change, StateError> {
    keep(root, path, directory, Root::hard_link)?;
    root.sync_dir(directory)?;
    let bytes = encode(value).map_err(|source| StateError::Encode { path: path.to_owned(), source })?;
    atomic::write(root, &previous(path), &bytes, 0o600)?;
    Ok(atomic::write(root, path, &bytes, 0o600)?)
}

/// Moves `path` and its earlier copy into `directory`, where nothing is overwritten.
///
/// # Errors
/// When one cannot be moved.
pub fn set_aside(root: &Root, path: &str, directory: &str) -> Result<(), FileError> {
    keep(root, path, directory, Root::rename)
}

fn keep(
    root: &Root,
    path: &str,
    directory: &str,
    how: fn(&Root, &str, &str) -> Result<(), FileError>,
) -> Result<(), FileError> {
    root.make_dir(directory, 0o700)?;
    for from in [path.to_owned(), previous(path)] {
        // Its inode's number names it: no other file has that one while this one is kept,
        // and it is kept once however often a pass fails behind this.
        if let Some(stat) = root.stat(&from)? {
            let name = from.rsplit('/').next().unwrap_or(&from);
            how(root, &from, &format!("{directory}/{name}.{:016x}", stat.inode))?;
        }
    }
    Ok(())
}

fn previous(path: &str) -> String {
    format!("{path}.prev")
}

enum Decoded<T> {
    Absent,
    Good(T),
    Damaged(String),
}

fn decode<T: DeserializeOwned>(root: &Root, path: &str) -> Result<Decoded<T>, StateError> {
    let Some(bytes) = root.read(path)? else { return Ok(Decoded::Absent) };
    let body = match whole_body(&bytes) {
        Ok(body) => body,
        Err(damage) => return Ok(Decoded::Damaged(damage)),
    };
    Ok(match serde_json::from_str::<Value>(body.get()).and_then(T::deserialize) {
        Ok(value) => Decoded::Good(value),
        Err(error) => Decoded::Damaged(error.to_string()),
    })
}

fn whole_body(bytes: &[u8]) -> Result<&RawValue, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let frame: Frame<'_> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if frame.schema != 1 {
        return Err(format!("schema {} is unknown", frame.schema));
    }
    if digest(frame.body) != frame.sha256 {
        return Err("checksum does not fit".to_owned());
    }
    Ok(frame.body)
}

fn frame_is_whole(bytes: &[u8]) -> bool {
    whole_body(bytes).is_ok()
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::value::to_raw_value(value)?;
    let mut bytes = serde_json::to_vec(&FrameOut { schema: 1, sha256: digest(&body), body: &body })?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn digest(body: &RawValue) -> String {
    use std::fmt::Write as _;
    Sha256::digest(body.get().as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_and_bit_flip_is_noticed_and_falls_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        store(&root, "/s", &"first").unwrap();
        store(&root, "/s", &"second").unwrap();
        let whole = root.read("/s").unwrap().unwrap();
        for cut in 0..whole.len() - 1 {
            std::fs::write(root.path("/s"), &whole[..cut]).unwrap();
            let loaded: Loaded<String> = load(&root, "/s").unwrap();
            assert!(matches!(&loaded, Loaded::Previous { value, .. } if value == "first"), "cut at {cut}");
        }
        for flip in 0..whole.len() - 1 {
            let mut bytes = whole.clone();
            bytes[flip] ^= 0x04;
            std::fs::write(root.path("/s"), &bytes).unwrap();
            assert_ne!(
                load::<String>(&root, "/s").unwrap(),
                Loaded::Good("second".to_owned()),
                "flip at {flip}"
            );
        }
    }

    #[test]
    fn the_first_content_is_its_own_earlier_copy() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        store(&root, "/s", &"first").unwrap();
        std::fs::write(root.path("/s"), b"").unwrap();
        let loaded: Loaded<String> = load(&root, "/s").unwrap();
        assert!(matches!(&loaded, Loaded::Previous { value, .. } if value == "first"));
    }

    #[test]
    fn damage_without_a_copy_is_not_absence() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(load::<String>(&root, "/s").unwrap(), Loaded::Absent);
        std::fs::write(root.path("/s"), b"").unwrap();
        assert!(matches!(load::<String>(&root, "/s"), Err(StateError::Damaged { .. })));
    }

    /// No JSON: its store ends before the first write, as a cut there does.
    struct Cut;

    impl Serialize for Cut {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("cut"))
        }
    }

    #[test]
    fn damage_stays_damage_until_a_new_copy_is_whole_and_is_kept_once() {
        for [file, copy] in [[Some("{"), Some("[")], [Some("{"), None], [None, Some("[")]] {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path());
            for (path, text) in [("/s", file), ("/s.prev", copy)] {
                if let Some(text) = text {
                    std::fs::write(root.path(path), text).unwrap();
                }
            }
            for _ in 0..2 {
                store_anew(&root, "/s", "/kept", &Cut).unwrap_err();
                assert!(matches!(load::<String>(&root, "/s"), Err(StateError::Damaged { .. })));
            }
            store_anew(&root, "/s", "/kept", &"new").unwrap();
            let kept = root.list("/kept").unwrap();
            let texts: Vec<Vec<u8>> =
                kept.iter().map(|name| root.read(&format!("/kept/{name}")).unwrap().unwrap()).collect();
            let damaged: Vec<&[u8]> = [file, copy].into_iter().flatten().map(str::as_bytes).collect();
            assert_eq!(texts, damaged, "{kept:?}");
            for damage in ["/s.prev", "/s"] {
                assert_eq!(load::<String>(&root, "/s").unwrap().value().as_deref(), Some("new"));
                std::fs::write(root.path(damage), "").unwrap();
            }
        }
    }

    #[test]
    fn a_damaged_file_never_becomes_the_earlier_copy() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        store(&root, "/s", &"first").unwrap();
        store(&root, "/s", &"second").unwrap();
        std::fs::write(root.path("/s"), b"{").unwrap();
        store(&root, "/s", &"third").unwrap();
        std::fs::write(root.path("/s"), b"{").unwrap();
        assert_eq!(load::<String>(&root, "/s").unwrap().value().as_deref(), Some("first"));
    }
}
