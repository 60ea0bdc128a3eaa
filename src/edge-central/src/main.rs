//! The program `edge-central`.

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use edge_central::cli::{self, Cli};
use tracing_subscriber::filter::LevelFilter;

/// Exit code of a usage error (sysexits.h, EX_USAGE).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no failure.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(LevelFilter::INFO)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(cli::run(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::print_failure(&error);
            ExitCode::FAILURE
        }
    }
}
