//! `fusebox token new`: a token for the API, and what the config keeps of it.

use std::fmt::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use serde_json::json;

use super::{Common, Done, Output, print, print_json};
use crate::edge::api::digest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Makes a token; it is shown once, and the config keeps its digest only
    New {
        /// Who is to hold it: the actor in the audit
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        name: String,
        /// What it allows
        #[arg(long, value_enum, default_value_t = Role::Operator)]
        role: Role,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Role {
    Viewer,
    Operator,
    Admin,
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let Action::New { name, role } = args.action;
    let token = generate();
    let sha256 = hexadecimal(&digest(&token));
    let role = match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    };
    match common.output {
        Output::Json => print_json(&json!({ "token": token, "name": name, "role": role, "sha256": sha256 }))?,
        Output::Table => {
            let name = toml::Value::from(name);
            print(&format!(
                "token (shown once): {token}\n\nfor the config:\n\n[[http.tokens]]\nname = {name}\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// 256 bits of chance.
pub(super) fn generate() -> String {
    let bytes: [u8; 32] = rand::random();
    format!("fbx_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
