//! Owns the output format: one logrus line per message on stderr, as k3s
//! prints it, and the two ways to end the process with a message.
//! It never decides what is worth a message.

use std::time::SystemTime;

/// Prints `time="..." level=LEVEL msg="..."` to stderr.
pub fn line(level: &str, message: &str) {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    eprintln!("time=\"{now}\" level={level} msg={}", quoted(message));
}

/// Prints at level info.
pub fn info(message: &str) {
    line("info", message);
}

/// Prints at level warning.
pub fn warn(message: &str) {
    line("warning", message);
}

/// Prints at level error.
pub fn error(message: &str) {
    line("error", message);
}

/// Ends the process as k3s ends on an early error: level fatal, exit 1
/// (k3s: cmd/server/main.go).
pub fn fatal(message: &str) -> ! {
    line("fatal", message);
    std::process::exit(1)
}

/// Ends the process as k3s >= 1.34.1 ends on a failure at run time: the reason
/// is only in the log, the exit code is 0 (k3s: pkg/signals/signals.go).
pub fn shutdown(reason: &str) -> ! {
    error(&format!("Shutdown request received: {reason:?}"));
    std::process::exit(0)
}

/// Quotes as Go's %q does for the characters that occur in log messages.
fn quoted(message: &str) -> String {
    let body: String = message
        .chars()
        .map(|c| match c {
            '"' => "\\\"".into(),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            other => other.to_string(),
        })
        .collect();
    format!("\"{body}\"")
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_and_line_ends_are_escaped() {
        assert_eq!(quoted("a \"b\"\nc"), "\"a \\\"b\\\"\\nc\"");
    }
}
