//! Owns the agent's client load balancer on loopback: failover of raw TCP
//! between servers, and its state file (k3s:
//! pkg/agent/loadbalancer). It opens no TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;
use crate::{listen, log, paths, tls};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    #[serde(rename = "ServerURL")]
    server_url: String,
    server_addresses: Vec<String>,
}

/// The balancer.
#[derive(Debug)]
pub struct Balancer {
    file: PathBuf,
    url: String,
    fallback: String,
    learned: Mutex<Vec<String>>,
    active: Mutex<Option<String>>,
}

const DIAL: Duration = Duration::from_secs(2);

impl Balancer {
    /// Listens on loopback. Learned addresses count only if they were learned
    /// under the same `server` text.
    pub fn start(settings: &Settings) -> Result<Arc<Self>> {
        let file = settings.data.agent("etc/k3s-agent-load-balancer.json");
        let url = settings.server.clone().unwrap_or_default();
        let saved: Option<Saved> =
            std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let learned = saved.filter(|saved| saved.server_url == url);
        let balancer = Arc::new(Self {
            fallback: settings.server_address()?,
            learned: Mutex::new(learned.map(|saved| saved.server_addresses).unwrap_or_default()),
            active: Mutex::default(),
            file,
            url,
        });
        balancer.save()?;
        let address = format!("{}:{}", paths::loopback(), settings.lb_port());
        let listener = listen::bind(&address)?;
        log::info(&format!(
            "Running load balancer k3s-agent-load-balancer {address} -> {:?}",
            balancer.all()
        ));
        let accept = balancer.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let balancer = accept.clone();
                std::thread::spawn(move || balancer.carry(socket));
            }
        });
        Ok(balancer)
    }

    /// Takes over the servers that the cluster names now.
    pub fn learn(&self, addresses: Vec<String>) {
        let mut known = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.is_empty() || *known == addresses {
            return;
        }
        *known = addresses;
        drop(known);
        if let Err(error) = self.save() {
            log::warn(&format!("Failed to save load balancer state: {error:#}"));
        }
    }

    /// Plain write without rename, as k3s does it.
    fn save(&self) -> Result<()> {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let saved = Saved { server_url: self.url.clone(), server_addresses: learned };
        if let Some(parent) = self.file.parent() {
            crate::durable::make_dir(parent)?;
        }
        std::fs::write(&self.file, serde_json::to_vec_pretty(&saved)?)?;
        Ok(())
    }

    /// The active one first, then the learned ones, then the configured one.
    fn all(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.active.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        all.extend(self.learned.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        all.push(self.fallback.clone());
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|address| seen.insert(address.clone()));
        all
    }

    fn dial(&self) -> Option<TcpStream> {
        for address in self.all() {
            if let Ok(socket) = tls::connect(&address, DIAL) {
                *self.active.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                return Some(socket);
            }
        }
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = None;
        None
    }

    /// Without a backend the connection is simply closed.
    fn carry(&self, near: TcpStream) {
        let Some(far) = self.dial() else { return };
        let (Ok(near_back), Ok(far_back)) = (near.try_clone(), far.try_clone()) else { return };
        std::thread::spawn(move || copy(near, far));
        copy(far_back, near_back);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = [0_u8; 16 * 1024];
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0 || to.write_all(chunk.get(..count).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
