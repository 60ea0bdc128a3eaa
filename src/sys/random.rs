//! Random numbers from the kernel, for names and jitter. Keys are made by
//! their own libraries.

use std::fs::File;
use std::io::Read as _;

/// 64 random bits. Falls back to the address-space seed of the standard
/// library where `/dev/urandom` cannot be read: names stay unique enough.
#[must_use]
pub fn number() -> u64 {
    let mut bytes = [0; 8];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => {
            use std::hash::{BuildHasher as _, Hasher as _};
            std::hash::RandomState::new().build_hasher().finish()
        }
    }
}
