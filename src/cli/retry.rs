//! `fusebox retry`: the backlog, and orders about it.

use std::process::ExitCode;

use serde_json::Value;

use super::client::Instance;
use super::table::{cell, table};
use super::{Common, Done, Output, ask, orders, parked, print, print_json, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    instance: Instance,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The backlog of each service, and when it will be gone
    Status,
    /// The parked calls themselves, oldest first
    List(Box<parked::List>),
    /// One parked call with its request, headers and results
    Show(parked::Show),
    #[command(flatten)]
    Order(Box<orders::Action>),
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let client = args.instance.client(common)?;
    let answer = ask(async {
        Ok(match &args.action {
            Action::Status => client.get("/api/v1/retry").await?,
            Action::List(list) => parked::list(&client, list).await?,
            Action::Show(show) => parked::show(&client, show).await?,
            Action::Order(order) => orders::ask(&client, order).await?,
        })
    })?;
    match (common.output, &args.action) {
        (Output::Json, _) => print_json(&answer)?,
        (Output::Table, Action::Status) => print(&status(&answer))?,
        (Output::Table, Action::List(_)) => {
            print(&parked::listed(&answer))?;
            if let Some(more) = parked::more(&answer) {
                say(&more);
            }
        }
        (Output::Table, Action::Show(_)) => print(&parked::shown(&answer))?,
        (Output::Table, Action::Order(order)) => print(&orders::told(order, &answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn status(answer: &Value) -> String {
    let services = answer["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = services
        .iter()
        .map(|service| {
            [
                cell(&service["service"]),
                cell(&service["circuit_breaker_state"]),
                cell(&service["depth"]),
                cell(&service["due"]),
                seconds(&service["oldest_seconds"]),
                rate(&service["parked_per_second"]),
                rate(&service["drained_per_second"]),
                seconds(&service["time_to_drain_seconds"]),
            ]
        })
        .collect();
    table(["SERVICE", "BREAKER", "DEPTH", "DUE", "OLDEST", "PARKED/S", "DRAINED/S", "GONE IN"], &rows)
}

fn seconds(value: &Value) -> String {
    let whole = value.as_f64().and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds.round()).ok());
    whole.map_or_else(|| "-".to_owned(), |whole| humantime::format_duration(whole).to_string())
}

fn rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}
