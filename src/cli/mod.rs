//! The command line: verbs, exit codes, and what people read.
//!
//! Owns argument parsing and printing. The only place that prints an error, as
//! one chain. Decides nothing about a host.

mod act;
mod adopt;
mod allow;
mod apply;
mod configure;
mod enrol;
pub mod facts;
mod gate;
mod identity;
mod output;
mod person;
mod plan;
mod reset;
pub mod status;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use tracing::Level;

use crate::boot::Agent;
use crate::error::Chain;
use crate::sys::Root;
use crate::{boot, daemon, logging};

/// Turns a bare host into a healthy k3s node, and brings it back after every power cut.
#[derive(Debug, Parser)]
#[command(name = "edge-bootstrap", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Put every path below DIR (tests, image builds)
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide_default_value = true,
        value_parser = directory)]
    root: String,
    /// Read FILE instead of /etc/edge-bootstrap/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The daemon; systemd runs it
    Run,
    /// One pass in the foreground: make this host what it shall be
    ///
    /// Exit: 0 converged, 1 failed, 75 waiting; it says for what.
    Apply,
    /// What a pass would change; changes nothing
    ///
    /// Exit: 0 nothing to change, 2 changes, 1 the host waits or there is an error.
    Plan(plan::PlanArgs),
    /// The check before a unit starts; and `allow`, for a person
    ///
    /// Exit: 0 go, 1 refuse. Every other end counts as "go" too.
    Gate(gate::GateArgs),
    /// Observe and report, change nothing, for a while
    Pause(person::PauseArgs),
    /// End a pause, and start again what a person stopped
    Resume,
    /// Leave the cluster; without --yes it only shows what that would do
    ///
    /// Exit: 0 shown or done, 1 refused or something is left.
    Reset(reset::ResetArgs),
    /// Take over a k3s that install.sh or a person put on this host; without --yes it only shows
    ///
    /// Exit: 0 nothing to take over or done, 1 refused, 2 shown, 75 done and not steady yet.
    Adopt(adopt::AdoptArgs),
    /// How this host is; exit 0 when steady
    Status,
    /// What was observed on this host
    Facts,
    /// Claim a place at the central service now, and write the configuration
    Enrol(enrol::EnrolArgs),
    /// Who this host is for good
    Identity {
        #[command(subcommand)]
        verb: identity::IdentityVerb,
    },
    /// Check or show the merged configuration
    Config {
        #[command(subcommand)]
        verb: configure::ConfigVerb,
    },
    /// One privileged act; systemd runs it for the daemon
    #[command(hide = true)]
    Act {
        #[command(subcommand)]
        verb: act::ActVerb,
    },
}

/// Exit code of a usage error (sysexits).
const USAGE: u8 = 64;

/// A mistyped DIR would else be taken for a host that has nothing.
fn directory(text: &str) -> Result<String, &'static str> {
    let there = Root::new(text).stat("/").ok().flatten();
    if there.is_some_and(|it| it.is_dir) { Ok(text.to_owned()) } else { Err("this is no directory") }
}

impl Common {
    fn root(&self) -> Root {
        Root::new(&self.root)
    }

    fn agent(&self) -> anyhow::Result<Agent> {
        Ok(Agent::new(self.root(), self.config.as_deref())?)
    }
}

/// Parses, runs, prints the error chain once, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = crate::sys::host::arguments();
    let cli = match Cli::try_parse_from(arguments).and_then(with_fitting_json) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    logging::begin(if matches!(cli.verb, Verb::Run) { Level::INFO } else { Level::WARN }, cli.common.verbose);
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::error(&Chain(error.as_ref()).to_string());
            ExitCode::from(code_of(&cli.verb, &error))
        }
    }
}

/// A verb that prints no JSON takes no `--json`: a script would read words as JSON.
fn with_fitting_json(cli: Cli) -> Result<Cli, clap::Error> {
    if cli.common.json && matches!(cli.verb, Verb::Run | Verb::Act { .. }) {
        let words = "this command prints no JSON; `edge-bootstrap status --json` tells how the host is\n";
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, words));
    }
    Ok(cli)
}

fn usage(error: &clap::Error) -> ExitCode {
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nothing can be said where not even this can be written.
    let _ = error.print();
    if help { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
}

/// 1, but where wrong settings have a code of their own.
fn code_of(verb: &Verb, error: &anyhow::Error) -> u8 {
    let setup = error.downcast_ref::<boot::SetupError>();
    let setup = setup.filter(|_| matches!(verb, Verb::Config { .. } | Verb::Run));
    setup.map_or(1, |error| error.kind().exit_code())
}

fn dispatch(cli: &Cli) -> anyhow::Result<u8> {
    let common = &cli.common;
    match &cli.verb {
        Verb::Gate(args) => gate::run(common, args),
        Verb::Status => status::run(common),
        Verb::Pause(args) => on_runtime(person::pause(common, args)),
        Verb::Config { verb } => configure::run(common, verb),
        Verb::Identity { verb } => identity::run(common, verb),
        Verb::Act { verb } => act::run(common, verb),
        Verb::Run => on_runtime(async {
            daemon::run(common.root(), common.config.clone()).await?;
            Ok(0)
        }),
        Verb::Apply => on_runtime(apply::run(common)),
        Verb::Plan(args) => on_runtime(plan::run(common, args)),
        Verb::Resume => on_runtime(person::resume(common)),
        Verb::Reset(args) => on_runtime(reset::run(common, args)),
        Verb::Adopt(args) => on_runtime(adopt::run(common, args)),
        Verb::Facts => on_runtime(facts::run(common)),
        Verb::Enrol(args) => on_runtime(enrol::run(common, args)),
    }
}

/// Runs on this thread alone. A name look-up that hangs must not hold up the end.
fn on_runtime(work: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// What clap says to a command line that it takes for a mistake.
    fn mistake(arguments: &[&str]) -> String {
        let line = [&["edge-bootstrap"], arguments].concat();
        let error = Cli::try_parse_from(line).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation, "{error}");
        error.to_string()
    }

    #[test]
    fn a_root_that_is_no_directory_is_a_mistake_and_no_empty_host() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        crate::sys::atomic::write(&crate::sys::Root::new(dir.path()), "/file", b"", 0o644).unwrap();
        let root = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        for path in [root(&file), root(&dir.path().join("typo")), String::new()] {
            let told = mistake(&["--root", &path, "plan"]);
            assert!(told.contains("'--root <DIR>': this is no directory"), "{told}");
        }
        Cli::try_parse_from(["edge-bootstrap", "--root", &root(dir.path()), "plan"]).unwrap();
    }

    #[test]
    fn a_duration_or_reason_that_is_none_is_a_mistake_of_who_typed_it() {
        for verb in [["pause"].as_slice(), &["gate", "allow", "--code", "EB-ip-absent"]] {
            let told = mistake(&[verb, &["--for", "2x", "--reason", "why"]].concat());
            assert!(told.contains("`2x` is not a duration such as"), "{told}");
            let told = mistake(&[verb, &["--for", "0s", "--reason", "why"]].concat());
            assert!(told.contains("'0s' for '--for <DURATION>'"), "{told}");
            mistake(&[verb, &["--for", "2h", "--reason", " "]].concat());
        }
        mistake(&["identity", "accept", "--reason", ""]);
    }

    #[test]
    fn json_is_taken_where_it_is_printed_and_is_a_mistake_elsewhere() {
        let parsed = |line: &str| {
            let cli = Cli::try_parse_from(["edge-bootstrap", "--json"].into_iter().chain(line.split(' ')));
            with_fitting_json(cli.unwrap()).map_err(|error| error.exit_code())
        };
        for line in ["run", "act set-clock --to 1"] {
            assert!(parsed(line).is_err(), "{line}");
            Cli::try_parse_from(["edge-bootstrap"].into_iter().chain(line.split(' '))).unwrap();
        }
        for line in [
            "plan",
            "apply",
            "enrol --central https://c --ca f",
            "gate --unit k3s.service",
            "reset --yes",
            "adopt --yes",
            "gate allow --code EB-x --for 1h --reason x",
            "gate revoke --code EB-x",
            "pause --for 1h --reason x",
            "resume",
            "reset",
            "adopt",
            "status",
            "facts",
            "identity show",
            "identity accept --reason x",
            "config check",
            "config show",
        ] {
            assert!(parsed(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_settings_have_a_code_of_their_own_only_where_they_are_asked_for() {
        let code = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["edge-bootstrap"], arguments].concat()).unwrap();
            let error = boot::SetupError::Exposed { path: String::new(), mode: 0o644 };
            code_of(&cli.verb, &error.into())
        };
        assert_eq!([code(&["config", "check"]), code(&["config", "show"]), code(&["run"])], [78; 3]);
        assert_eq!(
            [
                code(&["plan"]),
                code(&["apply"]),
                code(&["adopt"]),
                code(&["pause", "--for", "1h", "--reason", "x"])
            ],
            [1; 4]
        );
    }

    #[test]
    fn the_help_of_a_verb_names_its_exit_codes() {
        for (verb, codes) in [
            ("apply", "0 converged, 1 failed, 75 waiting"),
            ("plan", "0 nothing to change, 2 changes, 1 the host waits"),
            ("gate", "0 go, 1 refuse"),
            ("reset", "0 shown or done, 1 refused"),
            ("adopt", "0 nothing to take over or done, 1 refused, 2 shown, 75"),
        ] {
            let help = Cli::try_parse_from(["edge-bootstrap", verb, "--help"]).unwrap_err().to_string();
            assert!(help.contains(&format!("Exit: {codes}")), "{help}");
        }
    }
}
