//! A stand-in for k3s in host tests where no real binary is given: it keeps
//! k3s's rules for configuration, start decisions, files, ports, messages and
//! readiness, and runs no pod. `k3s standin` says that it is one.
//!
//! For tests in one network namespace: `K3S_STANDIN_ROOT` prefixes
//! `/etc/rancher` and the default data directory, `K3S_STANDIN_LOOPBACK`
//! replaces 127.0.0.1. `K3S_STANDIN_SLOW` delays READY by seconds,
//! `K3S_STANDIN_VERSION` replaces the claimed version, `K3S_STANDIN_TRACE`
//! logs errors between members. A line behind the program in its file does the
//! same for good (`trailer`).
//!
//! Not imitated: pods and any controller, CNI, flannel, kube-proxy, the
//! embedded containerd (without `container-runtime-endpoint` the runtime
//! counts as ready), the CRI protocol (a connect counts), etcd's own port 2379
//! and file formats, S3, external datastores, `log`, what lies in `data/<hash>`,
//! kubeadm tokens, secrets encryption, what API objects other than Node mean,
//! watches, selectors, HTTP/2 and keep-alive.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test program of its own: the rule that only one module may touch files, processes, environment and clock protects the product"
)]

mod agent;
mod api;
mod cluster;
mod config;
mod decide;
mod deploy;
mod durable;
mod files;
mod flags;
mod http;
mod join;
mod kubectl;
mod lb;
mod listen;
mod log;
mod node;
mod notify;
mod objects;
mod paths;
mod pki;
mod register;
mod reset;
mod server;
mod settings;
mod snapshot;
mod store;
mod supervisor;
mod tls;
mod token;
mod trailer;
mod unpack;

use std::convert::Infallible;
use std::process::ExitCode;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

use crate::flags::Scope;
use crate::settings::Settings;

/// The commit that a real build would show, 8 hex.
const COMMIT: &str = "57a9d140";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    let called = arguments.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    if called == "kubectl" {
        arguments.insert(1, "kubectl".into());
    }
    let (verb, rest) = match arguments.get(1..) {
        Some([verb, rest @ ..]) => (verb.as_str(), rest),
        _ => ("", [].as_slice()),
    };
    match verb {
        "--version" | "-v" => print!("{}", version(&called)),
        "server" => run(Scope::Server, rest),
        "agent" => run(Scope::Agent, rest),
        "standin" => print!("{}", about()),
        "kubectl" => return command(kubectl::run(rest)),
        "etcd-snapshot" => return command(snapshot::run(rest)),
        other => {
            eprintln!(
                "stand-in: k3s {other} is not imitated; there are server, agent, kubectl, etcd-snapshot, \
                 standin, --version"
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The name is that of the file that was run (k3s: pkg/cli/cmds/root.go).
fn version(called: &str) -> String {
    format!("{called} version {} ({COMMIT})\ngo version go1.26.3\n", api::version())
}

/// What this is, and the settings of the last start.
fn about() -> String {
    let data = paths::DataDir::new(std::env::var("K3S_DATA_DIR").ok().as_deref());
    let record = std::fs::read_to_string(data.record()).unwrap_or_else(|_| "{}".into());
    format!("stand-in for k3s {}: runs no pods, for tests only\n{record}\n", api::version())
}

fn command(result: Result<String>) -> ExitCode {
    match result {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Scope, arguments: &[String]) -> ! {
    let Err(error) = end_on_signals().and_then(|()| start(role, arguments));
    match error.downcast_ref::<config::BadYaml>() {
        Some(bad) => log::fatal(&bad.to_string()),
        None => log::fatal(&format!("Error: {error:#}")),
    }
}

fn start(role: Scope, arguments: &[String]) -> Result<Infallible> {
    let values = config::load(role, arguments)?;
    for warning in &values.warnings {
        log::warn(warning);
    }
    let word = if role == Scope::Server { "" } else { " agent" };
    log::info(&format!("Starting k3s{word} {} ({COMMIT}) [stand-in]", api::version()));
    let settings = Settings::new(role, values)?;
    durable::make_dir(settings.data.path())?;
    unpack::unpack(settings.data.path())?;
    match role {
        Scope::Server => server::run(&settings),
        Scope::Agent | Scope::Both => agent::run(&settings),
    }
}

/// SIGTERM and SIGINT end with 0. Blocked before any thread starts, so that
/// only the waiting thread gets them.
fn end_on_signals() -> Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    std::thread::spawn(move || {
        if let Ok(signal) = set.wait() {
            log::info(&format!("Shutdown request received: \"received signal {signal}\""));
            std::process::exit(0);
        }
    });
    Ok(())
}
