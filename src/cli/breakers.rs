//! `fusebox breakers list | show | force | set | reset-settings | history`.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

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
    /// Changes a breaker's settings, for all instances
    #[command(after_help = "Keys and values are those of a service's `breaker` table in the config; null takes an optional key away.\n\
                            The change is made whole or not at all, and lasts until the next, or until `reset-settings`.")]
    Set {
        /// The service
        service: String,
        /// What to change, such as fail_max=10 or recovery_timeout=30s
        #[arg(required = true, value_name = "KEY=VALUE")]
        changes: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Takes a breaker's settings back to those of each instance's config
    ResetSettings {
        /// The service
        service: String,
        #[command(flatten)]
        change: Change,
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

#[derive(Debug, clap::Args)]
struct Change {
    /// Why, for those who find it like this
    #[arg(long)]
    reason: Option<String>,
    /// Only if this is still the last change of the settings: `settings_tag` of `show`
    #[arg(long, value_name = "TAG")]
    if_match: Option<String>,
}

pub(super) fn run(common: &Common, args: Args) -> Done {
    let client = args.instance.client(common)?;
    let base = "/api/v1/circuit-breakers";
    let changes = match &args.action {
        Action::Set { changes, change, .. } => wanted(changes, change.reason.as_deref())?,
        _ => Value::Null,
    };
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
            Action::Set { service, change, .. } => {
                client.patch(&format!("{base}/{}/settings", path_segment(service)), &changes, change.if_match.as_deref()).await?
            }
            Action::ResetSettings { service, change } => {
                let reason = change.reason.as_ref().map(|reason| format!("?reason={}", path_segment(reason))).unwrap_or_default();
                client.delete(&format!("{base}/{}/settings{reason}", path_segment(service)), change.if_match.as_deref()).await?
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
        (Output::Table, Action::Show { .. } | Action::Force { .. } | Action::Set { .. } | Action::ResetSettings { .. }) => show(&answer)?,
        (Output::Table, Action::History { .. }) => print(&history(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The body that asks for these changes. A value is read as the config's is; `null` takes a key away.
fn wanted(changes: &[String], reason: Option<&str>) -> Result<Value, Failure> {
    let mut body = Map::new();
    for change in changes {
        let Some((key, value)) = change.split_once('=') else {
            return Err(Failure::Wrong(format!("{change}: write KEY=VALUE, such as fail_max=10")));
        };
        if key == "reason" {
            return Err(Failure::Wrong("the reason is no setting: write --reason TEXT".to_owned()));
        }
        let value = if value == "null" {
            Value::Null
        } else {
            serde_json::to_value(super::read_as_toml(value)).map_err(|error| Failure::Wrong(format!("{change}: {error}")))?
        };
        body.insert(key.to_owned(), value);
    }
    if let Some(reason) = reason {
        body.insert("reason".to_owned(), reason.into());
    }
    Ok(body.into())
}

fn list<'a>(breakers: impl Iterator<Item = &'a Value>) -> String {
    let rows: Vec<_> = breakers
        .map(|breaker| {
            let lock = &breaker["lock"];
            let lock = if lock.is_null() { "-".to_owned() } else { format!("{}: {}", cell(&lock["actor"]), cell(&lock["reason"])) };
            [
                cell(&breaker["service"]),
                if breaker["fleet"]["alone"] == true { format!("{} (alone)", cell(&breaker["state"])) } else { cell(&breaker["state"]) },
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

/// What was weighed: how many calls failed, and how many instances saw it, or that one did alone.
fn evidence(entry: &Value) -> String {
    let of = |counts: &Value| match counts["calls"].as_u64() {
        None | Some(0) => "-".to_owned(),
        Some(calls) => format!("{} of {calls}", cell(&counts["failures"])),
    };
    match &entry["fleet"] {
        Value::Null if entry["alone"] == true => format!("{}, alone", of(&entry["counts"])),
        Value::Null => of(&entry["counts"]),
        fleet => format!("{}, {} instances", of(&fleet["counts"]), cell(&fleet["failing"])),
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
                evidence(entry),
                cell(&entry["generation"]),
                cell(&entry["instance"]),
                cell(&entry["actor"]),
                cell(&entry["reason"]),
            ]
        })
        .collect();
    let mut text = table(["AT", "FROM", "TO", "CAUSE", "FAILED", "GENERATION", "INSTANCE", "ACTOR", "REASON"], &rows);
    if let Some(next) = answer["next"].as_str() {
        text.push_str(&format!("more: --cursor {next}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_what_was_weighed() {
        let counts = |calls, failures| json!({ "calls": calls, "failures": failures });
        for (entry, expect) in [
            (json!({ "counts": counts(0, 0), "alone": false, "fleet": null }), "-"),
            (json!({ "counts": counts(7, 4), "alone": false, "fleet": null }), "4 of 7"),
            (json!({ "counts": counts(3, 3), "alone": true, "fleet": null }), "3 of 3, alone"),
            (
                json!({ "counts": counts(3, 3), "alone": false, "fleet": { "failing": 2, "counts": counts(40, 21) } }),
                "21 of 40, 2 instances",
            ),
            // Of an older instance.
            (json!({ "counts": counts(7, 4) }), "4 of 7"),
        ] {
            assert_eq!(evidence(&entry), expect);
        }
    }

    #[test]
    fn changes_are_read_as_the_config_is() {
        for (change, expect) in [
            ("fail_max=10", json!({ "fail_max": 10 })),
            ("jitter=0.2", json!({ "jitter": 0.2 })),
            ("recovery_timeout=30s", json!({ "recovery_timeout": "30s" })),
            ("recovery_timeout=\"30s\"", json!({ "recovery_timeout": "30s" })),
            ("half_open_timeout=null", json!({ "half_open_timeout": null })),
            ("trip=failures >= 3 && calls == 5", json!({ "trip": "failures >= 3 && calls == 5" })),
            ("any=[{ policy = \"consecutive\", fail_max = 2 }]", json!({ "any": [{ "policy": "consecutive", "fail_max": 2 }] })),
            ("policy=", json!({ "policy": "" })),
        ] {
            assert_eq!(wanted(&[change.to_owned()], None).expect("readable"), expect, "{change}");
        }
        let both = ["fail_max=10".to_owned(), "permits=2".to_owned()];
        assert_eq!(wanted(&both, Some("why")).expect("readable"), json!({ "fail_max": 10, "permits": 2, "reason": "why" }));
        for change in ["fail_max", "reason=why"] {
            assert!(matches!(wanted(&[change.to_owned()], None), Err(Failure::Wrong(_))), "{change}");
        }
    }
}
