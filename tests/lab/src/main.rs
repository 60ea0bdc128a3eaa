//! The lab by hand: builds what later runs take from the cache, and opens a
//! host to look around in, and runs the demo.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use edge_lab::{HostSpec, Lab, Suite, root, say};

const USAGE: &str = "usage: edge-lab prepare [SUITE...]   install missing programs, build base images (default: all)
       edge-lab demo                 three bare hosts become steady, before and after a power cut
       edge-lab bench                what the agent costs, beside the bars of its design
       edge-lab shell [SUITE]        boot a host and open a shell in it; it is gone afterwards (default: trixie)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["prepare", names @ ..] => prepare(names),
        ["demo"] => edge_lab::demo::run(),
        ["bench"] => edge_lab::bench::run(),
        ["shell"] => shell(Suite::Trixie),
        ["shell", name] => shell(suite(name)?),
        _ => bail!("{USAGE}"),
    }
}

fn prepare(names: &[&str]) -> Result<()> {
    root::prepare()?;
    let named: Vec<Suite> = names.iter().map(|name| suite(name)).collect::<Result<_>>()?;
    let wanted = if named.is_empty() { Suite::ALL.to_vec() } else { named };
    for suite in wanted {
        say(&format!("{}: {}", suite.name(), root::host_root(suite)?.display()));
    }
    Ok(())
}

fn shell(suite: Suite) -> Result<()> {
    let lab = Lab::open("shell")?;
    let host = lab.host(HostSpec::new("shell", suite))?;
    say(&format!("{} at {}: {}", suite.name(), host.address(), host.boot()?));
    let mut enter: Command = host.interactive(&["bash", "-i"])?;
    enter.status()?;
    Ok(())
}

fn suite(name: &str) -> Result<Suite> {
    match Suite::ALL.into_iter().find(|suite| suite.name() == name) {
        Some(suite) => Ok(suite),
        None => bail!("no suite `{name}`; there are bookworm, trixie and sid"),
    }
}
