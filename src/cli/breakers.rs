//! `fusebox breakers list | show | force | history`.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::client::{Instance, path_segment};
use super::table::{cell, table};
use super::{Common, Done, Failure, Output, ask, print, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    instance: Instance,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Every breaker
    List,
    /// One breaker
    Show {
        /// The service
        service: String,
    },
    /// Puts a breaker into a state
    #[command(after_help = "forced_open, forced_closed and metrics_only are locks: they last until `auto`, or until --ttl is over.\n\
                            closed, open and half_open take a lock off, and the breaker goes on by itself from there.")]
    Force {
        /// The service
        service: String,
        /// The state
        #[arg(value_parser = PossibleValuesParser::new([
            "forced_open", "forced_closed", "metrics_only", "closed", "open", "half_open", "auto",
        ]))]
        state: String,
        /// Why, for those who find it like this
        #[arg(long)]
        reason: Option<String>,
        /// How long a lock lasts, such as 30m; without it, until it is released
        #[arg(long, value_name = "DURATION")]
        ttl: Option<String>,
    },
    /// A breaker's transitions, newest first
    History {
        /// The service
        service: String,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
        /// Where a page begins: `next` of the page before
        #[arg(long)]
        cursor: Option<String>,
    },
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let client = args.instance.client(common)?;
    let base = "/api/v1/circuit-breakers";
    let answer = ask(async {
        Ok(match &args.action {
            Action::List => client.get(&format!("{base}/health")).await?,
            Action::Show { service } => client.get(&format!("{base}/{}", path_segment(service))).await?,
            Action::Force { service, state, reason, ttl } => {
                let mut body = json!({ "state": state });
                for (key, value) in [("reason", reason), ("ttl", ttl)] {
                    if let Some(value) = value {
                        body[key] = json!(value);
                    }
                }
                client.post(&format!("{base}/{}/force-state", path_segment(service)), &body).await?
            }
            Action::History { service, limit, cursor } => {
                let cursor = cursor.as_ref().map(|cursor| format!("&cursor={}", path_segment(cursor))).unwrap_or_default();
                client.get(&format!("{base}/{}/history?limit={limit}{cursor}", path_segment(service))).await?
            }
        })
    })?;
    if matches!(args.action, Action::List) && !answer["circuit_breakers"].is_object() {
        return Err(Failure::Failed(anyhow::anyhow!("the answer names no circuit breakers; is this a Fusebox instance?")));
    }
    match (common.output, &args.action) {
        (Output::Json, _) => print_json(&answer)?,
        (Output::Table, Action::List) => print(&list(answer["circuit_breakers"].as_object().into_iter().flat_map(|all| all.values())))?,
        (Output::Table, Action::Show { .. } | Action::Force { .. }) => show(&answer)?,
        (Output::Table, Action::History { .. }) => print(&history(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list<'a>(breakers: impl Iterator<Item = &'a Value>) -> String {
    let rows: Vec<_> = breakers
        .map(|breaker| {
            let lock = &breaker["lock"];
            let lock = if lock.is_null() { "-".to_owned() } else { format!("{}: {}", cell(&lock["actor"]), cell(&lock["reason"])) };
            [
                cell(&breaker["service"]),
                cell(&breaker["state"]),
                cell(&breaker["since"]),
                cell(&breaker["retry_at"]),
                cell(&breaker["counts"]["consecutive_failures"]),
                cell(&breaker["generation"]),
                lock,
            ]
        })
        .collect();
    table(["SERVICE", "STATE", "SINCE", "RETRY AT", "FAILURES", "GENERATION", "LOCK"], &rows)
}

fn show(breaker: &Value) -> Result<(), Failure> {
    let mut rows = Vec::new();
    flatten("", breaker, &mut rows);
    print(&table(["FIELD", "VALUE"], &rows))
}

fn flatten(prefix: &str, value: &Value, rows: &mut Vec<[String; 2]>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, member, rows);
            }
        }
        other => rows.push([prefix.to_owned(), cell(other)]),
    }
}

fn history(answer: &Value) -> String {
    let entries = answer["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            [
                cell(&entry["at"]),
                cell(&entry["from"]),
                cell(&entry["to"]),
                cell(&entry["cause"]),
                cell(&entry["generation"]),
                cell(&entry["instance"]),
                cell(&entry["actor"]),
                cell(&entry["reason"]),
            ]
        })
        .collect();
    let mut text = table(["AT", "FROM", "TO", "CAUSE", "GENERATION", "INSTANCE", "ACTOR", "REASON"], &rows);
    if let Some(next) = answer["next"].as_str() {
        text.push_str(&format!("more: --cursor {next}\n"));
    }
    text
}
