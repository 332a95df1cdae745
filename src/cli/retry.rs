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
            // What was not looked through is an estimate.
            let about = if service["looked"]["exact"] == false { "~" } else { "" };
            [
                cell(&service["service"]),
                cell(&service["circuit_breaker_state"]),
                cell(&service["depth"]),
                format!("{about}{}", cell(&service["due"])),
                seconds(&service["oldest_seconds"]),
                rate(&service["parked_per_second"]),
                rate(&service["drained_per_second"]),
                gone_in(service),
                counts(&service["by_reason"], about),
                counts(&service["by_attempts"], about),
            ]
        })
        .collect();
    table(["SERVICE", "BREAKER", "DEPTH", "DUE", "OLDEST", "PARKED/S", "DRAINED/S", "GONE IN", "REASONS", "ATTEMPTS"], &rows)
}

/// When the backlog will be gone; if that cannot be said, why not.
fn gone_in(service: &Value) -> String {
    let why = || {
        let until = service["held_until"].as_str().map_or_else(String::new, |until| format!(" until {until}"));
        format!("{}{until}", cell(&service["time_to_drain_basis"]))
    };
    match (&service["time_to_drain_seconds"], service["time_to_drain_basis"].as_str()) {
        (Value::Null, _) => why(),
        (known, Some("circuit_open")) => format!("{} at the earliest, {}", seconds(known), why()),
        (known, _) => seconds(known),
    }
}

fn counts(counts: &Value, about: &str) -> String {
    let all: Vec<String> = counts.as_object().into_iter().flatten().map(|(what, count)| format!("{what} {about}{count}")).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn seconds(value: &Value) -> String {
    let whole = value.as_f64().and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds.round()).ok());
    whole.map_or_else(|| "-".to_owned(), |whole| humantime::format_duration(whole).to_string())
}

fn rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_said_has_its_reason() {
        for (seconds, basis, until, expected) in [
            (json!(90.4), json!("measured"), Value::Null, "1m 30s"),
            (json!(0.0), json!("empty"), Value::Null, "0s"),
            (Value::Null, json!("not_draining"), Value::Null, "not_draining"),
            (Value::Null, json!("circuit_open"), json!("2026-11-03T21:04:05Z"), "circuit_open until 2026-11-03T21:04:05Z"),
            (
                json!(30.0),
                json!("circuit_open"),
                json!("2026-11-03T21:04:05Z"),
                "30s at the earliest, circuit_open until 2026-11-03T21:04:05Z",
            ),
            (Value::Null, Value::Null, Value::Null, "-"),
        ] {
            let service = json!({ "time_to_drain_seconds": seconds, "time_to_drain_basis": basis, "held_until": until });
            assert_eq!(gone_in(&service), expected);
        }
        assert_eq!(counts(&json!({ "connect": 4, "timeout": 3 }), "~"), "connect ~4, timeout ~3");
        assert_eq!(counts(&json!({}), ""), "-");
    }
}
