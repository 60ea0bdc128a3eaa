//! A container registry on the bridge's side of the network: Debian's own
//! docker-registry, as origin (https) or as mirror (http).
//!
//! Owns the program, its storage and the images in it, and the ways in which a
//! mirror goes bad. Never installs it: an installed one would serve the machine.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cmd::{have, run};
use crate::lab::Lab;
use crate::root;
use crate::service::Service;

const START: Duration = Duration::from_secs(20);
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A registry of a lab; it runs until it is killed or dropped.
#[derive(Debug)]
pub struct Registry {
    lab: Lab,
    name: String,
    dir: PathBuf,
    address: Ipv4Addr,
    port: u16,
    service: Option<Service>,
}

impl Registry {
    /// A registry over plain http on an address of its own, as a mirror has it.
    ///
    /// # Errors
    /// The program cannot be had, or does not start.
    pub fn mirror(lab: &Lab, address: Ipv4Addr, port: u16) -> Result<Self> {
        lab.net().take(address)?;
        Self::start(lab, &format!("mirror-{port}"), (address, port), false)
    }

    /// A registry over https on an address of its own; hosts must trust
    /// [`Registry::certificate`].
    ///
    /// # Errors
    /// The program cannot be had, or does not start.
    pub fn origin(lab: &Lab, address: Ipv4Addr, port: u16) -> Result<Self> {
        lab.net().take(address)?;
        Self::start(lab, &format!("origin-{port}"), (address, port), true)
    }

    fn start(lab: &Lab, name: &str, (address, port): (Ipv4Addr, u16), tls: bool) -> Result<Self> {
        let dir = lab.dir().join(name);
        fs::create_dir_all(dir.join("storage"))?;
        if tls {
            certificate(&dir, address)?;
        }
        fs::write(dir.join("config.json"), configuration(&dir, address, port, tls).to_string())?;
        let mut registry =
            Self { lab: lab.clone(), name: name.to_owned(), dir, address, port, service: None };
        registry.on()?;
        Ok(registry)
    }

    /// Its address and port, as an image's name begins or a URL goes on.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Its own certificate, PEM.
    ///
    /// # Errors
    /// It has none.
    pub fn certificate(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("cert.pem"))?)
    }

    /// Starts the program.
    ///
    /// # Errors
    /// It does not listen.
    pub fn on(&mut self) -> Result<()> {
        let config = self.dir.join("config.json").display().to_string();
        let program = program()?.display().to_string();
        let mut service = Service::start(&self.lab, &self.name, &[&program, "serve", &config])?;
        service.wait_listening(self.port, START)?;
        self.service = Some(service);
        Ok(())
    }

    /// Kills the program: connections are refused.
    pub fn kill(&mut self) {
        self.service = None;
    }

    /// Stops the program without an end: connections are taken and never answered.
    ///
    /// # Errors
    /// It does not run.
    pub fn hang(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Ends [`Registry::hang`].
    ///
    /// # Errors
    /// It does not run.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let service = self.service.as_ref().context("the registry does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(service.pid())?), signal)?)
    }

    /// Takes its address off the network, as a host that is switched off.
    ///
    /// # Errors
    /// It is off already.
    pub fn power_off(&self) -> Result<()> {
        self.lab.net().leave(self.address)
    }

    /// Ends [`Registry::power_off`].
    ///
    /// # Errors
    /// It is on already.
    pub fn power_on(&self) -> Result<()> {
        self.lab.net().take(self.address)
    }

    /// Requests for a blob or a manifest of `image` that it answered so far.
    #[must_use]
    pub fn served(&self, image: &str) -> usize {
        let log = fs::read_to_string(self.lab.dir().join(format!("{}.log", self.name))).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("GET /v2/{image}/"))).count()
    }

    /// Puts an image of two layers into its storage. Equal names give equal
    /// bytes in every registry; no two names share a layer.
    ///
    /// # Errors
    /// The storage cannot be written.
    pub fn put(&self, image: &str) -> Result<()> {
        let layers = [layer(image, 1), layer(image, 2)];
        let config = serde_json::to_vec(&json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": {}, "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|layer| digest(layer))},
        }))?;
        let parts: Vec<Value> = layers
            .iter()
            .map(|layer| descriptor("application/vnd.docker.image.rootfs.diff.tar", layer))
            .collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": parts,
            "config": descriptor("application/vnd.docker.container.image.v1+json", &config),
        }))?;
        let repository = self.v2().join("repositories").join(image);
        for blob in layers.iter().chain([&config]) {
            self.blob(blob)?;
            link(&repository.join("_layers"), blob)?;
        }
        self.blob(&manifest)?;
        link(&repository.join("_manifests/revisions"), &manifest)?;
        let current = repository.join("_manifests/tags/1/current");
        fs::create_dir_all(&current)?;
        Ok(fs::write(current.join("link"), digest(&manifest))?)
    }

    /// Replaces a layer of an image by as many other bytes.
    ///
    /// # Errors
    /// It does not have the image.
    pub fn corrupt(&self, image: &str) -> Result<()> {
        let path = self.path(&layer(image, 2));
        let bytes = fs::read(&path).with_context(|| format!("there is no image {image}"))?;
        Ok(fs::write(path, vec![b'x'; bytes.len()])?)
    }

    /// Removes a layer of an image: asked for it, it answers 404.
    ///
    /// # Errors
    /// It does not have the image.
    pub fn lose(&self, image: &str) -> Result<()> {
        Ok(fs::remove_file(self.path(&layer(image, 2)))?)
    }

    fn v2(&self) -> PathBuf {
        self.dir.join("storage/docker/registry/v2")
    }

    fn path(&self, bytes: &[u8]) -> PathBuf {
        let sum = hex(bytes);
        self.v2().join("blobs/sha256").join(sum.get(..2).unwrap_or_default()).join(sum).join("data")
    }

    fn blob(&self, bytes: &[u8]) -> Result<()> {
        let path = self.path(bytes);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        Ok(fs::write(path, bytes)?)
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "size": bytes.len(), "digest": digest(bytes)})
}

fn link(directory: &Path, bytes: &[u8]) -> Result<()> {
    let place = directory.join("sha256").join(hex(bytes));
    fs::create_dir_all(&place)?;
    Ok(fs::write(place.join("link"), digest(bytes))?)
}

/// A tar archive of one file of 64 KiB (POSIX 1003.1, ustar).
fn layer(image: &str, number: u32) -> Vec<u8> {
    const SIZE: usize = 64 * 1024;
    let mut header = [0_u8; 512];
    let mut field = |at: usize, text: &str| {
        header.iter_mut().skip(at).zip(text.bytes()).for_each(|(to, from)| *to = from);
    };
    field(0, &format!("file-{number}"));
    field(100, "0000644\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{SIZE:011o}\0"));
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    header.iter_mut().skip(148).zip(text.bytes()).for_each(|(to, from)| *to = from);
    let line = format!("{image} layer {number}\n");
    let content = line.bytes().cycle().take(SIZE);
    header.into_iter().chain(content).chain([0; 1024]).collect()
}

fn configuration(dir: &Path, address: Ipv4Addr, port: u16, tls: bool) -> Value {
    let mut http = json!({"addr": format!("{address}:{port}")});
    if let Some(http) = http.as_object_mut().filter(|_| tls) {
        http.insert("tls".into(), json!({"certificate": dir.join("cert.pem"), "key": dir.join("key.pem")}));
    }
    json!({
        "version": "0.1", "log": {"level": "warn"}, "http": http,
        "storage": {"filesystem": {"rootdirectory": dir.join("storage")}},
    })
}

fn certificate(dir: &Path, address: Ipv4Addr) -> Result<()> {
    let (key, cert) = (dir.join("key.pem").display().to_string(), dir.join("cert.pem").display().to_string());
    let name = format!("subjectAltName=IP:{address}");
    run(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=edge-lab",
        "-addext",
        &name,
        "-keyout",
        &key,
        "-out",
        &cert,
    ])?;
    Ok(())
}

/// docker-registry, of the machine or unpacked from its package.
fn program() -> Result<PathBuf> {
    root::install_missing(&[("openssl", "openssl")])?;
    if have("docker-registry") {
        return Ok(PathBuf::from("docker-registry"));
    }
    Ok(root::unpacked("docker-registry")?.join("usr/bin/docker-registry"))
}
