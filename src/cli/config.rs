//! `fusebox config check | show | schema`.

use std::process::ExitCode;

use super::{Common, Done, Output, print, print_json, say, usable};
use crate::config::{Format, schema};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Reads the config as `run` would, and says everything that is wrong with it
    Check,
    /// The config as it is in effect, with where each value comes from; secrets are left out
    Show,
    /// The JSON Schema of the config
    Schema,
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    match args.action {
        Action::Check => {
            let loaded = common.load()?;
            usable(&loaded.config)?;
            for warning in &loaded.warnings {
                say(&format!("warning: {warning}"));
            }
            match common.output {
                Output::Json => print_json(&serde_json::json!({ "sound": true }))?,
                Output::Table => print("the config is sound\n")?,
            }
        }
        Action::Show => {
            let format = match common.output {
                Output::Table => Format::Toml,
                Output::Json => Format::Json,
            };
            print(&common.load()?.show(format))?;
        }
        Action::Schema => print_json(&schema())?,
    }
    Ok(ExitCode::SUCCESS)
}
