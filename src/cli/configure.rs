//! `config check` and `config show`.

use clap::Subcommand;

use super::{Common, output};
use crate::boot::host;

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Say everything that is wrong; exit 78 when something is
    Check,
    /// Print the merged values and the file that each came from
    Show,
}

pub fn run(common: &Common, verb: &ConfigVerb) -> anyhow::Result<u8> {
    let configuration = host::configuration(&common.root(), common.config.as_deref())?;
    match verb {
        _ if common.json => output::json(&configuration.shown())?,
        ConfigVerb::Check => output::text("configuration is valid"),
        ConfigVerb::Show => output::text(&configuration.shown().to_string()),
    }
    Ok(0)
}
