//! Commands inside a machine, by qemu's guest agent: no network, no login.
//!
//! Owns the protocol on the agent's socket. Output comes when a command ends,
//! not while it runs. Never leaves a half-read answer for the next command:
//! each opens the socket anew and resynchronises.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::cmd::{Output, wait_until};

/// A connection to an agent that has answered.
#[derive(Debug)]
pub(super) struct Agent {
    socket: UnixStream,
    /// What was read and not yet looked at.
    pending: Vec<u8>,
}

/// Every connection says another number, so that a late answer to an earlier one is known as such.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Agent {
    /// `None` while the agent does not answer: it is not up yet, or no more.
    pub(super) fn connect(path: &Path) -> Option<Self> {
        let socket = UnixStream::connect(path).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
        let mut agent = Self { socket, pending: Vec::new() };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        // 0xff makes the agent forget what an earlier client began to say; it may complain about it.
        agent.socket.write_all(b"\xff").ok()?;
        agent.send(&json!({"execute": "guest-sync-delimited", "arguments": {"id": id}})).ok()?;
        let end = Instant::now() + Duration::from_secs(2);
        while let Ok(answer) = agent.answer(end) {
            if answer.get("return").and_then(Value::as_u64) == Some(id) {
                return Some(agent);
            }
        }
        None
    }

    /// Runs a program as root with a clean environment.
    pub(super) fn exec(mut self, argv: &[&str], input: &[u8], limit: Duration) -> Result<Output> {
        let mut arguments = vec!["-i", "HOME=/root", "LANG=C.UTF-8", PATH];
        arguments.extend(argv);
        let pid = self.call(
            "guest-exec",
            &json!({"path": "/usr/bin/env", "arg": arguments, "capture-output": true, "input-data": STANDARD.encode(input)}),
        )?;
        let pid = pid.get("pid").cloned().unwrap_or_default();
        let command = argv.join(" ");
        let end = wait_until(limit, &format!("`{command}` ends"), || {
            let state = self.call("guest-exec-status", &json!({ "pid": pid }))?;
            Ok((state.get("exited") == Some(&Value::Bool(true))).then_some(state))
        })?;
        Ok(Output {
            command,
            code: code(&end),
            stdout: text(&end, "out-data")?,
            stderr: text(&end, "err-data")?,
        })
    }

    /// The content of a file, at most its first MiB; `None` when it cannot be read. Starts no
    /// program, so it costs an emulated machine next to nothing.
    pub(super) fn read(mut self, path: &str) -> Result<Option<String>> {
        let Ok(handle) = self.call("guest-file-open", &json!({"path": path, "mode": "r"})) else {
            return Ok(None);
        };
        let asked = json!({"handle": handle, "count": 1 << 20});
        // A control group that goes meanwhile can be opened and not read.
        let part = self.call("guest-file-read", &asked);
        self.call("guest-file-close", &json!({"handle": handle}))?;
        part.ok().map(|part| text(&part, "buf-b64")).transpose()
    }

    fn call(&mut self, verb: &str, arguments: &Value) -> Result<Value> {
        self.send(&json!({"execute": verb, "arguments": arguments}))?;
        let mut answer =
            self.answer(Instant::now() + Duration::from_mins(1)).context("the agent went away")?;
        if let Some(error) = answer.get("error") {
            bail!("the agent refuses {verb}: {error}");
        }
        Ok(answer.get_mut("return").map(Value::take).unwrap_or_default())
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        self.socket.write_all(format!("{message}\n").as_bytes())?;
        Ok(())
    }

    /// The next answer: a line, without the 0xff that may stand before it.
    fn answer(&mut self, end: Instant) -> Result<Value> {
        let mut part = vec![0_u8; 65536];
        while Instant::now() < end {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=at).collect();
                let json = line.rsplit(|byte| *byte == 0xff).next().unwrap_or_default();
                return Ok(serde_json::from_slice(json)?);
            }
            match self.socket.read(&mut part) {
                Ok(0) => bail!("end of file"),
                Ok(n) => self.pending.extend_from_slice(part.get(..n).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no answer")
    }
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn code(end: &Value) -> i32 {
    let number = |name: &str| end.get(name).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    number("exitcode").unwrap_or_else(|| 128 + number("signal").unwrap_or(0))
}

fn text(end: &Value, name: &str) -> Result<String> {
    let bytes = STANDARD.decode(end.get(name).and_then(Value::as_str).unwrap_or_default())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
