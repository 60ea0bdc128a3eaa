//! The one spawner of processes.
//!
//! Owns a clean environment, a deadline and a limit on output. No shell, ever;
//! no secret may be passed as an argument.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// Largest output that is kept, in bytes.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// How often a program that is open for writing is tried, and the pause after each.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Where programs are looked for.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that could not be run to its end.
#[derive(Debug, Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {seconds} s and was killed")]
    Deadline {
        /// The program.
        program: String,
        /// The deadline in seconds.
        seconds: u64,
    },
}

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Whether there is a program of this name where programs are looked for.
#[must_use]
pub fn is_installed(root: &super::Root, program: &str) -> bool {
    PATH.split(':').any(|directory| root.exists(&format!("{directory}/{program}")))
}

/// Runs `program` with `args` and waits up to `deadline`.
///
/// # Errors
/// When it cannot be started or does not end in time. A code other than 0 is
/// not an error here: only the caller knows what it means.
pub async fn run(program: &str, args: &[&str], deadline: Duration) -> Result<Output, ExecError> {
    feed(program, args, "", deadline).await
}

/// As [`run`], with `input` on its standard input; none when that is empty.
///
/// # Errors
/// As [`run`].
pub async fn feed(
    program: &str,
    args: &[&str],
    input: &str,
    deadline: Duration,
) -> Result<Output, ExecError> {
    let start = |source| ExecError::Start { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = started(&mut command).await.map_err(start)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let pipes = async { tokio::join!(slurp(stdout), slurp(stderr), pour(stdin, input)) };
        let ((stdout, stderr, ()), status) = tokio::join!(pipes, child.wait());
        status.map(|status| Output { code: status.code(), stdout, stderr })
    };
    match tokio::time::timeout(deadline, work).await {
        Ok(output) => output.map_err(start),
        Err(_) => Err(ExecError::Deadline { program: program.to_owned(), seconds: deadline.as_secs() }),
    }
}

/// A program that was written a moment ago may still be open in a child that
/// another thread has forked and that has not become its own program yet.
async fn started(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            other => return other,
        }
    }
    command.spawn()
}

/// A program that does not read its input says so by its exit code.
async fn pour(pipe: Option<impl tokio::io::AsyncWrite + Unpin>, input: &str) {
    use tokio::io::AsyncWriteExt as _;
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(input.as_bytes()).await;
    }
}

async fn slurp(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // A broken pipe ends the output; the exit code tells the rest.
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_code_come_back() {
        let output =
            run("sh", &["-c", "echo out; echo err >&2; exit 7"], Duration::from_secs(5)).await.unwrap();
        assert_eq!(output, Output { code: Some(7), stdout: "out\n".into(), stderr: "err\n".into() });
    }

    #[tokio::test]
    async fn what_is_fed_is_read_to_its_end() {
        let output = feed("cat", &[], "a\nb\n", Duration::from_secs(5)).await.unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), "a\nb\n"));
        assert_eq!(run("cat", &[], Duration::from_secs(5)).await.unwrap().stdout, "");
    }

    #[tokio::test]
    async fn a_hanging_program_is_killed_at_its_deadline() {
        let error = run("sleep", &["60"], Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ExecError::Deadline { .. }));
    }

    #[tokio::test]
    async fn a_program_that_is_still_open_for_writing_is_tried_until_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "#!/bin/sh\necho ran\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let open = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let program = path.to_str().unwrap();
        let limit = Duration::from_secs(5);
        assert!(run(program, &[], limit).await.is_err(), "it stays open");
        let (ran, ()) = tokio::join!(run(program, &[], limit), async {
            tokio::time::sleep(BUSY_PAUSE * 3).await;
            drop(open);
        });
        assert_eq!(ran.unwrap().stdout, "ran\n");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = run("/no/such/program", &[], Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "start /no/such/program");
    }
}
