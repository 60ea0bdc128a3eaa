//! The central service of a lab, on the bridge's address.
//!
//! Owns its process, its state directory and the calls of its command line.
//! Never looks into its database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cmd::Output;
use crate::lab::Lab;
use crate::net::GATEWAY;
use crate::programs::{K3s, Profile, program};
use crate::service::Service;

/// The port on which hosts find it.
pub const PORT: u16 = 8443;

/// How soon hosts count as steady.
const STEADY_SECONDS: &str = "8";

/// An `edge-central`, running or stopped; its state lies in the lab's directory.
#[derive(Debug)]
pub struct Central {
    lab: Lab,
    binary: PathBuf,
    state: PathBuf,
    service: Option<Service>,
    /// Seconds between two reports of a host, from the next start on. Two, because most
    /// laws wait for one; the service itself asks for one in 60.
    pub report_seconds: u32,
}

impl Central {
    /// Builds the service if need be and starts it with an empty state.
    ///
    /// # Errors
    /// It does not compile, or does not listen within 20 s.
    pub fn start(lab: &Lab) -> Result<Self> {
        let binary = program("edge-central", Profile::Dev)?;
        let state = lab.dir().join("central");
        std::fs::create_dir_all(&state)?;
        let mut central = Self { lab: lab.clone(), binary, state, service: None, report_seconds: 2 };
        central.start_again()?;
        Ok(central)
    }

    /// Starts it on the state that it has.
    ///
    /// # Errors
    /// It does not listen within 20 s.
    pub fn start_again(&mut self) -> Result<()> {
        let (gateway, listen) = (GATEWAY.to_string(), format!("{GATEWAY}:{PORT}"));
        let reports = self.report_seconds.to_string();
        let words = [
            "serve",
            "--listen",
            &listen,
            "--tls-san",
            &gateway,
            "--steady-seconds",
            STEADY_SECONDS,
            "--report-seconds",
            &reports,
        ];
        let mut service = Service::start(&self.lab, "central", &self.command(&words))?;
        service.wait_listening(PORT, Duration::from_secs(20))?;
        self.service = Some(service);
        Ok(())
    }

    /// Stops it in good order; the state stays.
    ///
    /// # Errors
    /// It does not end by itself.
    pub fn stop(&mut self) -> Result<()> {
        self.service.take().map_or(Ok(()), Service::stop)
    }

    /// Kills it; the state stays.
    pub fn kill(&mut self) {
        drop(self.service.take());
    }

    /// Runs a command of `edge-central` on this state, for example
    /// `["site", "list"]`; the exit code is part of the output.
    ///
    /// # Errors
    /// It cannot be started, or takes longer than two minutes.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        self.lab.net().cmd(&self.command(words)).run()
    }

    /// Offers a k3s to all sites and makes `site`, which runs it under the name `version`.
    ///
    /// # Errors
    /// The service refuses one of them.
    pub fn add_site(&self, site: &str, k3s: &K3s, version: &str) -> Result<()> {
        let file = k3s.path.display().to_string();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let artifact = ["artifact", "add", &file, "--name", "k3s", "--version", version, "--arch", arch];
        self.run(&artifact)?.ok().context("the service refuses the k3s")?;
        self.run(&["site", "add", site, "--k3s-version", version])?.ok()?;
        Ok(())
    }

    /// A token with which `uses` hosts of `site` may claim, as servers too if `server`.
    ///
    /// # Errors
    /// The service refuses it.
    pub fn token(&self, site: &str, uses: u32, server: bool) -> Result<String> {
        let uses = uses.to_string();
        let mut words = vec!["token", "create", "--site", site, "--uses", &uses, "--ttl", "72h"];
        if server {
            words.push("--allow-server");
        }
        self.run(&words)?.ok()
    }

    /// All nodes that it knows, each as its JSON shows it: `id`, `name`,
    /// `role`, `generation`, `code`, `reported` and more.
    ///
    /// # Errors
    /// The command fails or prints something else.
    pub fn nodes(&self) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&self.run(&["node", "list", "--json"])?.ok()?)?;
        let nodes = answer.get("nodes").and_then(Value::as_array);
        nodes.cloned().context("`node list --json` shows no nodes")
    }

    /// The pin of its key, as a host's configuration names it.
    ///
    /// # Errors
    /// The command fails or prints something else.
    pub fn pin(&self) -> Result<String> {
        let answer: Value = serde_json::from_str(&self.run(&["info", "--json"])?.ok()?)?;
        let pin = answer.get("pin").and_then(Value::as_str);
        pin.map(str::to_owned).context("`info --json` shows no pin")
    }

    /// The `[central]` part of a host's configuration, with the token's file.
    ///
    /// # Errors
    /// As [`Central::pin`].
    pub fn host_config(&self) -> Result<String> {
        Ok(format!(
            "[central]\nendpoints = [\"{}\"]\npins = [\"{}\"]\nenrol-token-file = \"{TOKEN_FILE}\"\n",
            self.url(),
            self.pin()?
        ))
    }

    /// Where hosts find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{GATEWAY}:{PORT}")
    }

    /// Its state directory on the machine: database, keys, its own CA.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its log on the machine, over all starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.lab.dir().join("central.log")
    }

    /// The program on this state, with more words.
    fn command(&self, words: &[&str]) -> Vec<String> {
        let state = self.state.display().to_string();
        let mut all = vec![self.binary.display().to_string(), "--data".to_owned(), state];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    }
}

/// Where a host finds its enrolment token (mode 0600).
pub const TOKEN_FILE: &str = "/etc/edge-bootstrap/enrol-token";
