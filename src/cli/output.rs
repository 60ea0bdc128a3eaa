//! The one place that prints.
//!
//! Owns standard output and standard error; colour and progress only on a
//! terminal, and not with `NO_COLOR`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one place that prints")]

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::apply::Progress;
use crate::boot::Watcher;

/// Prints text to standard output. A reader that has gone is no error.
pub fn text(text: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
}

/// Prints a value as JSON to standard output.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    // By way of a value: each type then has one serialiser in the program, not three.
    text(&serde_json::to_string_pretty(&serde_json::to_value(value)?)?);
    Ok(())
}

/// Prints one error to standard error.
pub fn error(message: &str) {
    let style = anstyle::AnsiColor::Red.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {message}");
}

/// Prints one line to standard error.
pub fn note(message: &str) {
    let _ = writeln!(anstream::stderr(), "{message}");
}

/// Whether somebody watches standard error.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Shows a download on a terminal.
#[derive(Debug)]
pub struct Terminal;

impl Watcher for Terminal {
    fn progress(&self, title: &str, progress: Progress) {
        if !is_watched() {
            return;
        }
        let mib = |bytes: u64| bytes / (1 << 20);
        let line = match progress.total {
            Some(total) if total > 0 => {
                format!(
                    "{title}: {} of {} MiB, {} %",
                    mib(progress.done),
                    mib(total),
                    progress.done * 100 / total
                )
            }
            _ => format!("{title}: {} MiB", mib(progress.done)),
        };
        let _ = write!(anstream::stderr(), "\r\x1b[K{line}");
        if progress.total == Some(progress.done) {
            let _ = writeln!(anstream::stderr());
        }
    }

    fn doing(&self, what: &str) {
        note(what);
    }
}
