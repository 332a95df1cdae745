//! `fusebox migrate`: what must exist before `run`.

use std::process::ExitCode;

use super::table::table;
use super::{Common, Done, Failure, Output, ask, print, print_json, say};
use crate::edge::kafka::TopicAdmin;
use crate::edge::migrations::{MigrateError, Migrations, Status, Step};
use crate::edge::redis::RedisLayout;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Says what would be done, and does nothing
    #[arg(long, conflicts_with = "status")]
    dry_run: bool,
    /// Says where each step stands; exit code 1 if one is not applied
    #[arg(long)]
    status: bool,
}

impl From<MigrateError> for Failure {
    fn from(error: MigrateError) -> Self {
        if error.is_unreachable() { Self::Unreachable(error.to_string()) } else { Self::Failed(error.into()) }
    }
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let config = common.load()?.config;
    let wrong = |error: &dyn std::error::Error| Failure::Wrong(error.to_string());
    // Its going joins a thread: it is dropped here, outside the runtime.
    let topics = TopicAdmin::connect(&config.kafka).map_err(|error| wrong(&error))?;
    let steps = ask(async {
        let layout = config.redis.as_ref().map(RedisLayout::open).transpose().map_err(|error| wrong(&error))?;
        let migrations = Migrations::new(&config, &topics, layout.as_ref())?;
        if args.dry_run || args.status {
            return Ok(migrations.plan().await?);
        }
        Ok(migrations.apply(|step| say(&format!("{}: {} is there now", step.id, step.title))).await?)
    })?;
    match common.output {
        Output::Json => print_json(&steps)?,
        Output::Table => print(&report(&steps, args.dry_run))?,
    }
    let sound = steps.iter().all(|step| step.status == Status::Applied);
    Ok(if args.status && !sound { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn report(steps: &[Step], dry_run: bool) -> String {
    let rows: Vec<_> = steps
        .iter()
        .map(|step| {
            let status = if dry_run && step.status == Status::Pending { "would be created".to_owned() } else { step.status.to_string() };
            [step.id.to_owned(), step.title.clone(), status]
        })
        .collect();
    table(["MIGRATION", "WHAT", "STATUS"], &rows)
}
