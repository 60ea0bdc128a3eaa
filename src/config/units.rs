//! Durations and sizes as people write them. Owns the accepted spellings; a
//! bare number is refused, because its unit would be a guess.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// A duration or a size that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is not a duration such as \"30s\", \"90m\", \"2h\" or \"1h 30m\"")]
    Duration(String),
    /// Not a size.
    #[error("`{0}` is not a size such as \"512MiB\", \"10GiB\" or \"20GB\"")]
    Size(String),
    /// More bytes than 64 bits count.
    #[error("`{0}` is more than 16 EiB")]
    TooLarge(String),
}

/// Reads a duration: whole numbers with `ms`, `s`, `m`, `h`, `d` or `w`, several of them added up.
///
/// # Errors
/// [`UnitError::Duration`] for everything else, a bare number included.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let refused = || UnitError::Duration(text.escape_debug().to_string());
    if !text.chars().any(|letter| letter.is_ascii_alphabetic()) {
        return Err(refused());
    }
    humantime::parse_duration(text).map_err(|_| refused())
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Largest first, so that printing finds the largest unit that divides.
const BINARY: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || UnitError::Size(text.escape_debug().to_string());
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(refused)?;
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(refused());
        }
        let factor = factor(unit.strip_prefix(' ').unwrap_or(unit)).ok_or_else(refused)?;
        let large = || UnitError::TooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| large())?;
        number.checked_mul(factor).map(Self).ok_or_else(large)
    }
}

fn factor(unit: &str) -> Option<u64> {
    if unit == "B" {
        return Some(1);
    }
    BINARY.iter().chain(&DECIMAL).find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = BINARY.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match exact {
            Some((name, factor)) => write!(out, "{}{name}", self.0 / factor),
            None => write!(out, "{}B", self.0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, seconds) in [("30s", 30), ("2h", 7200), ("1h 30m", 5400), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        for text in ["", " ", "0", "30", "-30s", "30 lightyears", "s", "1.2.3s", "99999999999999999999h"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("7B", 7),
            ("10GiB", 10_737_418_240),
            ("10 GiB", 10_737_418_240),
            ("20GB", 20_000_000_000),
            ("1kB", 1000),
            ("1KiB", 1024),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "10", "10G", "10gib", "GiB", "-1GiB", "1.5GiB", "10  GiB", "10GiB "] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::Size(text.to_owned())), "{text}");
        }
        for text in ["16777216TiB", "99999999999999999999B"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::TooLarge(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_printed_size_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 30, (1 << 30) + 1, u64::MAX] {
            let size = ByteSize(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert_eq!(ByteSize(10 << 30).to_string(), "10GiB");
    }
}
