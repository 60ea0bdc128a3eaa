//! Running programs: with input, with a deadline, with both outputs kept.
//!
//! Owns every process that the lab starts on the machine. Never leaves one
//! behind: what outlives its deadline is killed with its process group.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 + the signal number when a signal ended it.
    pub code: i32,
    /// Standard output, bytes that are no UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// True for exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Standard output without the white space around it; an error that shows
    /// both outputs when the exit code is not 0.
    ///
    /// # Errors
    /// The exit code is not 0.
    pub fn ok(self) -> Result<String> {
        if !self.success() {
            bail!("exit code {} from `{}`\n{}{}", self.code, self.command, self.stdout, self.stderr);
        }
        Ok(self.stdout.trim().to_owned())
    }
}

/// One program to run.
#[derive(Debug)]
pub struct Cmd {
    inner: Command,
    input: Vec<u8>,
    limit: Duration,
    shown: String,
}

impl Cmd {
    /// The program (first word) and its arguments; two minutes of time, no input.
    #[must_use]
    pub fn new<S: AsRef<str>>(argv: &[S]) -> Self {
        let words: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
        let mut inner = Command::new(words.first().copied().unwrap_or("false"));
        inner.args(words.iter().skip(1));
        Self { inner, input: Vec::new(), limit: Duration::from_mins(2), shown: words.join(" ") }
    }

    /// Bytes for standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// The time after which the program is killed and the run is an error.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// An environment variable on top of the inherited ones.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.inner.env(name, value);
        self
    }

    /// What messages call it instead of its whole command line.
    #[must_use]
    pub fn shown(mut self, text: &str) -> Self {
        text.clone_into(&mut self.shown);
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, or it takes longer than its limit.
    pub fn run(mut self) -> Result<Output> {
        let mut child = self
            .inner
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.shown))?;
        feed(&mut child, self.input);
        let out = Collector::start(child.stdout.take());
        let err = Collector::start(child.stderr.take());
        let status = wait(&mut child, self.limit)?;
        let (stdout, stderr) = (out.text(), err.text());
        let Some(status) = status else {
            bail!("`{}` takes longer than {:?}\n{stdout}{stderr}", self.shown, self.limit);
        };
        Ok(Output { command: self.shown, code: code(status), stdout, stderr })
    }
}

/// Runs a program and gives its output; see [`Cmd`] for input and limits.
///
/// # Errors
/// It cannot be started, takes longer than two minutes, or its exit code is not 0.
pub fn run<S: AsRef<str>>(argv: &[S]) -> Result<String> {
    Cmd::new(argv).run()?.ok()
}

/// True when `program` is on the search path.
#[must_use]
pub fn have(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| std::path::Path::new(dir).join(program).exists())
}

/// How long [`wait_until`] rests between two looks, at least and at most.
const REST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// Polls `cond` until it gives something: every 50 ms at first, and every 250 ms
/// from five seconds on. Each look inside a host costs processor time, which the
/// host that is waited for lacks then.
///
/// # Errors
/// Nothing came before `limit`; the message names `what`. An error of `cond` ends the wait.
pub fn wait_until<T>(limit: Duration, what: &str, mut cond: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = cond()? {
            return Ok(value);
        }
        let waited = began.elapsed();
        if waited > limit {
            bail!("not within {limit:?}: {what}");
        }
        std::thread::sleep((waited / 20).clamp(REST.0, REST.1));
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn feed(child: &mut Child, input: Vec<u8>) {
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input is its own affair.
        std::thread::spawn(move || pipe.write_all(&input).ok());
    }
}

/// `None` when the deadline passed; the whole process group is dead then.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            killpg(group, Signal::SIGKILL).ok();
            child.wait()?;
            return Ok(None);
        }
        go_on(group);
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Lets a program go on that stopped itself. A host that goes down stops all its
/// processes for a moment; nsenter sees that of the program that it brought in, stops
/// as well, as a shell's job would, and is then the one that never takes the ended
/// program away: the kernel waits for that before it lets the host's PID 1 end.
fn go_on(group: Pid) {
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
    if let Ok(WaitStatus::Stopped(..)) = waitid(Id::Pid(group), flags) {
        // An error means that it has ended.
        killpg(group, Signal::SIGCONT).ok();
    }
}

/// Reads a pipe beside the program. A grandchild may keep the pipe open long
/// after the program's end, so [`Collector::text`] waits for it only a moment.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut part = [0_u8; 65536];
            while let Ok(n @ 1..) = pipe.read(&mut part) {
                let mut all = sink.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend_from_slice(part.get(..n).unwrap_or_default());
            }
        });
        Self { bytes, thread }
    }

    fn text(self) -> String {
        let end = Instant::now() + Duration::from_millis(500);
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&all).into_owned()
    }
}
