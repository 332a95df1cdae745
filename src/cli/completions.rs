//! `fusebox completions SHELL`.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Done, Failure, print};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: Args) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fusebox", &mut script);
    print(&String::from_utf8(script).map_err(|error| Failure::Failed(error.into()))?)?;
    Ok(ExitCode::SUCCESS)
}
