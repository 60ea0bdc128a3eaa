//! The program: parse, run one verb, exit with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_bootstrap::cli::main()
}
