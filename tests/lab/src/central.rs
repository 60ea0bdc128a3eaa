//! The central service of a lab, on the bridge's address.
//!
//! Owns its process, its state directory and the calls of its command line.
//! Never looks into its database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::cmd::Output;
use crate::lab::Lab;
use crate::net::GATEWAY;
use crate::programs::{Profile, program};
use crate::service::Service;

/// The port on which hosts find it.
pub const PORT: u16 = 8443;

/// An `edge-central`, running or stopped; its state lies in the lab's directory.
#[derive(Debug)]
pub struct Central {
    lab: Lab,
    binary: PathBuf,
    state: PathBuf,
    service: Option<Service>,
}

impl Central {
    /// Builds the service if need be and starts it with an empty state.
    ///
    /// # Errors
    /// It does not compile, or does not listen within 20 s.
    pub fn start(lab: &Lab) -> Result<Self> {
        let binary = program("edge-central", Profile::Dev)?;
        let mut central = Self { lab: lab.clone(), binary, state: lab.dir().join("central"), service: None };
        std::fs::create_dir_all(&central.state)?;
        central.start_again()?;
        Ok(central)
    }

    /// Starts it on the state that it has.
    ///
    /// # Errors
    /// It does not listen within 20 s.
    pub fn start_again(&mut self) -> Result<()> {
        let listen = format!("{GATEWAY}:{PORT}");
        let mut argv = self.command();
        argv.extend(["serve".to_owned(), "--listen".to_owned(), listen]);
        let mut service = Service::start(&self.lab, "central", &argv)?;
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
        let mut argv = self.command();
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        self.lab.net().cmd(&argv).run()
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

    /// The program with the arguments that every call has.
    fn command(&self) -> Vec<String> {
        [&self.binary, Path::new("--state"), &self.state].map(|word| word.display().to_string()).to_vec()
    }
}
